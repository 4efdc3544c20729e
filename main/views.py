"""The web side: start, list, show, watch, cancel. Thin: the verbs are the models', the stream is the pump's."""

import re
import uuid
from functools import partial
from typing import Any

from django.db import connection
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.safestring import mark_safe
from django.utils.translation import gettext as _
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.vary import vary_on_headers
from rest_framework.exceptions import NotFound, PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from main import docs, sse
from main.access import ticket_for, viewer_of
from main.again import REFUSALS, Way, requested_way
from main.api import Conflict, Invalid, body_of, boolean_of, count_start, problem, safe_only, wants_page
from main.availability import why_unavailable
from main.channel import history, latest
from main.chat_models import describe_chat_model
from main.doors import has_seen_the_end, stream, watch_execution, watch_owned
from main.events import Snapshot, merge
from main.markdown import render_document, render_markdown
from main.middleware import database_away, is_database_away
from main.models import Entry, Execution
from main.once import Owner, owner_of, start_once
from main.outside_ends import announce_outside_end
from main.pump import RETRY, HandOff
from main.queues import Priority
from main.registry import FLOW_REGISTRY, Flow, InputError, UnknownFlowError, get_flow
from main.search import describe_search

# The header of what a start is answered: its body is the document's.
TICKET = "Watch-Ticket"
# How many of their executions the page and the list show.
LIST_LENGTH = 50
# What a watcher is let in by.
WATCHED = ("owner", "visitor", "state", "attempt", "effect_scope")


# Start


class StartTask(APIView):
    """`POST /start-task/` with `{"flow", "inputs", "priority", "notify"}`: store an execution and answer with its id.

    With an `Idempotency-Key`, the same request answers with the same id for a day.
    """

    def post(self, request: Request) -> Response:
        owner = owner_of(request)
        body = body_of(request, "flow", "inputs", "priority", "notify")
        execution = start_once(request, owner, body, partial(_start, request, owner, body))
        if owner.visitor:  # also where it was started before: that answer, and its cookie, may have been lost
            request._request.session["visitor"] = str(owner.visitor)
        return _started(request, execution)


def _started(request: Request, execution: Execution) -> Response:
    return Response({"task_id": str(execution.id)}, headers={TICKET: _ticket(request, execution)})


def _ticket(request: Request, execution: Execution) -> str:
    """Return what lets who asks watch an execution without being asked who they are."""
    if request.session.session_key is None:
        request._request.session.create()  # the middleware would make its key only after the answer
    return ticket_for(viewer_of(request, execution), execution)


def _start(request: Request, owner: Owner, body: dict[str, Any], **fields: Any) -> Execution:
    flow = _requested_flow(body)
    _check_open(request, flow)
    if reason := why_unavailable(flow):
        raise Conflict(reason)
    inputs, priority = _valid_inputs(flow, body), _priority(request, flow, body)
    fields["notify"] = _notify(request, body)
    count_start(request)
    return Execution.start(
        flow, inputs, owner_id=owner.user_id, visitor=owner.visitor, priority=priority, **fields
    )


def _check_open(request: Request, flow: Flow | None) -> None:
    if flow and not flow.public and not request.user.is_authenticated:
        raise PermissionDenied(
            _("“%(title)s” is not open to visitors. Sign in to run it.") % {"title": flow.title}
        )


def _priority(request: Request, flow: Flow, body: dict[str, Any]) -> str:
    """Return the priority that was asked for, or the flow's own. Visitors may only ask for less."""
    priority = body.get("priority")
    if priority is None:
        return flow.priority
    if priority not in Priority.values:
        sentence = _("“priority” is one of high, normal and low.")
        raise Invalid(sentence, {"priority": [sentence]})
    known = Priority.values
    if not request.user.is_authenticated and known.index(priority) < known.index(flow.priority):
        raise PermissionDenied(_("Sign in to start with a higher priority."))
    return str(priority)


def _notify(request: Request, body: dict[str, Any]) -> bool:
    """Return whether who asks wants to be told of the end. A visitor has no address that is known to be theirs."""
    if "notify" not in body or not boolean_of(body, "notify"):
        return False
    if not request.user.is_authenticated:
        raise PermissionDenied(
            _("Sign in to be told when it ends: mails go to the addresses of accounts alone.")
        )
    return True


def _requested_flow(body: dict[str, Any]) -> Flow:
    name = body.get("flow")
    if name is None:
        raise Invalid(_("The field “flow” is missing."), {"flow": [_("Name the flow to run.")]})
    if not isinstance(name, str):
        raise Invalid(
            _("The field “flow” is not a string."), {"flow": [_("The name of a flow is a string.")]}
        )
    try:
        return get_flow(name)
    except UnknownFlowError as error:
        raise Invalid(str(error), {"flow": [str(error)]}) from None


def _valid_inputs(flow: Flow, body: dict[str, Any]) -> dict[str, Any]:
    inputs = body.get("inputs", {})
    if not isinstance(inputs, dict):
        raise Invalid(
            _("The field “inputs” is not an object."),
            {"inputs": [_("Inputs are an object of names and values.")]},
        )
    try:
        return flow.validate(inputs)
    except InputError as error:
        raise Invalid(str(error), error.errors) from None


# Whose executions


def visible_executions(request: HttpRequest | Request) -> QuerySet[Execution]:
    """Staff see all; a user their own and their session's; a visitor their session's."""
    user, visitor = request.user, request.session.get("visitor")
    if user.is_authenticated and user.is_staff:
        return Execution.objects.all()
    owned = Q(owner=user) if user.is_authenticated else Q()
    if visitor:
        owned |= Q(visitor=visitor)
    return Execution.objects.filter(owned) if owned else Execution.objects.none()


def own_executions(request: HttpRequest | Request) -> QuerySet[Execution]:
    """Return what the asking person started, also for staff; the newest first."""
    owned = Q(visitor=request.session["visitor"]) if "visitor" in request.session else Q(pk=None)
    if request.user.is_authenticated:
        owned |= Q(owner=request.user)
    return Execution.objects.filter(owned)


def visible(request: HttpRequest | Request, execution_id: str, *fields: str) -> Execution:
    """Return an execution the asking person may see; one that is not there and one of others are both a 404.

    `fields` are those that are read at once.
    """
    try:
        found = visible_executions(request).only(*fields).get(id=uuid.UUID(execution_id))
    except (ValueError, Execution.DoesNotExist):
        raise Http404(_("There is no such execution.")) from None
    return found


# List and show


class Flows(APIView):
    """`GET /flows/`: what can be run, with the JSON Schema of the inputs."""

    def get(self, request: Request) -> Response:
        return Response({"flows": describe_flows(), **_describe_stand_ins()})


def describe_flows() -> list[dict[str, Any]]:
    return [
        {
            "name": flow.name,
            "title": flow.title,
            "description": flow.description,
            "kind": flow.kind,
            "public": flow.public,
            "schema": flow.schema,
            "available": not (reason := why_unavailable(flow)),
            "reason": reason,
        }
        for flow in sorted(FLOW_REGISTRY.values(), key=lambda flow: flow.title)
    ]


def _describe_stand_ins() -> dict[str, Any]:
    return {"chat_model": describe_chat_model()._asdict(), "search": describe_search()._asdict()}


class Executions(APIView):
    """`GET /executions/`: what the asking person started, the newest first."""

    def get(self, request: Request) -> Response:
        return Response({"executions": summaries(own_executions(request))})


def summaries(executions: QuerySet[Execution]) -> list[dict[str, Any]]:
    """Return the first of them in a few fields each, without their results, which may be large."""
    found = list(executions.defer("result", "usage")[:LIST_LENGTH])
    live = latest([str(each.id) for each in found if not each.is_final])
    return [summary(each, live.get(str(each.id))) for each in found]


def summary(execution: Execution, live: Snapshot | None) -> dict[str, Any]:
    """Return an execution in a few fields. Times are ISO 8601, the duration in seconds."""
    return {
        "id": str(execution.id),
        "flow": execution.flow,
        "title": execution.title,
        "inputs": _in_order(execution),
        "state": execution.contract_state,
        "priority": execution.priority,
        "origin": str(execution.origin_id) if execution.origin_id else None,
        "status": live.status if live else execution.get_state_display(),
        "progress": live.progress if live else 100 * (execution.state == "SUCCESS"),
        "created_at": execution.created_at,
        "started_at": execution.started_at,
        "finished_at": execution.finished_at,
        "duration": execution.duration,
        "error": execution.error,
    }


def _in_order(execution: Execution) -> dict[str, Any]:
    """Return the inputs as the flow declares them; PostgreSQL keeps them in an order of its own."""
    flow = FLOW_REGISTRY.get(execution.flow)
    declared = [name for name in flow.inputs if name in execution.inputs] if flow else []
    return {name: execution.inputs[name] for name in dict.fromkeys([*declared, *execution.inputs])}


@safe_only
@vary_on_headers("Accept")
@ensure_csrf_cookie
def execution_page(request: HttpRequest, execution_id: str) -> HttpResponse:
    """`GET /executions/<id>/`: the live page, or JSON where that is what is accepted."""
    if request.get_preferred_type(["text/html", "application/json"]) == "application/json":
        return ExecutionDetail.as_view()(request, execution_id=execution_id)
    return _page(request, visible(request, execution_id))


class ExecutionDetail(APIView):
    def get(self, request: Request, execution_id: str) -> Response:
        execution = visible(request, execution_id)
        snapshot = snapshot_of(execution)
        return Response(
            {
                **summary(execution, None if execution.is_final else snapshot),
                "progress": snapshot.progress,
                "attempt": execution.attempt,
                "ticket": _ticket(request, execution),
                "chat_model": execution.chat_model,
                "usage": execution.usage,
                "details": {**snapshot.public()["details"], **_whole_result(execution)},
            }
        )


def snapshot_of(execution: Execution) -> Snapshot:
    """Return the newest snapshot: what PostgreSQL knows, and while it runs what Redis knows more."""
    live = history(str(execution.id)) if not execution.is_final else None
    return merge(live, execution.snapshot()) if live else execution.snapshot()


def _whole_result(execution: Execution) -> dict[str, Any]:
    return {"final_result": execution.result} if execution.state == Execution.State.SUCCESS else {}


class EntryDetail(APIView):
    """`GET /api/v1/executions/<id>/entry?step=&n=`: a tool result that was too large to be sent along."""

    def get(self, request: Request, execution_id: str) -> Response:
        execution = visible(request, execution_id)
        step, number = request.query_params.get("step", ""), request.query_params.get("n", "")
        if not re.fullmatch("[0-9]{1,9}", number) or "\x00" in step:
            raise NotFound(_("There is no such entry."))
        entry = Entry.objects.filter(execution=execution, step=step, n=int(number)).first()
        if entry is None:
            raise NotFound(_("There is no such entry."))
        return Response(entry.data)


@safe_only
def answer(request: HttpRequest, execution_id: str) -> HttpResponse:
    """`GET /executions/<id>/answer/`: the result as safe HTML, for the page to put in."""
    execution = visible(request, execution_id)
    if execution.state != Execution.State.SUCCESS or not isinstance(execution.result, str):
        raise Http404(_("There is no answer in words."))
    return HttpResponse(render_markdown(execution.result))


# Watch and cancel


@stream
def task_status(request: HttpRequest, execution_id: str) -> HttpResponse:
    """`GET /task-status/<id>/`: the stream of snapshots."""
    execution = visible(request, execution_id, *WATCHED)
    if not execution.is_final:
        return HandOff(watch_execution(request, execution, shows="snapshots"))
    if has_seen_the_end(request):
        return HttpResponse(status=204)
    last = sse.retry(RETRY) + sse.snapshot_message(execution.snapshot())
    return HttpResponse(last, headers=sse.HEADERS)


@stream
def events(request: HttpRequest, execution_id: str) -> HttpResponse:
    """`GET /api/v1/executions/<id>/events`: the stream of events, from where the client was."""
    execution = visible(request, execution_id, *WATCHED)
    if execution.is_final and has_seen_the_end(request):
        return HttpResponse(status=204)
    return HandOff(watch_execution(request, execution, shows="events"))


@stream
def own_stream(request: HttpRequest) -> HttpResponse:
    """`GET /api/v1/stream`: what happens to all executions of who asks."""
    user, visitor = request.user, request.session.get("visitor")
    owners = ([str(user.pk)] if user.is_authenticated else []) + ([visitor] if visitor else [])
    if not owners:
        raise Http404(_("Nothing of yours can be watched yet. Start an execution, or sign in."))
    return HandOff(watch_owned(request, owners))


class Cancel(APIView):
    """`POST /api/v1/executions/<id>/cancel`: end it."""

    def post(self, request: Request, execution_id: str) -> Response:
        execution = visible(request, execution_id)
        if not execution.cancel():
            raise Conflict(_("The execution has ended already."))
        announce_outside_end(execution)
        return Response(summary(execution, None))


class RunAgain(APIView):
    """`POST /api/v1/executions/<id>/run-again` with `{"from": "start" | "failed_step"}`: start it once more."""

    def post(self, request: Request, execution_id: str) -> Response:
        execution = visible(request, execution_id)
        body = body_of(request, "from")
        way = requested_way(body)
        _check_open(request, FLOW_REGISTRY.get(execution.flow))
        owner = Owner(execution.owner_id, execution.visitor)
        try:
            started = start_once(
                request, owner, [execution_id, body], partial(self._run_again, request, way, execution)
            )
        except REFUSALS as error:
            raise Conflict(str(error)) from None
        return _started(request, started)

    def _run_again(self, request: Request, way: Way, execution: Execution, **fields: Any) -> Execution:
        count_start(request)
        return way(execution, **fields)


# Pages


@safe_only
@ensure_csrf_cookie
def home(request: HttpRequest) -> HttpResponse:
    return _page(request, None)


def _page(request: HttpRequest, execution: Execution | None) -> HttpResponse:
    executions = summaries(own_executions(request))
    if execution and str(execution.id) not in {each["id"] for each in executions}:
        executions = summaries(Execution.objects.filter(id=execution.id)) + executions
    data = {
        "flows": describe_flows(),
        **_describe_stand_ins(),
        "executions": executions,
        "execution_id": str(execution.id) if execution else None,
    }
    return render(request, "main/index.html", {"data": data, **data})


@safe_only
def document(request: HttpRequest, name: str = "readme") -> HttpResponse:
    """`GET /docs/<name>/`: a page of the project's own documentation, the README without a name."""
    page = docs.page(name)
    if page is None:
        raise Http404(_("There is no such page."))
    html = mark_safe(render_document(page.markdown))  # noqa: S308 it is sanitised there
    context = {"page": page, "html": html, "pages": docs.pages()}
    return render(request, "main/document.html", context)


@safe_only
def health(request: HttpRequest) -> HttpResponse:
    """`GET /health/`: 200 while this server reaches its database; the outermost middleware answers otherwise."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return HttpResponse("ok", content_type="text/plain")


# What is not there


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    # Where no path matched, Django's exception holds the paths that it tried, which are nobody's business.
    sentence = exception.args[0] if exception.args and isinstance(exception.args[0], str) else ""
    return _said(request, 404, sentence[:500] or _("There is nothing here."))


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _said(request, 403, _("You may not do that."))


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return problem(400, _("The request is not valid."))


def server_error(request: HttpRequest) -> HttpResponse:
    if is_database_away():
        return database_away(request)
    return _said(request, 500, _("Something went wrong on the server. It has been logged."))


def _said(request: HttpRequest, status: int, sentence: str) -> HttpResponse:
    """Return an error as a page to who asks for one, as a problem to everybody else."""
    if wants_page(request):
        return render(request, f"{status}.html", status=status)
    return problem(status, sentence)
