"""The admin: executions to search, read, cancel and run again, and the workers.

To act takes the permission to change executions; only superusers delete, and only what has ended.
"""

import uuid
from collections.abc import Sequence
from typing import Any, ClassVar

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from main.again import run_again, run_again_from_failed_step
from main.execution_pages import (
    CREATED,
    WHOLE_FIELDS,
    ExecutionPages,
    FlowFilter,
    KindFilter,
    ReadOnlyAdmin,
    duration_text,
    moment,
    written,
)
from main.models import Entry, Execution, Step, WorkerBeat
from main.outside_ends import announce_outside_end
from main.workers import SILENCE

LAST_BEAT = moment("beat_at", gettext_lazy("last beat"))


@admin.register(Execution)
class ExecutionAdmin(ExecutionPages):
    actions = ("cancel_selected", "run_selected_again", "run_selected_from_failed_step")
    buttons: ClassVar[dict[str, str]] = {
        "cancel": "cancel_selected",
        "run-again": "run_selected_again",
        "run-from-failed-step": "run_selected_from_failed_step",
    }
    list_display = ("title", "state_and_worker", "started_by", CREATED, "lasted", "attempts")
    list_filter = ("state", FlowFilter, KindFilter, "created_at")

    def has_delete_permission(self, request: HttpRequest, obj: Execution | None = None) -> bool:
        return request.user.is_superuser and (obj is None or obj.is_final)

    # The page of one

    def get_urls(self) -> list[URLPattern]:
        whole = self.admin_site.admin_view(self.whole_view)
        route = "<uuid:execution_id>/whole/<slug:field>/"
        return [path(route, whole, name="main_execution_whole"), *super().get_urls()]

    def whole_view(self, request: HttpRequest, execution_id: uuid.UUID, field: str) -> HttpResponse:
        """The inputs or the result of an execution, all of it, as text."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if field not in WHOLE_FIELDS:
            raise Http404
        execution = get_object_or_404(Execution, id=execution_id)
        return HttpResponse(written(getattr(execution, field)), content_type="text/plain; charset=utf-8")

    # Act

    @admin.action(description=gettext_lazy("Cancel selected executions"), permissions=["operate"])
    def cancel_selected(self, request: HttpRequest, queryset: QuerySet[Execution]) -> None:
        self.do_to_each(
            request,
            queryset,
            _cancel,
            note=_("Cancelled."),
            done=lambda count: ngettext(
                "%(count)d execution was cancelled.", "%(count)d executions were cancelled.", count
            ),
            not_done=lambda count: ngettext(
                "%(count)d execution had ended already.", "%(count)d executions had ended already.", count
            ),
        )

    @admin.action(description=gettext_lazy("Run selected again"), permissions=["operate"])
    def run_selected_again(self, request: HttpRequest, queryset: QuerySet[Execution]) -> None:
        self.start_again(request, queryset, run_again)

    @admin.action(
        description=gettext_lazy("Run selected again from the failed step"), permissions=["operate"]
    )
    def run_selected_from_failed_step(self, request: HttpRequest, queryset: QuerySet[Execution]) -> None:
        self.start_again(request, queryset, run_again_from_failed_step)

    # Delete

    def get_deleted_objects(
        self, objs: Sequence[Execution] | QuerySet[Execution], request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        """Name the executions and count the rest: Django would list every entry of every one."""
        chosen = list(objs)
        counts = {
            _("executions"): len(chosen),
            _("steps"): Step.objects.filter(execution__in=chosen).count(),
            _("entries"): Entry.objects.filter(execution__in=chosen).count(),
        }
        unended = [str(each) for each in chosen if not each.is_final]
        allowed = self.has_delete_permission(request)
        return [str(each) for each in chosen], counts, set() if allowed else {_("execution")}, unended


def _cancel(execution: Execution) -> bool:
    cancelled = execution.cancel()
    if cancelled:
        announce_outside_end(execution)
    return cancelled


@admin.register(WorkerBeat)
class WorkerBeatAdmin(ReadOnlyAdmin):
    list_display = ("name", "kind", LAST_BEAT, "silent_for", "capacity", "stuck")
    list_display_links = None
    ordering = ("-beat_at", "name")

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return super().changelist_view(request, {"title": _("Workers"), **(extra_context or {})})

    def has_delete_permission(self, request: HttpRequest, obj: WorkerBeat | None = None) -> bool:
        return False

    @admin.display(description=gettext_lazy("seen"))
    def silent_for(self, beat: WorkerBeat) -> str:
        seconds = (timezone.now() - beat.beat_at).total_seconds()
        label = _("silent for %(duration)s") if seconds > SILENCE else _("%(duration)s ago")
        return label % {"duration": duration_text(max(seconds, 0))}
