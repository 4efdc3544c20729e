"""What `manage.py doctor` asks about mail."""

from django.conf import settings

from notifications.channels import channels
from notifications.models import Notification

# Seconds that are too many for a mail that is due to wait for a worker.
OVERDUE = 60


def mail() -> tuple[str, str]:
    """Say how mail goes out; and what to do where some waits because it does not, "" elsewhere."""
    if why := channels()["email"].why_unavailable():
        waiting = Notification.objects.filter(state=Notification.State.PENDING, channel="email").count()
        return (why, "") if not waiting else (f"{why} {waiting} do.", "Set EMAIL_URL, or EMAIL_SERVICE.")
    if overdue := Notification.count_overdue(OVERDUE):
        return f"{overdue} mails have waited over {OVERDUE} s.", "See the log of worker-notifications."
    if settings.EMAIL_SERVICE:
        return f"{settings.EMAIL_SERVICE}, from {settings.DEFAULT_FROM_EMAIL}.", ""
    if not settings.EMAIL_URL:
        return f"kept in {settings.MAIL_FOLDER}, for staff to read at {settings.PUBLIC_URL}/mailbox/", ""
    return f"{settings.EMAIL_HOST}:{settings.EMAIL_PORT}, from {settings.DEFAULT_FROM_EMAIL}.", ""
