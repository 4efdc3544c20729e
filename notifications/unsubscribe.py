"""The signed link by which a receiver ends mails without signing in. It never expires: old mails are read as well."""

import uuid

from django.conf import settings
from django.core import signing
from django.urls import reverse

SALT = "notifications.unsubscribe"


def unsubscribe_address(user_id: uuid.UUID) -> str:
    token = signing.Signer(salt=SALT).sign(str(user_id))
    return settings.PUBLIC_URL + reverse("unsubscribe", args=[token])


def unsubscriber(token: str) -> uuid.UUID | None:
    """Return who a link is for; None for one that nobody signed."""
    try:
        return uuid.UUID(signing.Signer(salt=SALT).unsign(token))
    except (signing.BadSignature, ValueError):
        return None
