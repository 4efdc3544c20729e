"""`GET /api/v1/stream`: what happens to all executions of one owner."""

import asyncio
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from django.utils import timezone

from accounts.models import User
from config.tests.waiting import wait_until
from main import stored
from main.access import Viewer
from main.channel import owner_channel, redis_client
from main.events import Snapshot
from main.models import Execution
from main.owned import News, Owned, OwnerWatcher, order
from main.owner_events import OwnerEvent, execution_event
from main.tests.event_shapes import owner_misfit
from main.tests.people import alice, sign_in
from main.tests.platform import Platform, Visitor
from main.tests.streams import Message, messages

__all__ = ["alice"]

ENDS = {"EXECUTION_COMPLETED", "EXECUTION_FAILED"}


@contextmanager
def opened(visitor: Visitor, seen: str = "") -> Iterator[Iterator[Message]]:
    """Open the stream, and give its events as they come."""
    headers = {"Last-Event-ID": seen} if seen else {}
    with visitor.stream("GET", "/api/v1/stream", headers=headers) as response:
        assert response.status_code == 200, response.read()
        yield (message for message in messages(response) if "event" in message.fields)


def data_of(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(message.fields["data"])
    return found


def name_of(message: Message) -> str:
    return message.fields["event"]


def all_until_the_end(stream: Iterator[Message], task_id: str) -> list[Message]:
    """Return everything that is told until an execution has ended."""
    told = []
    for message in stream:
        told.append(message)
        if data_of(message)["execution_id"] == task_id and name_of(message) in ENDS:
            break
    return told


def until_the_end(stream: Iterator[Message], task_id: str) -> list[Message]:
    """Return what is told of an execution, until it has ended."""
    return [each for each in all_until_the_end(stream, task_id) if data_of(each)["execution_id"] == task_id]


@pytest.fixture
def watching(visitor: Visitor, tmp_path: Path) -> str:
    """An execution that runs as long as the test, so that the visitor has something to watch."""
    return visitor.start("gate_flow", folder=str(tmp_path))


@pytest.fixture(autouse=True)
def gate(tmp_path: Path) -> Iterator[None]:
    yield
    (tmp_path / "open").touch()


def test_an_execution_is_told_from_its_start_to_its_end(visitor: Visitor, watching: str) -> None:
    with opened(visitor) as stream:
        assert data_of(next(stream))["execution_id"] == watching
        task_id = visitor.start("count_flow")
        told = until_the_end(stream, task_id)
    names = [name_of(each) for each in told]
    assert names[0] == "EXECUTION_STARTED"
    assert names[1] == "EXECUTION_UPDATED"
    assert names[-1] == "EXECUTION_COMPLETED"
    steps = [data_of(each)["name"] for each in told if name_of(each) == "NODE_EXECUTED"]
    assert steps == list(Execution.objects.get(id=task_id).steps.values_list("name", flat=True))
    progress = [data_of(each)["progress"] for each in told if "progress" in data_of(each)]
    assert progress == sorted(progress)
    assert progress[-1] == 100
    assert [owner_misfit(name_of(each), data_of(each)) for each in told] == [""] * len(told)


def test_a_failure_says_why(visitor: Visitor, watching: str) -> None:
    with opened(visitor) as stream:
        last = until_the_end(stream, visitor.start("failing_flow"))[-1]
    assert name_of(last) == "EXECUTION_FAILED"
    assert data_of(last)["error"]["message"] == "The story has no end. Try another one."


def test_a_cancel_is_a_failure_that_says_so(visitor: Visitor, watching: str) -> None:
    with opened(visitor) as stream:
        next(stream)
        visitor.post(f"/api/v1/executions/{watching}/cancel").raise_for_status()
        last = until_the_end(stream, watching)[-1]
    assert (name_of(last), data_of(last)["error"]["type"]) == ("EXECUTION_FAILED", "cancelled")


def test_it_begins_with_what_has_not_ended(visitor: Visitor, watching: str) -> None:
    ended = visitor.start("count_flow")
    list(visitor.watch(ended))
    with opened(visitor) as stream:
        first = data_of(next(stream))
        assert first["execution_id"] == watching
        fresh = visitor.start("count_flow")
        told = {data_of(each)["execution_id"] for each in all_until_the_end(stream, fresh)}
    assert ended not in told
    assert fresh in told


def test_nobody_is_told_of_others(
    platform: Platform, visitor: Visitor, watching: str, tmp_path: Path
) -> None:
    with platform.visitor() as stranger:
        theirs = stranger.start("gate_flow", folder=str(tmp_path))
        with opened(visitor) as stream:
            next(stream)
            other = stranger.start("count_flow")
            list(stranger.watch(other))
            mine = visitor.start("count_flow")
            told = {data_of(each)["execution_id"] for each in all_until_the_end(stream, mine)}
    assert mine in told
    assert told <= {mine, watching}
    assert not told & {theirs, other}


def test_who_comes_back_gets_exactly_what_was_missed(visitor: Visitor, watching: str) -> None:
    with opened(visitor) as stream:
        next(stream)
        first = until_the_end(stream, visitor.start("count_flow"))
    missed = visitor.start("failing_flow")
    list(visitor.watch(missed))
    with opened(visitor, first[1].fields["id"]) as stream:
        again = until_the_end(stream, data_of(first[0])["execution_id"])
        assert [each.fields for each in again] == [each.fields for each in first[2:]]
        told = until_the_end(stream, missed)
    assert name_of(told[0]) == "EXECUTION_STARTED"
    assert name_of(told[-1]) == "EXECUTION_FAILED"


def test_what_redis_forgot_is_told_as_it_is_now(visitor: Visitor, watching: str) -> None:
    with opened(visitor) as stream:
        next(stream)
        seen = until_the_end(stream, visitor.start("count_flow"))[-1].fields["id"]
    missed = visitor.start("failing_flow")
    list(visitor.watch(missed))
    owner = Execution.objects.get(id=missed).owner_key
    redis_client().delete(owner_channel(str(owner)))
    with opened(visitor, seen) as stream:
        told: dict[str, str] = {}
        while not {missed, watching} <= told.keys():
            message = next(stream)
            told[data_of(message)["execution_id"]] = name_of(message)
    assert told[missed] == "EXECUTION_FAILED"
    assert told[watching] == "EXECUTION_UPDATED"


def test_an_end_that_redis_never_heard_of_is_told(visitor: Visitor, watching: str) -> None:
    known = Execution.objects.get(id=watching)
    silent = Execution.objects.create(
        flow="count_flow", kind="race", visitor=known.visitor, owner_key=known.owner_key, time_limit=60
    )
    with opened(visitor) as stream:
        next(stream)
        silent.cancel()  # and nobody announces it
        last = until_the_end(stream, str(silent.id))[-1]
    assert data_of(last)["error"]["type"] == "cancelled"


def test_a_subscription_that_breaks_loses_nothing(visitor: Visitor, watching: str) -> None:
    with opened(visitor) as stream:
        next(stream)
        redis_client().client_kill_filter(_type="pubsub")
        told = until_the_end(stream, visitor.start("count_flow"))
    assert [name_of(each) for each in told][:2] == ["EXECUTION_STARTED", "EXECUTION_UPDATED"]
    assert name_of(told[-1]) == "EXECUTION_COMPLETED"


def test_a_user_is_told_of_what_they_started_before_they_signed_in(
    visitor: Visitor, watching: str, alice: User
) -> None:
    sign_in(visitor, alice)
    with opened(visitor) as stream:
        assert data_of(next(stream))["execution_id"] == watching
        as_user = visitor.start("count_flow")
        told = until_the_end(stream, as_user)
    assert re.fullmatch(r"\d+-\d+,(\d+-\d+|-)", told[-1].fields["id"])
    with opened(visitor, told[0].fields["id"]) as stream:
        again = until_the_end(stream, as_user)
    assert [each.fields for each in again] == [each.fields for each in told[1:]]


def test_a_visitor_who_started_nothing_is_told_so(platform: Platform) -> None:
    with platform.visitor() as nobody:
        response = nobody.get("/api/v1/stream")
    assert response.status_code == 404
    assert response.json()["error"].startswith("Nothing of yours can be watched yet.")


@pytest.mark.parametrize("seen", ["nonsense", "1-2,", "1-2,x", "end"])
def test_an_id_that_cannot_be_is_refused(visitor: Visitor, watching: str, seen: str) -> None:
    response = visitor.get("/api/v1/stream", params={"last_event_id": seen})
    assert response.status_code == 400
    assert "is no id of an event" in response.json()["error"]


def test_an_id_that_is_ahead_of_all_makes_nobody_deaf(visitor: Visitor, watching: str) -> None:
    with opened(visitor, "9999999999999999999-0") as stream:
        assert data_of(next(stream))["execution_id"] == watching
        assert name_of(until_the_end(stream, visitor.start("count_flow"))[-1]) == "EXECUTION_COMPLETED"


def test_nobody_is_listened_for_once_everybody_has_left(visitor: Visitor, watching: str) -> None:
    channel = owner_channel(str(Execution.objects.get(id=watching).owner_key))
    with opened(visitor) as stream:
        next(stream)
        assert redis_client().pubsub_numsub(channel)[0][1] == 1
    wait_until(lambda: redis_client().pubsub_numsub(channel)[0][1] == 0)


# What is told once, whoever finds it


def state_event(state: str, execution_id: str = "1") -> OwnerEvent:
    error: Any = {"type": "flow", "message": "No.", "retryable": False} if state == "FAILURE" else None
    snapshot = Snapshot(state=state, error=error)  # type: ignore[arg-type]
    return execution_event(execution_id, "count_flow", snapshot)


class Told(list[str]):
    """Takes what an owner's watcher is sent."""

    async def send(self, message: Any) -> None:
        self.extend(re.findall(r"event: (\w+)", message.get("body", b"").decode()))


def test_an_end_is_told_once_and_nothing_after_it() -> None:
    owned, told = Owned("alice"), Told()

    async def nothing(owned: Owned, number: str) -> tuple[str, list[News]]:
        return number, []

    async def watch() -> None:
        watcher = OwnerWatcher(told.send, Viewer("a"), [owned], seen=["1-0"], since=nothing)
        owned.telling.add(watcher)
        await watcher.catch_up()
        owned.hear(News("2-0", state_event("PROGRESS")))
        owned.compare([state_event("PROGRESS")])  # which is known
        owned.compare([state_event("SUCCESS")])  # found before it is heard
        owned.hear(News("3-0", state_event("SUCCESS")))
        owned.compare([state_event("PROGRESS")])  # a look that was slow
        owned.compare([state_event("FAILURE", "2")])

    asyncio.run(watch())
    assert told == ["EXECUTION_UPDATED", "EXECUTION_COMPLETED", "EXECUTION_FAILED"]


def test_what_happens_to_one_owner_while_another_is_asked_about_is_not_missed() -> None:
    user, visitor, told = Owned("user"), Owned("visitor"), Told()
    stream: dict[str, list[News]] = {"user": [], "visitor": []}

    async def since(owned: Owned, number: str) -> tuple[str, list[News]]:
        found = [news for news in stream[owned.owner] if order(news.number) > order(number)]
        if owned is visitor and not stream["user"]:
            stream["user"].append(News("5-0", state_event("SUCCESS")))
            user.hear(stream["user"][0])  # just now, and the watcher is not live yet
        return found[-1].number if found else number or "1-0", found

    async def watch() -> None:
        watcher = OwnerWatcher(told.send, Viewer("a"), [user, visitor], seen=["1-0", "1-0"], since=since)
        user.telling.add(watcher)
        visitor.telling.add(watcher)
        await watcher.catch_up()
        assert watcher.is_live

    asyncio.run(watch())
    assert told == ["EXECUTION_COMPLETED"]


@pytest.mark.django_db
def test_each_owner_has_a_share_of_what_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "MOST_OWNED", 2)
    owners = [uuid.uuid4() for _ in range(3)]
    for owner in owners:
        for _ in range(3):
            Execution.objects.create(
                flow="count_flow", kind="race", visitor=owner, owner_key=owner, time_limit=60
            )
    Execution.objects.filter(owner_key__in=owners).update(created_at=timezone.now() - timedelta(minutes=1))
    present = stored.present_by_owner(map(str, owners))
    assert [len(present[str(owner)]) for owner in owners] == [2, 2, 2]
