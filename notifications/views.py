"""The web side: ask to be told, what was told, preferences, unsubscribing, and the mailbox of development."""

from typing import Any

from csp.decorators import csp_replace
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from django.views.decorators.clickjacking import xframe_options_sameorigin
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.models import User
from main.api import Conflict, body_of, boolean_of, safe_only
from main.models import Execution
from main.views import visible
from notifications import mail_folder
from notifications.forms import PreferenceForm
from notifications.models import Notification, Preference
from notifications.unsubscribe import unsubscriber

# How many notifications of an execution are shown; it has one per channel and receiver.
MOST_SHOWN = 20

# Of an execution


class Notify(APIView):
    """`POST /api/v1/executions/<id>/notify` with `{"notify"}`: whether its owner is to be told when it ends."""

    def post(self, request: Request, execution_id: str) -> Response:
        execution = _own(request, execution_id)
        notify = boolean_of(body_of(request, "notify"), "notify")
        if notify and Preference.of(request.user).unsubscribed_at:
            raise Conflict(
                _("You have unsubscribed from mails. Allow them again in your notification settings.")
            )
        if not execution.ask_to_notify(notify):
            raise Conflict(_("The execution has ended already."))
        execution.notify = notify
        return Response(_told(request, execution))


class Notifications(APIView):
    """`GET /api/v1/executions/<id>/notifications`: what its owner was told of it, and every try to do so."""

    def get(self, request: Request, execution_id: str) -> Response:
        return Response(_told(request, visible(request, execution_id)))


class Seen(APIView):
    """`POST /api/v1/executions/<id>/seen`: its owner's page has shown the end, and need not be told of it."""

    def post(self, request: Request, execution_id: str) -> Response:
        execution = _own(request, execution_id)
        body_of(request)
        return Response({"withdrawn": Notification.note_watched(execution)})


def _own(request: Request, execution_id: str) -> Execution:
    execution = visible(request, execution_id)
    if not request.user.is_authenticated:
        raise PermissionDenied(_("Sign in to be told: mails go to the addresses of accounts alone."))
    if execution.owner_id != request.user.pk:
        raise PermissionDenied(_("Only who started an execution with an account is told of its end."))
    return execution


def _told(request: Request, execution: Execution) -> dict[str, Any]:
    """Return what there is to say of an execution's notifications. Times are ISO 8601, durations in seconds."""
    found = execution.notifications.select_related("user").prefetch_related(
        "deliveries", "digest__deliveries"
    )
    is_owner = request.user.is_authenticated and execution.owner_id == request.user.pk
    return {
        "notify": execution.notify,
        "is_owner": is_owner,
        "may_ask": is_owner and not execution.is_final and not Preference.of(request.user).unsubscribed_at,
        "notifications": [_described(each) for each in found.order_by("created_at")[:MOST_SHOWN]],
    }


def _described(notification: Notification) -> dict[str, Any]:
    sent = notification.digest or notification
    return {
        "channel": notification.channel,
        "to": notification.user.email,
        "reason": notification.reason,
        "state": sent.state,
        "in_digest": notification.digest is not None,
        "note": notification.note,
        "due_at": sent.due_at,
        "finished_at": sent.finished_at,
        "deliveries": [
            {"at": each.at, "outcome": each.outcome, "answer": each.answer, "seconds": each.seconds}
            for each in sent.deliveries.all()
        ],
    }


# Of a person


@login_required
def preferences(request: HttpRequest) -> HttpResponse:
    """`/notifications/`: when who is signed in is told without asking, and in which language."""
    preference = Preference.of(request.user)
    language = {"language": getattr(request.user, "language", "") or get_language()}
    form = PreferenceForm(request.POST or None, instance=preference, initial=language)
    if request.method == "POST" and form.is_valid():
        form.save()
        messages.success(request, _("Saved."))
        return redirect("preferences")
    return render(
        request, "notifications/preferences.html", {"form": form, "unsubscribed": preference.unsubscribed_at}
    )


@require_http_methods(["GET", "HEAD", "POST"])
@csrf_exempt  # a mail program posts it without having been here (RFC 8058); the token is the proof
def unsubscribe(request: HttpRequest, token: str) -> HttpResponse:
    """`/unsubscribe/<token>/`: a GET asks, a POST does it, without signing in."""
    user_id = unsubscriber(token)
    user = User.objects.filter(pk=user_id).first() if user_id else None
    if user is None:
        raise Http404(_("This link is not valid. It may have been cut off on its way."))
    if request.method == "POST":
        Preference.unsubscribe(user.pk)
    is_done = Preference.of(user).unsubscribed_at is not None
    return render(request, "notifications/unsubscribe.html", {"email": user.email, "is_done": is_done})


# The mailbox


@safe_only
def mailbox(request: HttpRequest) -> HttpResponse:
    """`/mailbox/`: the mails that a development server keeps instead of sending them."""
    _check_mailbox(request)
    return render(request, "notifications/mailbox.html", {"mails": mail_folder.newest()})


@safe_only
def mail(request: HttpRequest, name: str) -> HttpResponse:
    """`/mailbox/<name>/`: one of them."""
    return render(request, "notifications/mail.html", {"mail": _mail(request, name)})


@xframe_options_sameorigin
@csp_replace(
    {
        "default-src": ["'none'"],
        "style-src": ["'unsafe-inline'"],
        "frame-ancestors": ["'self'"],
        "form-action": ["'none'"],
        "sandbox": [
            "allow-popups",
            "allow-popups-to-escape-sandbox",
            "allow-top-navigation-by-user-activation",
        ],
    }
)
@safe_only
def mail_html(request: HttpRequest, name: str) -> HttpResponse:
    """`/mailbox/<name>/html/`: its HTML as a mail program shows it, in a frame: no script, nothing from elsewhere."""
    return HttpResponse(_mail(request, name).html)


def _mail(request: HttpRequest, name: str) -> mail_folder.Mail:
    _check_mailbox(request)
    found = mail_folder.read(name)
    if found is None:
        raise Http404(_("There is no such mail."))
    return found


def _check_mailbox(request: HttpRequest) -> None:
    if not mail_folder.is_used() or not getattr(request.user, "is_staff", False):
        raise Http404(_("There is nothing here."))
