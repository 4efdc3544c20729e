from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class NotificationsConfig(AppConfig):
    name = "notifications"
    verbose_name = _("Notifications")

    def ready(self) -> None:
        from main import bells, endings
        from notifications.models import QUEUE, TASK
        from notifications.outbox import note_ends

        endings.on_end(note_ends)
        bells.answer_with(TASK, QUEUE)
