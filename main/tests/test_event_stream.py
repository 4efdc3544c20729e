"""`GET /api/v1/executions/<id>/events`: every event, once and in order."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from config.tests.waiting import wait_until
from main import sse
from main.channel import meta_key, redis_client, stream_key
from main.events import LAST_SEQ, Event, EventId, Snapshot, fold
from main.models import Execution
from main.pump import LOOK_UP
from main.subscription import IDLE_CHANNEL
from main.tests.event_shapes import misfit
from main.tests.platform import Platform, Visitor
from main.tests.streams import Message, all_snapshots, messages, stored_snapshot, subscribers
from main.watched import leads_on, leads_to

WORDS = [f"**word{number}** " for number in range(40)]


def address(task_id: str) -> str:
    return f"/api/v1/executions/{task_id}/events"


@contextmanager
def opened(visitor: Visitor, task_id: str, seen: str = "", **query: str) -> Iterator[Iterator[Message]]:
    """Open the stream from where something was seen, and give its events."""
    headers = {"Last-Event-ID": seen} if seen else {}
    with visitor.stream("GET", address(task_id), params=query, headers=headers) as response:
        assert response.status_code == 200, response.read()
        yield (message for message in messages(response) if "id" in message.fields)


def all_events(visitor: Visitor, task_id: str, seen: str = "", **query: str) -> list[Message]:
    with opened(visitor, task_id, seen, **query) as stream:
        return list(stream)


def data_of(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(message.fields["data"])
    return found


def words_in(events: list[Message]) -> str:
    return "".join(data_of(each)["text"] for each in events if each.fields["event"] == "token")


def ids(events: list[Message]) -> list[str]:
    return [each.fields["id"] for each in events]


def added_up(events: list[Message]) -> dict[str, Any]:
    """Fold events as a client would."""
    snapshot = Snapshot()
    for number, each in enumerate(events, start=1):
        event: Any = {"id": f"1-{number}", "type": each.fields["event"], **data_of(each)}
        snapshot = fold(snapshot, event)
    found: dict[str, Any] = orjson.loads(orjson.dumps(snapshot.public()))
    return found


@pytest.fixture
def spoken(visitor: Visitor) -> str:
    """An execution that said forty words and has ended."""
    task_id = visitor.start("slow_words_flow", words=40)
    all_snapshots(visitor, task_id)
    return task_id


@pytest.mark.parametrize(
    ("flow", "inputs"),
    [
        ("count_flow", {}),
        ("cpu_count_flow", {}),
        ("chain_flow", {"question": "bees"}),
        ("web_search_flow", {"question": "How is a worker stopped?"}),
        ("flaky_flow", {}),
        ("failing_flow", {}),
        ("figures_flow", {}),
    ],
)
def test_what_is_told_adds_up_to_what_is_stored(visitor: Visitor, flow: str, inputs: dict[str, Any]) -> None:
    task_id = visitor.start(flow, **inputs)
    live = all_events(visitor, task_id)
    assert added_up(live) == stored_snapshot(task_id)
    assert [misfit(each.fields["event"], data_of(each)) for each in live] == [""] * len(live)
    later = all_events(visitor, task_id)
    assert [each.fields for each in later] == [each.fields for each in live]


def test_every_event_has_its_number_and_the_last_is_the_end(visitor: Visitor) -> None:
    events = all_events(visitor, visitor.start("slow_words_flow", words=5))
    assert ids(events[:-1]) == [f"1-{number}" for number in range(1, len(events))]
    assert (events[-1].fields["id"], events[-1].fields["event"]) == ("end", "result")
    assert words_in(events) == "".join(WORDS[:5])


@pytest.mark.parametrize("as_query", [False, True], ids=["header", "query"])
def test_who_comes_back_gets_exactly_what_was_missed(visitor: Visitor, spoken: str, as_query: bool) -> None:
    everything = [each.fields for each in all_events(visitor, spoken)]
    for place in (0, 7, len(everything) - 2):
        seen = everything[place]["id"]
        missed = (
            all_events(visitor, spoken, last_event_id=seen) if as_query else all_events(visitor, spoken, seen)
        )
        assert [each.fields for each in missed] == everything[place + 1 :]


def test_who_leaves_and_comes_back_in_the_middle_misses_nothing(visitor: Visitor) -> None:
    task_id = visitor.start("slow_words_flow", words=40)
    told: list[Message] = []
    while not told or told[-1].fields["id"] != "end":
        with opened(visitor, task_id, told[-1].fields["id"] if told else "") as stream:
            for each, _ in zip(stream, range(6), strict=False):
                told.append(each)
    assert words_in(told) == "".join(WORDS)
    assert len(set(ids(told))) == len(told)


def test_who_has_seen_the_end_is_told_to_stay_away(visitor: Visitor, spoken: str) -> None:
    for query, headers in (({}, {"Last-Event-ID": "end"}), ({"last_event_id": "end"}, {})):
        response = visitor.get(address(spoken), params=query, headers=headers)
        assert (response.status_code, response.content) == (204, b"")


def test_types_select(visitor: Visitor, spoken: str) -> None:
    selected = all_events(visitor, spoken, types="token,result")
    assert {each.fields["event"] for each in selected} == {"token", "result"}
    assert words_in(selected) == "".join(WORDS)
    with visitor.stream("GET", address(spoken), params={"types": "log"}) as response:
        *told, last = messages(response)
    assert {each.fields["event"] for each in told if "event" in each.fields} == {"log"}
    assert last.fields == {"id": "end"}  # alone: an EventSource keeps it, and its page hears nothing


def test_live_selected_events_come_as_all_do(visitor: Visitor) -> None:
    selected = all_events(visitor, visitor.start("slow_words_flow", words=20), types="token,result")
    assert {each.fields["event"] for each in selected} == {"token", "result"}
    assert words_in(selected) == "".join(WORDS[:20])


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"types": "tokens"}, "“tokens” is no type of event"),
        ({"types": "token, result"}, "“ result” is no type of event"),
        ({"last_event_id": "nonsense"}, "“nonsense” is no id of an event"),
        ({"last_event_id": "1-2-3"}, "“1-2-3” is no id of an event"),
        ({"last_event_id": "1-" + "9" * 40}, "is no id of an event"),
    ],
)
def test_what_cannot_be_is_refused(
    visitor: Visitor, spoken: str, query: dict[str, str], sentence: str
) -> None:
    response = visitor.get(address(spoken), params=query)
    assert response.status_code == 400
    assert sentence in response.json()["error"]


def test_what_is_someone_elses_is_not_there(platform: Platform, spoken: str) -> None:
    with platform.visitor() as stranger:
        assert stranger.get(address(spoken)).status_code == 404


def test_head_answers_without_a_stream(visitor: Visitor, spoken: str) -> None:
    response = visitor.head(address(spoken), timeout=5)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert visitor.get("/health/", timeout=5).status_code == 200


# What Redis forgot


def forget(task_id: str) -> None:
    redis_client().delete(stream_key(task_id), meta_key(task_id))


def test_what_redis_forgot_comes_as_one_snapshot_and_the_result(visitor: Visitor, spoken: str) -> None:
    forget(spoken)
    snapshot, result = all_events(visitor, spoken)
    assert [snapshot.fields["event"], result.fields["event"]] == ["snapshot", "result"]
    assert data_of(snapshot) == stored_snapshot(spoken)
    assert data_of(result)["final_result"] == "".join(WORDS)
    assert result.fields["id"] == "end"
    assert [each.fields["event"] for each in all_events(visitor, spoken, "1-7")] == ["snapshot", "result"]


def test_what_redis_forgot_in_the_middle_comes_as_one_snapshot(visitor: Visitor, spoken: str) -> None:
    everything = all_events(visitor, spoken)
    redis_client().xtrim(stream_key(spoken), maxlen=5, approximate=False)
    after_gap = all_events(visitor, spoken, "1-3")
    assert [each.fields["event"] for each in after_gap] == ["snapshot", "result"]
    kept = all_events(visitor, spoken, everything[-4].fields["id"])
    assert [each.fields for each in kept] == [each.fields for each in everything[-3:]]


def test_an_emptied_redis_loses_a_live_watcher_nothing(visitor: Visitor, tmp_path: Path) -> None:
    task_id = visitor.start("gate_flow", folder=str(tmp_path))
    with opened(visitor, task_id) as stream:
        told = [next(each for each in stream if each.fields["event"] == "token")]
        redis_client().flushdb()
        (tmp_path / "open").touch()
        told += list(stream)
    assert data_of(told[-1])["state"] == "SUCCESS"
    assert len(set(ids(told))) == len(told)


def test_a_subscription_that_breaks_loses_nothing(visitor: Visitor) -> None:
    task_id = visitor.start("slow_words_flow", words=40)
    told: list[Message] = []
    with opened(visitor, task_id) as stream:
        for each in stream:
            told.append(each)
            if len(told) % 8 == 0:
                redis_client().client_kill_filter(_type="pubsub")
    assert words_in(told) == "".join(WORDS)
    assert ids(told[:-1]) == [f"1-{number}" for number in range(1, len(told))]
    wait_until(lambda: redis_client().pubsub_numsub(IDLE_CHANNEL)[0][1])  # who comes next finds it back


def test_a_run_that_redis_forgot_is_a_snapshot_to_who_comes_and_none_comes_twice(
    visitor: Visitor, tmp_path: Path
) -> None:
    task_id = visitor.start("gate_flow", folder=str(tmp_path))
    with opened(visitor, task_id) as stream:
        next(each for each in stream if each.fields["event"] == "token")
    wait_until(lambda: subscribers(task_id) == 0)
    forget(task_id)
    with opened(visitor, task_id) as stream:
        told = [next(stream)]
        (tmp_path / "open").touch()
        told += list(stream)
    assert told[0].fields["event"] == "snapshot"
    shown = [each.fields["data"] for each in told if each.fields["event"] == "snapshot"]
    assert len(set(shown)) == len(shown)
    assert data_of(told[-1])["final_result"] == "first-1 wait-1"


def test_what_ended_before_it_began_is_told_although_redis_forgot(visitor: Visitor, spoken: str) -> None:
    known = Execution.objects.get(id=spoken)
    waiting = Execution.objects.create(
        flow="count_flow", kind="race", visitor=known.visitor, owner_key=known.owner_key, time_limit=60
    )
    waiting.cancel()
    began = time.monotonic()
    assert [each.fields["event"] for each in all_events(visitor, str(waiting.id))] == ["snapshot", "result"]
    assert time.monotonic() - began < LOOK_UP  # nobody had to look it up


def test_an_end_from_outside_brings_what_was_lost_before_it() -> None:
    lost: list[Event] = [{"id": f"1-{LAST_SEQ}", "type": "result", "state": "FAILURE"}]
    assert not leads_on(EventId(1, 10), lost)
    assert not leads_to(Snapshot(id=EventId(1, 10)), lost)


def test_a_token_takes_few_bytes() -> None:
    """As issue and document have it: 90 on the wire for one alone, 50 where several come at once."""
    alone: Event = {"id": "1-1234", "type": "token", "step": "Write the poem", "text": " bees"}
    message = sse.event_message(alone)
    assert len(b"%x\r\n%b\r\n" % (len(message), message)) <= 90
    several: Event = {**alone, "text": " bees" * 4}
    assert len(sse.event_message(several)) / 4 <= 50


# Attempts, and ends from outside


def test_a_new_attempt_begins_with_a_snapshot(platform: Platform, visitor: Visitor, tmp_path: Path) -> None:
    task_id = visitor.start("gate_flow", folder=str(tmp_path))
    with opened(visitor, task_id) as stream:
        told = [next(each for each in stream if each.fields["event"] == "token")]
        platform["worker-io"].restart()
        (tmp_path / "open").touch()
        told += list(stream)
    second = [each for each in told if each.fields["id"].startswith("2-")]
    assert second[0].fields["event"] == "snapshot"
    assert [each.fields["event"] for each in told].count("snapshot") == 1
    assert data_of(told[-1])["final_result"] == "first-1 wait-2"
    assert len(set(ids(told))) == len(told)


def test_a_cancel_is_the_last_that_is_told(visitor: Visitor, tmp_path: Path) -> None:
    task_id = visitor.start("ticking_flow", folder=str(tmp_path))
    with opened(visitor, task_id) as stream:
        next(each for each in stream if each.fields["event"] == "token")
        visitor.post(f"/api/v1/executions/{task_id}/cancel").raise_for_status()
        last = list(stream)[-1]
    assert data_of(last)["error"]["type"] == "cancelled"
    assert last.fields["id"] == "end"


def test_an_end_that_redis_never_heard_of_is_told_from_what_is_stored(visitor: Visitor, spoken: str) -> None:
    known = Execution.objects.get(id=spoken)
    silent = Execution.objects.create(
        flow="count_flow", kind="race", visitor=known.visitor, owner_key=known.owner_key, time_limit=60
    )
    with visitor.stream("GET", address(str(silent.id))) as response:
        stream = messages(response)
        next(stream)
        silent.cancel()  # and nobody announces it
        told = [each for each in stream if "id" in each.fields]
    assert [each.fields["event"] for each in told] == ["snapshot", "result"]
    assert data_of(told[1])["error"]["type"] == "cancelled"
