"""The admin of who operates the platform: dead letters to requeue or drop, and the queues.

To look takes the permission to view executions, to act the one to change them.
"""

from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.db.models.fields.json import KT
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from main.again import requeue, run_again, run_again_from_failed_step
from main.execution_pages import (
    FINISHED,
    MAX_COUNT,
    ExecutionList,
    ExecutionPages,
    FlowFilter,
    KindFilter,
    ReadOnlyAdmin,
    duration_text,
)
from main.models import Execution
from main.queues import SHARES
from notifications.models import Notification
from ops import queues
from ops.dead_letters import with_answers
from ops.models import DeadLetter, Queue

# Of how many dead letters, the newest, the filter names the types of errors.
TYPES_OF = 1_000
# Characters of an error's sentence in the list.
MAX_SENTENCE_LENGTH = 160
# How many mails that could not be delivered are shown beside them.
MAILS_SHOWN = 20
# Which of the list of notifications these are: FAILED alone would name dropped ones as well.
DEAD_MAILS = "?state__exact=FAILED&settled_at__isnull=True"
MAY_SEND = "notifications.change_notification"


# Dead letters


class DeadLetterList(ExecutionList):
    """Those that nobody has settled. The page of one stays where it is when it is requeued or dropped."""

    heavy_fields: ClassVar[tuple[str, ...]] = ("inputs", "result", "usage")

    def get_queryset(self, *args: Any, **options: Any) -> QuerySet[Execution]:
        return super().get_queryset(*args, **options).filter(settled_at=None)


class ErrorFilter(admin.SimpleListFilter):
    """The types of the newest errors, not a DISTINCT over all of them."""

    title = gettext_lazy("error")
    parameter_name = "error"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        newest = Execution.dead_letters().annotate(error_type=KT("error__type")).values("error_type")
        types = {row["error_type"] for row in newest[:TYPES_OF]} | {self.value()}
        return [(each, each) for each in sorted(filter(None, types))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(error__type=self.value()) if self.value() else queryset


class FinishedFilter(admin.DateFieldListFilter):
    """As Django's, without "No date" and "Has date": whatever is here has ended."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.links = self.links[:-2]


@admin.register(DeadLetter)
class DeadLetterAdmin(ExecutionPages):
    actions = ("requeue_from_failed_step", "requeue_from_start", "drop")
    buttons: ClassVar[dict[str, str]] = {
        "requeue-from-failed-step": "requeue_from_failed_step",
        "requeue-from-start": "requeue_from_start",
        "drop": "drop",
    }
    list_display = ("title", "failed_with", "started_by", FINISHED, "attempts", "priority")
    list_filter = (FlowFilter, ErrorFilter, ("finished_at", FinishedFilter), KindFilter, "priority")
    ordering = ("-finished_at",)
    fieldsets: ClassVar[Any] = (
        (None, {"fields": ("flow_and_name", "failure", "fate", "started_by")}),
        *ExecutionPages.fieldsets[1:],
    )

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return DeadLetterList

    def get_queryset(self, request: HttpRequest) -> QuerySet[Execution]:
        return super().get_queryset(request).filter(state=Execution.State.FAILURE)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {"title": _("Dead letters"), **_undelivered(request), **(extra_context or {})}
        return super().changelist_view(request, context)

    @admin.display(description=gettext_lazy("error"))
    def failed_with(self, execution: Execution) -> SafeString:
        error: Any = execution.error
        sentence = Truncator(error["message"]).chars(MAX_SENTENCE_LENGTH)
        return format_html("{} <code>{}</code>", sentence, error["type"])

    @admin.display(description=gettext_lazy("what became of it"))
    def fate(self, execution: Execution) -> SafeString | str:
        if execution.settled_at is None:
            return _("It waits for a decision.")
        again = [(page_of(each), each.id) for each in execution.runs_again.only("id").order_by("created_at")]
        if not again:
            return _("It was dropped.")
        links = format_html_join(", ", '<a href="{}">{}</a>', again)
        return format_html("{} {}", _("It was run again as"), links)

    # Act

    @admin.action(description=gettext_lazy("Requeue from the failed step"), permissions=["operate"])
    def requeue_from_failed_step(self, request: HttpRequest, queryset: QuerySet[Execution]) -> None:
        self.start_again(request, queryset, lambda each: requeue(each, run_again_from_failed_step))

    @admin.action(description=gettext_lazy("Requeue from the start"), permissions=["operate"])
    def requeue_from_start(self, request: HttpRequest, queryset: QuerySet[Execution]) -> None:
        self.start_again(request, queryset, lambda each: requeue(each, run_again))

    @admin.action(description=gettext_lazy("Drop"), permissions=["operate"])
    def drop(self, request: HttpRequest, queryset: QuerySet[Execution]) -> None:
        self.do_to_each(
            request,
            queryset,
            Execution.settle,
            note=_("Dropped from the dead letters."),
            done=lambda count: ngettext(
                "%(count)d dead letter was dropped.", "%(count)d dead letters were dropped.", count
            ),
            not_done=lambda count: ngettext(
                "%(count)d was no dead letter any more.", "%(count)d were no dead letters any more.", count
            ),
        )


def _undelivered(request: HttpRequest) -> dict[str, Any]:
    """Return the dead letters that are mails, for who may see them: the newest, and how many there are."""
    pages = admin.site.get_model_admin(Notification)
    if not pages.has_view_permission(request):
        return {}
    found = Notification.dead_letters()
    newest = list(with_answers(found)[:MAILS_SHOWN])
    return {
        "mails": newest,
        "mail_count": len(newest) if len(newest) < MAILS_SHOWN else found[:MAX_COUNT].count(),
        "may_send": request.user.has_perm(MAY_SEND),
        "all_mails": reverse("admin:notifications_notification_changelist") + DEAD_MAILS,
    }


def page_of(execution: Execution) -> str:
    return reverse("admin:main_execution_change", args=[execution.id])


# Queues


@admin.register(Queue)
class QueueAdmin(ReadOnlyAdmin):
    """One page that sums up, and one that asks before it purges. There is no page of a row."""

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("main.view_execution") or self.has_operate_permission(request)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("main.change_execution")

    def get_urls(self) -> list[URLPattern]:
        guarded = self.admin_site.admin_view
        return [
            path("", guarded(self.changelist_view), name="ops_queue_changelist"),
            path("<str:name>/purge/", guarded(self.purge_view), name="ops_queue_purge"),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        context = {
            "title": _("Queues"),
            "rows": [shown(state) for state in queues.queue_states()],
            "kinds": queues.kind_states(),
            "can_operate": self.has_operate_permission(request),
        }
        return self._answer(request, "change_list", context)

    def purge_view(self, request: HttpRequest, name: str) -> HttpResponse:
        """Ask whether to purge a queue; purge it where the answer is posted."""
        if not self.has_operate_permission(request):
            raise PermissionDenied
        if name not in queues.QUEUES:
            raise Http404
        if request.method == "POST":
            self._purge(request, name)
            return redirect("admin:ops_queue_changelist")
        state = next(each for each in queues.queue_states() if each["name"] == name)
        return self._answer(request, "purge", {"title": _("Purge the queue?"), "queue": state})

    def _purge(self, request: HttpRequest, name: str) -> None:
        count = queues.purge(queues.QUEUES[name], by=request.user.pk)
        text = ngettext(
            "%(count)d execution that waited in %(name)s was cancelled.",
            "%(count)d executions that waited in %(name)s were cancelled.",
            count,
        )
        self.message_user(request, text % {"count": count, "name": name}, messages.SUCCESS)

    def _answer(self, request: HttpRequest, page: str, context: dict[str, Any]) -> HttpResponse:
        common = {**self.admin_site.each_context(request), "opts": self.opts}
        return TemplateResponse(request, f"admin/ops/queue/{page}.html", {**common, **context})


def shown(state: queues.QueueState) -> dict[str, Any]:
    """Return a queue as the page shows it, with times in words."""
    oldest = state["oldest_seconds"]
    return {
        **state,
        "shares": sum(SHARES.values()),
        "oldest": "" if oldest is None else duration_text(oldest),
        "limit": limit_text(state["waiting_limit"]),
    }


def limit_text(seconds: int) -> str:
    """Return whole days or hours."""
    days, rest = divmod(seconds, 24 * 3600)
    if rest:
        return _("%(hours)d h") % {"hours": seconds // 3600}
    return ngettext("%(count)d day", "%(count)d days", days) % {"count": days}
