"""Notifications in the admin: what was sent to whom, every try, and "send again".

To look takes the permission to view notifications, to act the one to change them. Nothing can be edited.
"""

from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from main.execution_pages import EMPTY, ActingAdmin, BoundedPaginator, moment
from notifications.channels import channels
from notifications.models import Delivery, Notification

CREATED = moment("created_at", gettext_lazy("created"))
DUE = moment("due_at", gettext_lazy("due"))
AT = moment("at", gettext_lazy("when"))
FINISHED = moment("finished_at", gettext_lazy("finished"))


class DeliveryInline(admin.TabularInline):  # type: ignore[type-arg]  # not subscriptable at run time
    model = Delivery
    readonly_fields: ClassVar[Any] = ("attempt", AT, "outcome", "answer", "lasted")
    fields = readonly_fields
    extra = 0
    can_delete = False
    verbose_name_plural = gettext_lazy("tries")

    @admin.display(description=gettext_lazy("seconds"))
    def lasted(self, delivery: Delivery) -> str:
        return f"{delivery.seconds:.2f}"

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return True  # who sees the notification


class ChannelFilter(admin.SimpleListFilter):
    """The channels in the code, not a DISTINCT over all rows."""

    title = gettext_lazy("channel")
    parameter_name = "channel"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in sorted({*channels(), *filter(None, [self.value()])})]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(channel=self.value()) if self.value() else queryset


@admin.register(Notification)
class NotificationAdmin(ActingAdmin):
    actions = ("send_again", "drop")
    buttons: ClassVar[dict[str, str]] = {"send-again": "send_again", "drop": "drop"}
    list_display = ("about", "to", "reason", "state", CREATED, FINISHED, "attempt")
    list_filter = ("state", ChannelFilter, "reason", "event", "created_at")
    list_select_related = ("user", "execution")
    paginator = BoundedPaginator
    search_fields = ("user__email", "=execution__id", "=id")
    search_help_text = gettext_lazy("A receiver’s address, or the id of an execution.")
    inlines = (DeliveryInline,)
    view_on_site = False
    fieldsets: ClassVar[Any] = (
        (None, {"fields": ("about", "to", "channel", "reason", "state", "note", "message")}),
        (gettext_lazy("Times"), {"fields": ((CREATED, DUE, FINISHED, "attempt"),)}),
    )
    readonly_fields: ClassVar[Any] = ("about", "to", "message", CREATED, DUE, FINISHED)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("notifications.change_notification")

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("notifications.view_notification") or self.has_operate_permission(
            request
        )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Notification]:
        heavy = (f"execution__{name}" for name in ("inputs", "result", "error", "usage"))
        found: QuerySet[Notification] = super().get_queryset(request)
        # Counted for the rows that are shown: a join would be counted for all of them first.
        members = Notification.objects.filter(digest=OuterRef("pk")).order_by().values("digest")
        count = Subquery(members.annotate(count=Count("pk")).values("count"))
        return found.defer(*heavy).annotate(member_count=count)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        context["can_operate"] = self.has_operate_permission(request)
        return super().render_change_form(request, context, *args, **kwargs)

    @admin.display(description=gettext_lazy("about"))
    def about(self, notification: Any) -> str:
        if notification.execution is None:
            count = notification.member_count or 0
            return ngettext("%(count)d execution", "%(count)d executions", count) % {"count": count}
        return format_html(
            "{} <code>{}</code>", notification.execution.title, str(notification.execution_id)[:8]
        )

    @admin.display(description=gettext_lazy("receiver"), ordering="user__email")
    def to(self, notification: Notification) -> str:
        return notification.user.email or EMPTY

    @admin.display(description="Message-ID")
    def message(self, notification: Notification) -> str:
        return notification.message_id

    @admin.action(description=gettext_lazy("Send again"), permissions=["operate"])
    def send_again(self, request: HttpRequest, queryset: QuerySet[Notification]) -> None:
        self.do_to_each(
            request,
            queryset,
            Notification.send_again,
            note=_("Sent again."),
            done=lambda count: ngettext("%(count)d is sent again.", "%(count)d are sent again.", count),
            not_done=lambda count: ngettext(
                "%(count)d was not sent again: it waits, is being sent, or is in a digest.",
                "%(count)d were not sent again: they wait, are being sent, or are in a digest.",
                count,
            ),
        )

    @admin.action(description=gettext_lazy("Drop from the dead letters"), permissions=["operate"])
    def drop(self, request: HttpRequest, queryset: QuerySet[Notification]) -> None:
        self.do_to_each(
            request,
            queryset,
            Notification.settle,
            note=_("Dropped from the dead letters."),
            done=lambda count: ngettext("%(count)d was dropped.", "%(count)d were dropped.", count),
            not_done=lambda count: ngettext(
                "%(count)d was no dead letter any more.", "%(count)d were no dead letters any more.", count
            ),
        )
