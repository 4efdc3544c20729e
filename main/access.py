"""Who watches, and whether they still may. A stream outlives the request that was let in; a session may end under it.

A **ticket** proves for ten minutes that this session may watch this execution: whoever starts an execution or comes
back to one need not be asked who they are by all of Django again. It is worth nothing without the session's cookie,
and nothing once the session has ended: that alone is looked up.
"""

import hashlib
import hmac
import time
from collections.abc import Collection
from functools import cache
from typing import NamedTuple

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.core import signing
from django.db import connection
from django.http import HttpRequest
from rest_framework.request import Request

from main.models import Execution

# Seconds for which a ticket is good, and for which nobody is expected to have begun what was just started.
TICKET_AGE = 600
NEW_AGE = 5.0
SALT = "main.access.ticket"


class Viewer(NamedTuple):
    """Who watches: a session, as a user or as a visitor."""

    session: str
    user_id: str = ""
    mark: str = ""
    """What changes with the user's password, which ends all of their sessions."""
    as_staff: bool = False
    """Whether they see what is not their own."""

    @property
    def person(self) -> str:
        """Whose open streams are counted together: a user's over all sessions, or a session's."""
        return self.user_id or self.session

    @property
    def most_streams(self) -> int:
        return settings.MAX_STREAMS_PER_USER if self.user_id else settings.MAX_STREAMS_PER_VISITOR


class Ticket(NamedTuple):
    viewer: Viewer
    is_new: bool
    """Whether the execution was started with it a moment ago."""


def viewer_of(request: HttpRequest | Request, execution: Execution | None = None) -> Viewer:
    """Return who asks to watch something they may see."""
    session = request.session.session_key or ""
    user = request.user
    if not user.is_authenticated:
        return Viewer(session)
    own = execution is None or execution.owner_id == user.pk or _is_visitors(request, execution)
    return Viewer(session, str(user.pk), _mark(user), as_staff=not own)


def ticket_for(viewer: Viewer, execution: Execution) -> str:
    """Return a ticket to watch an execution, for `?ticket=`."""
    claims = [str(execution.id), _known_as(viewer.session), *viewer[1:], execution.awaits_its_beginning]
    return signing.dumps(claims, salt=SALT)


def checked_ticket(ticket: str, execution_id: str, session: str) -> Ticket | None:
    """Return what a ticket says; None for one that is forged, too old, another session's or another execution's."""
    try:
        said = signing.loads(ticket, salt=SALT, max_age=TICKET_AGE)
        asked, known_as, user_id, mark, as_staff, is_new = said
    except (signing.BadSignature, ValueError, TypeError):
        return None
    if asked != execution_id or not session or known_as != _known_as(session):
        return None
    return Ticket(Viewer(session, user_id, mark, as_staff), is_new and _age(ticket) < NEW_AGE)


def still_allowed(viewers: Collection[Viewer]) -> set[Viewer]:
    """Return who of them still has a session, and as a user still an account with that password."""
    sessions = _sessions({viewer.session for viewer in viewers})
    users = _users({viewer.user_id for viewer in viewers if viewer.user_id})
    return {viewer for viewer in viewers if viewer.session in sessions and _is_user(viewer, users)}


def _is_user(viewer: Viewer, users: dict[str, tuple[str, bool]]) -> bool:
    if not viewer.user_id:
        return True
    mark, is_staff = users.get(viewer.user_id, ("", False))
    return mark == viewer.mark and (is_staff or not viewer.as_staff)


def _sessions(keys: Collection[str]) -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT session_key FROM django_session WHERE session_key = ANY(%s) AND expire_date > now()",
            [list(keys)],
        )
        return {key for (key,) in cursor}


def _users(ids: Collection[str]) -> dict[str, tuple[str, bool]]:
    """Return of active users the mark, and whether they are staff."""
    if not ids:
        return {}
    users = get_user_model()._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT id::text, password, is_staff FROM {users} WHERE id = ANY(%s::uuid[]) AND is_active",  # noqa: S608
            [list(ids)],
        )
        return {id_: (_mark_of(password), is_staff) for id_, password, is_staff in cursor}


def _is_visitors(request: HttpRequest | Request, execution: Execution) -> bool:
    visitor = request.session.get("visitor")
    return visitor is not None and visitor == str(execution.visitor)


def _mark(user: AbstractBaseUser) -> str:
    return _mark_of(user.password)


def _mark_of(password: str) -> str:
    return hmac.digest(_key(), password.encode(), "sha256").hex()[:16]


def _known_as(session: str) -> str:
    """Return what a ticket calls a session: a script of the page can read it, and may not learn the cookie."""
    return hmac.digest(_key(), session.encode(), "sha256").hex()[:32]


@cache
def _key() -> bytes:
    return hashlib.sha256(f"{SALT} {settings.SECRET_KEY}".encode()).digest()


def _age(ticket: str) -> float:
    """Return how many seconds ago a valid ticket was made, to the second."""
    return time.time() - signing.b62_decode(ticket.rsplit(":", 2)[1])
