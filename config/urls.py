"""Every path works with and without the slash at its end, so that a POST is never redirected."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.contrib.auth.views import LogoutView
from django.urls import URLPattern, path
from django.views.generic import RedirectView
from django.views.i18n import JavaScriptCatalog

from accounts.views import SignIn
from main import schema_views, views
from notifications import views as notifications
from ops import views as ops


def both(route: str, view: Callable[..., Any], name: str) -> list[URLPattern]:
    """Return the paths with and without the slash; the name gives the one that is written here."""
    other = route.removesuffix("/") if route.endswith("/") else f"{route}/"
    return [path(other, view), path(route, view, name=name)]


admin.autodiscover()

urlpatterns = [
    path("", views.home, name="home"),
    *both("start-task/", views.StartTask.as_view(), "start_task"),
    *both("task-status/<str:execution_id>/", views.task_status, "task_status"),
    *both("flows/", views.Flows.as_view(), "flows"),
    *both("executions/", views.Executions.as_view(), "executions"),
    *both("executions/<str:execution_id>/", views.execution_page, "execution"),
    *both("executions/<str:execution_id>/answer/", views.answer, "answer"),
    *both("api/v1/stream", views.own_stream, "stream"),
    *both("api/v1/executions/<str:execution_id>/events", views.events, "events"),
    *both("api/v1/executions/<str:execution_id>/cancel", views.Cancel.as_view(), "cancel"),
    *both("api/v1/executions/<str:execution_id>/run-again", views.RunAgain.as_view(), "run_again"),
    *both("api/v1/executions/<str:execution_id>/entry", views.EntryDetail.as_view(), "entry"),
    *both("api/v1/executions/<str:execution_id>/notify", notifications.Notify.as_view(), "notify"),
    *both(
        "api/v1/executions/<str:execution_id>/notifications",
        notifications.Notifications.as_view(),
        "notifications",
    ),
    *both("api/v1/executions/<str:execution_id>/seen", notifications.Seen.as_view(), "seen"),
    *both("notifications/", notifications.preferences, "preferences"),
    *both("unsubscribe/<str:token>/", notifications.unsubscribe, "unsubscribe"),
    *both("mailbox/", notifications.mailbox, "mailbox"),
    *both("mailbox/<str:name>/", notifications.mail, "mail"),
    *both("mailbox/<str:name>/html/", notifications.mail_html, "mail_html"),
    *both("api/v1/events/schema", schema_views.event_schemas, "event_schemas"),
    *both("api/v1/ops/queues", ops.Queues.as_view(), "queues"),
    *both("api/v1/ops/queues/<str:name>/purge", ops.Purge.as_view(), "purge"),
    *both("api/v1/ops/dead-letters", ops.DeadLetters.as_view(), "dead_letters"),
    *both("api/v1/ops/dead-letters/requeue", ops.RequeueMany.as_view(), "requeue_many"),
    *both("api/v1/ops/dead-letters/drop", ops.DropMany.as_view(), "drop_many"),
    *both("api/v1/ops/dead-letters/<str:letter_id>/requeue", ops.Requeue.as_view(), "requeue"),
    *both("api/v1/ops/dead-letters/<str:letter_id>/drop", ops.Drop.as_view(), "drop"),
    *both("docs/", views.document, "documents"),
    *both("docs/<slug:name>/", views.document, "document"),
    *both("health/", views.health, "health"),
    *both("jsi18n/", JavaScriptCatalog.as_view(), "javascript_catalog"),
    *both("sign-in/", SignIn.as_view(), "sign_in"),
    *both("sign-out/", LogoutView.as_view(), "sign_out"),
    path("admin", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/", admin.site.urls),
]

handler400 = "main.views.bad_request"
handler403 = "main.views.permission_denied"
handler404 = "main.views.page_not_found"
handler500 = "main.views.server_error"
