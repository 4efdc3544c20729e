"""The doors to streams: what a request says about where it was and what it wants, for views and for tickets."""

import re
import uuid
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from functools import wraps
from typing import Any, Literal
from urllib.parse import parse_qsl

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.cookie import parse_cookie
from django.utils.translation import gettext as _

from main import sse
from main.access import checked_ticket, viewer_of
from main.api import Invalid, problem, safe_only
from main.events import EVENT_DATA, NO_EVENT, EventId
from main.models import Execution
from main.owned import NOTHING
from main.pump import HandOff, WatchExecution, WatchOwned

Shows = Literal["snapshots", "events"]

# The paths of the streams of one execution.
_EXECUTION = re.compile(r"/task-status/(?P<snapshots>[^/]+)/?|/api/v1/executions/(?P<events>[^/]+)/events/?")
# How a stream's path begins: to a browser every status but 200 is final, so passing trouble has to look like a stream.
PATHS = re.compile(rf"{_EXECUTION.pattern}|/api/v1/stream/?")
_NUMBER = r"\d{1,19}-\d{1,19}"


def stream(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Make a view of a stream: it is only read, and refuses in a sentence what it cannot understand."""

    @safe_only
    @wraps(view)
    def answered(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            answer = view(request, *args, **kwargs)
        except Invalid as error:
            return problem(400, str(error.detail), error.errors)
        if request.method == "HEAD" and isinstance(answer, HandOff):
            return HttpResponse(headers=sse.HEADERS)  # a stream would say nothing, and keep the connection
        return answer

    return answered


def watch_execution(request: HttpRequest, execution: Execution, *, shows: Shows) -> WatchExecution:
    """Return what a request asks to watch; raises Invalid."""
    return WatchExecution(
        str(execution.id),
        viewer_of(request, execution),
        shows,
        is_new=execution.awaits_its_beginning,
        seen=_seen(_last_event_id(request)) if shows == "events" else NO_EVENT,
        types=_types(request.GET.dict()) if shows == "events" else frozenset(),
    )


def watch_owned(request: HttpRequest, owners: Sequence[str]) -> WatchOwned:
    """Return what a request asks to watch of all that is somebody's; raises Invalid."""
    return WatchOwned(tuple(owners), viewer_of(request), _seen_of(len(owners), _last_event_id(request)))


def has_seen_the_end(request: HttpRequest) -> bool:
    return _last_event_id(request) == sse.END


def ticketed(scope: MutableMapping[str, Any]) -> WatchExecution | None:
    """Return what an ASGI request asks to watch that has a good ticket for it; None leaves it to its view."""
    if scope["method"] != "GET" or b"ticket=" not in scope["query_string"]:
        return None
    found = _EXECUTION.fullmatch(scope["path"])
    if not found or not found.lastgroup:
        return None
    shows: Shows = "events" if found.lastgroup == "events" else "snapshots"
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
    last = headers.get(b"last-event-id") or query.get("last_event_id", "")
    session = parse_cookie(headers.get(b"cookie", "")).get(settings.SESSION_COOKIE_NAME, "")
    try:
        execution_id = str(uuid.UUID(found[shows]))
        ticket = checked_ticket(query.get("ticket", ""), execution_id, session)
        if ticket is None or last == sse.END:
            return None
        seen, types = (_seen(last), _types(query)) if shows == "events" else (NO_EVENT, frozenset())
    except (ValueError, Invalid):
        return None
    return WatchExecution(
        execution_id, ticket.viewer, shows, is_new=ticket.is_new, seen=seen, types=types, by_ticket=True
    )


def _last_event_id(request: HttpRequest) -> str:
    """Return where a client was: by the header, or by the query for one that cannot send that."""
    return request.headers.get("Last-Event-ID") or request.GET.get("last_event_id", "")


def _seen(last: str) -> EventId:
    if last in ("", sse.END):
        return NO_EVENT
    if not re.fullmatch(_NUMBER, last):
        raise _invalid_id(last)
    return EventId.parse(last)


def _seen_of(owners: int, last: str) -> tuple[str, ...]:
    """Return by owner what was seen. An id that counted other owners, before a sign-in, says nothing of these."""
    parts = last.split(",") if last else []
    for part in parts:
        if part != NOTHING and not re.fullmatch(_NUMBER, part):
            raise _invalid_id(last)
    seen = tuple("" if part == NOTHING else part for part in parts)
    return seen if len(seen) == owners else ("",) * owners


def _invalid_id(last: str) -> Invalid:
    return Invalid(_("“%(id)s” is no id of an event of this stream.") % {"id": last[:100]})


def _types(query: Mapping[str, str]) -> frozenset[str]:
    asked = [each for each in query.get("types", "").split(",") if each]
    if unknown := [each for each in asked if each not in EVENT_DATA]:
        sentence = _("“%(name)s” is no type of event; there are: %(known)s.")
        raise Invalid(sentence % {"name": unknown[0][:100], "known": ", ".join(EVENT_DATA)})
    return frozenset(asked)
