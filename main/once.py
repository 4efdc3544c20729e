"""`Idempotency-Key`: a request that comes again starts nothing again."""

import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from django.conf import settings
from django.db import IntegrityError
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext as _
from rest_framework.request import Request

from main.api import Conflict, Invalid
from main.models import Execution, KeyReusedError
from main.values import fingerprint

# Characters of an Idempotency-Key.
MAX_KEY_LENGTH = 255


class Owner(NamedTuple):
    """Whose executions they are: a user's, a visitor's, or (of what nobody started) nobody's."""

    user_id: uuid.UUID | None
    visitor: uuid.UUID | None


def start_once(request: Request, owner: Owner, asked: Any, start: Callable[..., Execution]) -> Execution:
    """Return what `start` starts with the fields it is given, or what the same request started within a day.

    `asked` is what the request asks for, as JSON. Raises Invalid for a key that cannot be, Conflict for one that came
    with another request, and what `start` raises.
    """
    key = idempotency_key(request)
    if not key:
        return start()
    request_hash = fingerprint(asked)
    found = _started_before(owner, key, request_hash)
    if found:
        return found
    try:
        return start(idempotency_key=key, request_hash=request_hash)
    except IntegrityError:
        if found := _started_before(owner, key, request_hash):  # by a request at the same moment
            return found
        raise


def idempotency_key(request: Request) -> str:
    key: str | None = request.headers.get("Idempotency-Key")
    if key is None:
        return ""
    if not 0 < len(key) <= MAX_KEY_LENGTH or not (key.isascii() and key.isprintable()):
        raise Invalid(
            _("The Idempotency-Key has to be 1 to %(most)d printable ASCII characters.")
            % {"most": MAX_KEY_LENGTH}
        )
    return key


def owner_of(request: Request) -> Owner:
    """Return who asks. A visitor is a random id in the session, made on the first start.

    With a key that id comes from the key and the CSRF cookie: where the first answer was lost, with the session's
    cookie in it, the same request is known again all the same.
    """
    if request.user.is_authenticated:
        return Owner(request.user.pk, None)
    if visitor := request._request.session.get("visitor"):
        return Owner(None, uuid.UUID(visitor))
    key = idempotency_key(request)
    if not key:
        return Owner(None, uuid.uuid4())
    said = f"{request.COOKIES.get(settings.CSRF_COOKIE_NAME, '')} {key}"
    digest = salted_hmac("visitor", said, algorithm="sha256").digest()
    return Owner(None, uuid.UUID(bytes=digest[:16], version=4))


def _started_before(owner: Owner, key: str, request_hash: str) -> Execution | None:
    try:
        return Execution.started_with(owner.user_id, owner.visitor, key, request_hash)
    except KeyReusedError:
        raise Conflict(
            _("This Idempotency-Key came with another request before. Every request needs a key of its own.")
        ) from None
