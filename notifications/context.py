"""What every page knows of notifications: nothing is read unless a template asks."""

from typing import Any

from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from notifications import mail_folder
from notifications.models import Preference


def told(request: HttpRequest) -> dict[str, Any]:
    """Return `preference`, of who is signed in, and `has_mailbox`, whether mails are kept for staff to read here."""
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return {}
    return {
        "preference": SimpleLazyObject(lambda: Preference.of(user)),
        "has_mailbox": user.is_staff and mail_folder.is_used(),
    }
