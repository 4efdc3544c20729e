"""Who may hold a stream, how many of them, and for how long."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from django.conf import settings
from django.contrib.sessions.models import Session

from accounts.models import User
from config.tests.waiting import wait_until
from main import access
from main.access import Viewer, checked_ticket, ticket_for
from main.doors import ticketed
from main.models import Execution
from main.tests.people import alice, sign_in
from main.tests.platform import Platform, Visitor
from main.tests.streams import Message, messages

__all__ = ["alice"]

DOORS = ["/task-status/{}/", "/api/v1/executions/{}/events", "/api/v1/stream"]


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[str]:
    """The folder of a gate, which opens with the end of the test."""
    yield str(tmp_path)
    (tmp_path / "open").touch()


def ends(stream: Iterator[Message]) -> list[dict[str, str]]:
    """Return the last message of a stream, which has to end by itself."""
    return [message.fields for message in stream][-1:]


# How long


def sign_out(visitor: Visitor, user: User) -> None:
    assert visitor.post("/sign-out/").status_code == 302


def lose_session(visitor: Visitor, user: User) -> None:
    Session.objects.filter(session_key=visitor.cookies[settings.SESSION_COOKIE_NAME]).delete()


def change_password(visitor: Visitor, user: User) -> None:
    user.set_password("another horse battery")
    user.save()


def close_account(visitor: Visitor, user: User) -> None:
    User.objects.filter(pk=user.pk).update(is_active=False)


@pytest.mark.parametrize("end_access", [sign_out, lose_session, change_password, close_account])
@pytest.mark.parametrize("door", DOORS)
def test_a_stream_ends_with_the_access(
    visitor: Visitor, alice: User, gate: str, door: str, end_access: Callable[[Visitor, User], None]
) -> None:
    sign_in(visitor, alice)
    task_id = visitor.start("gate_flow", folder=gate)
    with visitor.stream("GET", door.format(task_id)) as response:
        stream = messages(response)
        next(stream)
        end_access(visitor, alice)
        began = time.monotonic()
        [last] = ends(stream)
    assert set(last) == {"retry"}
    assert time.monotonic() - began < 5 + 1  # and a second for a busy machine
    assert visitor.get(door.format(task_id)).status_code == 404


@pytest.mark.parametrize("door", DOORS)
def test_a_visitors_stream_ends_with_the_session(visitor: Visitor, gate: str, door: str) -> None:
    task_id = visitor.start("gate_flow", folder=gate)
    with visitor.stream("GET", door.format(task_id)) as response:
        stream = messages(response)
        next(stream)
        Session.objects.filter(session_key=visitor.cookies[settings.SESSION_COOKIE_NAME]).delete()
        assert set(ends(stream)[0]) == {"retry"}


def test_staff_who_are_staff_no_more_see_no_more_of_others(
    platform: Platform, visitor: Visitor, alice: User, gate: str
) -> None:
    User.objects.filter(pk=alice.pk).update(is_staff=True)
    theirs = visitor.start("gate_flow", folder=gate)
    with platform.visitor() as staff:
        sign_in(staff, alice)
        own = staff.start("gate_flow", folder=gate)
        with (
            staff.stream("GET", f"/task-status/{theirs}/") as foreign,
            staff.stream("GET", f"/task-status/{own}/") as mine,
        ):
            of_others, of_mine = messages(foreign), messages(mine)
            next(of_others)
            User.objects.filter(pk=alice.pk).update(is_staff=False)
            assert set(ends(of_others)[0]) == {"retry"}
            Path(gate, "open").touch()
            assert ends(of_mine)[0]["id"] == "end"


# Tickets


def started(visitor: Visitor, gate: str) -> tuple[str, str]:
    response = visitor.post("/start-task/", json={"flow": "gate_flow", "inputs": {"folder": gate}})
    return response.raise_for_status().json()["task_id"], response.headers["Watch-Ticket"]


@pytest.mark.parametrize("door", DOORS[:2])
def test_a_ticket_lets_its_session_in_and_nobody_else(
    platform: Platform, visitor: Visitor, gate: str, door: str
) -> None:
    task_id, ticket = started(visitor, gate)
    with visitor.stream("GET", door.format(task_id), params={"ticket": ticket}) as response:
        assert response.status_code == 200
        next(messages(response))
    with platform.visitor() as stranger:
        for one in (visitor, stranger):
            one.start("count_flow")
        assert stranger.get(door.format(task_id), params={"ticket": ticket}).status_code == 404
    visitor.cookies.clear()
    assert visitor.get(door.format(task_id), params={"ticket": ticket}).status_code == 404


@pytest.mark.parametrize("door", DOORS[:2])
def test_a_ticket_is_worth_nothing_once_its_session_has_ended(
    visitor: Visitor, alice: User, gate: str, door: str
) -> None:
    sign_in(visitor, alice)
    task_id, ticket = started(visitor, gate)
    change_password(visitor, alice)
    assert visitor.get(door.format(task_id), params={"ticket": ticket}).status_code == 404


def test_a_ticket_for_what_is_gone_is_a_404(visitor: Visitor, gate: str) -> None:
    Path(gate, "open").touch()
    task_id, _ = started(visitor, gate)
    list(visitor.watch(task_id))
    ticket = visitor.details(task_id)["ticket"]
    Execution.objects.filter(id=task_id).delete()
    assert visitor.get(DOORS[0].format(task_id), params={"ticket": ticket}).status_code == 404


def test_one_who_looks_at_an_execution_gets_a_ticket(visitor: Visitor, gate: str) -> None:
    task_id, _ = started(visitor, gate)
    ticket = visitor.details(task_id)["ticket"]
    assert is_let_in(visitor, DOORS[0].format(task_id), ticket)


def is_let_in(visitor: Visitor, path: str, ticket: str, **headers: str) -> bool:
    """Say whether the pump itself lets a request in, with nothing of Django's."""
    session = visitor.cookies[settings.SESSION_COOKIE_NAME]
    cookies = f"a=b; {settings.SESSION_COOKIE_NAME}={session}"
    sent = {"cookie": cookies, **headers}
    scope: dict[str, Any] = {
        "method": "GET",
        "path": path,
        "query_string": f"ticket={ticket}".encode(),
        "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
    }
    return ticketed(scope) is not None


def test_whoever_has_seen_the_end_is_answered_by_django(visitor: Visitor, gate: str) -> None:
    task_id, ticket = started(visitor, gate)
    assert is_let_in(visitor, DOORS[0].format(task_id), ticket)
    assert not is_let_in(visitor, DOORS[0].format(task_id), ticket, **{"last-event-id": "end"})
    assert not is_let_in(visitor, DOORS[1].format(task_id), ticket, **{"last-event-id": "nonsense"})
    assert not is_let_in(visitor, f"/executions/{task_id}/", ticket)


ID = "8db6298e-f0eb-402e-9d0d-0ee5f71150b0"
VIEWER = Viewer("a" * 32, "1", "mark", as_staff=True)


def test_a_ticket_says_who_watches() -> None:
    checked = checked_ticket(ticket_for(VIEWER, Execution(id=ID)), ID, VIEWER.session)
    assert checked
    assert checked.viewer == VIEWER
    assert checked.is_new
    assert not checked_ticket(ticket_for(VIEWER, Execution(id=ID, attempt=1)), ID, VIEWER.session)[1]  # type: ignore[index]


def test_a_ticket_does_not_tell_the_session() -> None:
    assert VIEWER.session not in ticket_for(VIEWER, Execution(id=ID))


@pytest.mark.parametrize(
    ("execution_id", "session"), [(ID.replace("8", "9"), VIEWER.session), (ID, "b" * 32), (ID, "")]
)
def test_a_ticket_is_for_one_execution_and_one_session(execution_id: str, session: str) -> None:
    assert checked_ticket(ticket_for(VIEWER, Execution(id=ID)), execution_id, session) is None


@pytest.mark.parametrize(
    "forged", ["", "x", "a:b:c", "WyJhIl0:1xUtXX:yML6KrcQX1PXBoFnOOU-ds84BncWQcA7g1Tw5chSx1M"]
)
def test_a_forged_ticket_is_none(forged: str) -> None:
    assert checked_ticket(forged, ID, VIEWER.session) is None
    real = ticket_for(VIEWER, Execution(id=ID))
    assert checked_ticket(real[:-1] + ("a" if real[-1] != "a" else "b"), ID, VIEWER.session) is None


def test_a_ticket_grows_old() -> None:
    ticket = ticket_for(VIEWER, Execution(id=ID))
    with patch("time.time", return_value=time.time() + access.NEW_AGE + 1):
        checked = checked_ticket(ticket, ID, VIEWER.session)
        assert checked
        assert not checked.is_new
    with patch("time.time", return_value=time.time() + access.TICKET_AGE + 1):
        assert checked_ticket(ticket, ID, VIEWER.session) is None


# How many


def test_a_visitor_may_hold_so_many_streams_and_no_more(visitor: Visitor, gate: str) -> None:
    task_id, ticket = started(visitor, gate)
    most = settings.MAX_STREAMS_PER_VISITOR
    with ExitStack() as streams:
        for number in range(most):
            path = DOORS[number % len(DOORS)].format(task_id)
            assert streams.enter_context(visitor.stream("GET", path)).status_code == 200
        for query in ({}, {"ticket": ticket}):
            response = visitor.get(DOORS[0].format(task_id), params=query)
            assert response.status_code == 429
            assert f"You have {most} streams open" in response.json()["error"]
    wait_until(lambda: is_open(visitor, task_id))


def is_open(visitor: Visitor, task_id: str) -> bool:
    with visitor.stream("GET", DOORS[0].format(task_id)) as response:
        return response.status_code == 200


def test_a_users_streams_are_counted_over_all_their_sessions() -> None:
    assert {Viewer("a", "1").person, Viewer("b", "1").person} == {"1"}
    assert Viewer("a", "1").most_streams == settings.MAX_STREAMS_PER_USER
    assert Viewer("a").person == "a"
