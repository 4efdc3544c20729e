"""Events on their way through a real Redis: numbered, gathered, replayed, and without Redis too."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pytest
from redis import Redis
from redis.client import PubSub

from config.tests.waiting import wait_until
from main import channel
from main.channel import (
    META_INTERVAL,
    Publisher,
    announce_end,
    encode_meta,
    history,
    meta_key,
    redis_client,
    stream_key,
    with_redis,
)
from main.events import LAST_SEQ, ErrorDetail, Event, EventId, Snapshot, fold

DONE: Event = {"type": "result", "state": "SUCCESS", "status": "Done", "final_result": 42}
CANCELLED: Event = {
    "type": "result",
    "state": "FAILURE",
    "status": "It was cancelled.",
    "error": ErrorDetail(type="cancelled", message="It was cancelled.", retryable=False),
}
# A database of its own within the session's Redis, so that it may be flushed.
DATABASE = 5


@pytest.fixture(autouse=True)
def redis(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    settings.REDIS_URL = f"{settings.REDIS_URL}?db={DATABASE}"
    monkeypatch.setattr(channel, "_silent_until", 0.0)
    redis_client.cache_clear()
    redis_client().flushdb()
    yield redis_client()
    while senders:
        senders.pop().leave()
    redis_client.cache_clear()


@pytest.fixture
def use_redis_at(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let Redis be somewhere else from now on."""

    def use(url: str) -> None:
        settings.REDIS_URL = url
        monkeypatch.setattr(channel, "_silent_until", 0.0)
        redis_client.cache_clear()

    return use


@pytest.fixture
def hung() -> Iterator[str]:
    """The address of a Redis that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=200) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}"


DEAD = "redis://127.0.0.1:1"


senders: list[Publisher] = []


def publisher(
    attempt: int = 1,
    id_: str = "x",
    base: Snapshot | None = None,
    on_superseded: Callable[[], None] = lambda: None,
) -> Publisher:
    """A publisher that sends nothing more when its test has ended."""
    senders.append(Publisher(id_, attempt, base or Snapshot(url="/x/"), on_superseded))
    return senders[-1]


def log(n: int, message: str = "said", step: str = "") -> Event:
    return {"type": "log", "step": step, "n": n, "message": message}


def token(text: str) -> Event:
    return {"type": "token", "step": "A", "text": text}


def streamed(redis: Redis, id_: str = "x") -> list[Event]:
    rows: Any = redis.xrange(stream_key(id_))
    events: list[Event] = [orjson.loads(fields[b"e"]) for _, fields in rows]
    assert [event["id"] for event in events] == [number.decode() for number, _ in rows]
    return events


def folded(events: list[Event]) -> Snapshot:
    snapshot = Snapshot(url="/x/")
    for event in events:
        snapshot = fold(snapshot, event)
    return snapshot


def meta(redis: Redis, id_: str = "x") -> Any:
    found: Any = redis.get(meta_key(id_))
    return orjson.loads(found)


def listening(redis: Redis, *channels: str) -> PubSub:
    subscription: PubSub = redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    subscription.subscribe(*channels)
    assert subscription.get_message(timeout=5) is None
    return subscription


def heard(subscription: PubSub) -> list[bytes]:
    """All that was published until now."""
    found = []
    while message := subscription.get_message(timeout=0.2):
        found.append(message["data"])
    return found


# Numbers, order, gathering


def test_events_of_many_threads_are_numbered_without_gaps(redis: Redis) -> None:
    subscription = listening(redis, stream_key("x"))
    sender = publisher()

    def talk(thread: int) -> None:
        for n in range(100):
            sender.send(log(n, f"{thread} {n}", step=f"Step {thread}"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(talk, range(8)))
    sender.close(DONE)
    events = streamed(redis)
    assert [event["id"] for event in events] == [f"1-{n}" for n in range(1, len(events) + 1)]
    assert sorted(event["message"] for event in events[:-1]) == sorted(
        f"{t} {n}" for t in range(8) for n in range(100)
    )
    for thread in range(8):
        assert [event["n"] for event in events if event.get("step") == f"Step {thread}"] == list(range(100))
    assert events[-1]["type"] == "result"
    assert [orjson.loads(message) for message in heard(subscription)] == events


def test_a_burst_of_tokens_makes_few_events_and_loses_none(redis: Redis) -> None:
    sender = publisher()
    texts = [f"[{n}]" for n in range(1000)]
    for text in texts:
        sender.send(token(text))
    wait_until(lambda: streamed(redis)[-1]["text"].endswith("[999]"), 2)
    events = streamed(redis)
    assert "".join(event["text"] for event in events) == "".join(texts)
    assert len(events) < 50


def test_only_tokens_of_one_step_in_a_row_are_joined(redis: Redis) -> None:
    sender = publisher()
    sender.send(log(0))  # goes out at once: what follows is gathered
    for event in (token("a"), token("b"), {**token("c"), "step": "B"}, log(1), token("d"), token("e")):
        sender.send(event)  # type: ignore[arg-type]
    sender.close(DONE)
    assert [event.get("text") for event in streamed(redis)] == [None, "ab", "c", None, "de", None]


def test_a_first_event_goes_out_at_once(redis: Redis) -> None:
    publisher().send(log(0))
    assert len(streamed(redis)) == 1


def test_what_was_sent_stays_the_senders(redis: Redis) -> None:
    sender = publisher()
    sender.send(log(0))
    first, second = token("a"), token("b")
    sender.send(first)
    sender.send(second)
    sender.close(DONE)
    assert (first, second) == (token("a"), token("b"))


def test_after_the_end_nothing_is_sent(redis: Redis) -> None:
    sender = publisher()
    sender.close(DONE)
    sender.send(log(0, "late"))
    sender.flush()
    assert [event["type"] for event in streamed(redis)] == ["result"]


def test_what_redis_keeps_goes_by_itself(redis: Redis, settings: Any) -> None:
    publisher().close(DONE)
    for key in (stream_key("x"), meta_key("x")):
        left: Any = redis.ttl(key)
        assert 0 < left <= settings.EVENT_RETENTION


# The task meta


def test_the_meta_is_written_at_most_four_times_a_second_and_at_the_end(redis: Redis) -> None:
    before: Any = redis.config_get("notify-keyspace-events")
    redis.config_set("notify-keyspace-events", "K$")
    try:
        writes = listening(redis, f"__keyspace@{DATABASE}__:{meta_key('x')}")
        sender, began = publisher(), time.monotonic()
        while time.monotonic() - began < 1.1:
            sender.send(token("word "))
            time.sleep(0.002)
        sender.close(DONE)
        took = time.monotonic() - began
        assert 4 <= len(heard(writes)) <= took / META_INTERVAL + 2
    finally:
        redis.config_set("notify-keyspace-events", before["notify-keyspace-events"])
    assert meta(redis)["status"] == "SUCCESS"


def test_the_meta_catches_up_where_nothing_more_happens(redis: Redis) -> None:
    sender = publisher()
    sender.send(log(0, "first"))
    sender.send(log(1, "second"))
    wait_until(lambda: len(meta(redis)["result"]["step_results"]) == 2, 2)


def test_the_meta_is_what_celery_reads(redis: Redis) -> None:
    sender = publisher()
    sender.send({"type": "state", "state": "PROGRESS", "status": "Running"})
    assert meta(redis) | {"snapshot": None} == {
        "task_id": "x",
        "status": "PROGRESS",
        "result": sender.snapshot.public()["details"],
        "traceback": None,
        "children": [],
        "snapshot": None,
    }
    sender.close(CANCELLED)
    result = meta(redis)["result"]
    assert (result["exc_type"], result["exc_module"]) == ("ExecutionFailed", "main.channel")
    assert result["exc_message"] == ["It was cancelled.", sender.snapshot.public()["details"]]


# An attempt that does not know that it is over


def superseded(attempt: int = 1) -> tuple[Publisher, threading.Event]:
    told = threading.Event()
    return publisher(attempt, on_superseded=told.set), told


def test_a_stale_attempt_adds_nothing_and_is_told(redis: Redis) -> None:
    stale, told = superseded()
    stale.send(log(0, "old"))
    newer = publisher(attempt=2, base=history("x"))
    newer.send(log(1, "new"))
    before, before_meta = streamed(redis), meta(redis)
    assert not told.is_set()
    stale.send(log(1, "late"))
    stale.flush()
    assert told.is_set()
    stale.close(DONE)
    assert streamed(redis) == before
    assert meta(redis) == before_meta
    known = history("x")
    assert known
    assert [entry["message"] for entry in known.entries.values()] == ["old", "new"]


def test_an_end_from_outside_is_the_last_word(redis: Redis) -> None:
    sender, told = superseded()
    sender.send(log(0, "shown"))
    announce_end("x", 1, CANCELLED, Snapshot())
    sender.send(log(1, "late"))
    sender.close(DONE)
    assert told.is_set()
    assert [event["id"] for event in streamed(redis)] == ["1-1", f"1-{LAST_SEQ}"]
    known = history("x")
    assert known
    assert known.public()["state"] == meta(redis)["status"] == "FAILURE"
    assert [entry["message"] for entry in known.entries.values()] == ["shown"]


def test_an_end_from_outside_is_told_where_redis_knows_nothing(redis: Redis) -> None:
    stored = folded([{**log(0, "stored"), "id": "0-1"}])
    announce_end("x", 3, CANCELLED, stored)
    known = history("x")
    assert known
    assert (known.public()["state"], known.id) == ("FAILURE", EventId(3, LAST_SEQ))
    assert [entry["message"] for entry in known.entries.values()] == ["stored"]


def test_who_leaves_has_said_everything_and_says_nothing_more(
    redis: Redis, use_redis_at: Callable[[str], None], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "PAUSE_AFTER_FAILURE", 0.05)
    alive = settings.REDIS_URL
    sender, other = publisher(), publisher(id_="y")
    for n in range(3):
        sender.send(log(n))
    sender.leave()
    assert len(streamed(redis)) == 3
    sender.send(log(3))
    sender.close(DONE)
    use_redis_at(DEAD)
    other.send(log(0))
    other.leave()
    use_redis_at(alive)
    end = threading.Event()
    channel._flusher().at(time.monotonic() + 0.4, end.set)
    assert end.wait(5)
    assert len(streamed(redis)) == 3
    assert streamed(redis, "y") == []


# What Redis remembers


def test_history_is_all_events_up_to_the_last(redis: Redis) -> None:
    sender = publisher()
    for n in range(50):
        sender.send(log(n))
        sender.send(token(f"{n} "))
    sender.flush()
    known = history("x")
    assert known
    assert known.dump() == sender.snapshot.dump() == folded(streamed(redis)).dump()


def test_history_goes_on_from_the_meta_where_the_stream_is_cut(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "STREAM_LENGTH", 100)
    sender = publisher()
    for n in range(2000):
        sender.send(log(n % 50, f"{n}", step=f"Step {n // 50}"))
    sender.close(DONE)
    assert len(streamed(redis)) < 1000
    known = history("x")
    assert known
    assert known.public() == sender.snapshot.public()


def test_without_the_meta_the_stream_must_reach_back_to_the_first_event(redis: Redis) -> None:
    sender = publisher()
    for n in range(3):
        sender.send(log(n))
        sender.flush()
    redis.delete(meta_key("x"))
    known = history("x")
    assert known
    assert len(known.entries) == 3
    redis.xdel(stream_key("x"), "1-1")
    assert history("x") is None


def test_a_later_attempt_begins_with_the_whole_snapshot(redis: Redis) -> None:
    base = folded([{**log(0, "stored"), "id": "1-7"}])
    sender = publisher(attempt=2, base=base)
    sender.resume()
    sender.send({"type": "state", "state": "PROGRESS", "status": "Running"})
    sender.send(log(1, "new"))
    sender.flush()
    first, second = streamed(redis)
    assert (first["type"], second["type"]) == ("snapshot", "log")
    redis.delete(meta_key("x"))
    known = history("x")
    assert known
    assert [entry["message"] for entry in known.entries.values()] == ["stored", "new"]


def test_after_a_flush_of_redis_nothing_is_known_until_something_happens(redis: Redis) -> None:
    sender = publisher()
    sender.send(log(0, "before"))
    redis.flushdb()
    assert history("x") is None
    sender.send(log(1, "after"))
    wait_until(lambda: history("x"), 2)
    known = history("x")
    assert known
    assert [entry["message"] for entry in known.entries.values()] == ["before", "after"]


@pytest.mark.parametrize(
    "foreign",
    [
        b'{"status": "SUCCESS", "result": null, "task_id": "x"}',
        b'{"snapshot": {"state": "PROGRESS"}}',
        b"{",
        b"[]",
    ],
)
def test_a_meta_of_somebody_else_is_none(redis: Redis, foreign: bytes) -> None:
    redis.set(meta_key("x"), foreign)
    assert history("x") is None


def test_an_execution_that_nobody_told_of_is_unknown() -> None:
    assert history("nobody") is None


# Without Redis


def test_what_was_lost_comes_as_one_snapshot(
    redis: Redis, use_redis_at: Callable[[str], None], settings: Any
) -> None:
    alive = settings.REDIS_URL
    sender = publisher()
    sender.send(log(0, "before"))
    use_redis_at(DEAD)
    for n in range(1, 4):
        sender.send(log(n, "lost"))
        sender.flush()
    use_redis_at(alive)
    sender.send(log(4, "after"))
    sender.flush()
    sender.send(log(5, "and on"))
    sender.flush()
    events = streamed(redis)
    assert [event["type"] for event in events] == ["log", "snapshot", "log"]
    assert [entry["message"] for entry in folded(events).entries.values()] == [
        "before",
        "lost",
        "lost",
        "lost",
        "after",
        "and on",
    ]
    known = history("x")
    assert known
    assert known.public() == folded(events).public()


def test_what_was_lost_comes_where_nothing_more_happens(
    redis: Redis, use_redis_at: Callable[[str], None], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "PAUSE_AFTER_FAILURE", 0.1)
    alive = settings.REDIS_URL
    sender = publisher()
    use_redis_at(DEAD)
    sender.close(DONE)
    use_redis_at(alive)
    wait_until(lambda: streamed(redis), 5)
    assert folded(streamed(redis)).is_final
    wait_until(lambda: meta(redis)["status"] == "SUCCESS", 5)


def test_a_dead_redis_holds_nobody_up(use_redis_at: Callable[[str], None]) -> None:
    use_redis_at(DEAD)
    sender, began = publisher(), time.monotonic()
    for n in range(200):
        sender.send(log(n))
    sender.close(DONE)
    assert time.monotonic() - began < 0.5
    assert history("x") is None
    assert len(sender.snapshot.entries) == 200


def test_a_hung_redis_is_waited_for_once(use_redis_at: Callable[[str], None], hung: str) -> None:
    use_redis_at(hung)
    sender, began = publisher(), time.monotonic()

    def talk(_: int) -> None:
        for n in range(50):
            sender.send(token(f"{n} "))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(talk, range(8)))
    sender.close(DONE)
    assert history("x") is None
    assert time.monotonic() - began < 1.5


def test_redis_is_left_out_for_a_while_after_a_failure(
    use_redis_at: Callable[[str], None], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    use_redis_at(DEAD)
    assert with_redis(lambda redis: redis.ping(), "away") == "away"
    assert with_redis(lambda redis: calls.append(1), "away") == "away"
    assert calls == []
    monkeypatch.setattr(channel, "_silent_until", time.monotonic() - 0.001)
    assert with_redis(lambda redis: "back", "away") == "back"


def test_a_redis_that_refuses_loses_nothing_for_good(redis: Redis) -> None:
    sender = publisher()
    sender.send(log(0, "before"))
    redis.set(stream_key("y"), "not a stream")
    other = publisher(id_="y")
    other.send(log(0, "refused"))
    redis.delete(stream_key("y"))
    other.send(log(1, "taken"))
    other.flush()
    assert [entry["message"] for entry in folded(streamed(redis, "y")).entries.values()] == [
        "refused",
        "taken",
    ]


# Later


def test_what_is_due_later_is_done_in_order_whatever_stumbles() -> None:
    done: list[int] = []
    end = threading.Event()

    def stumble() -> None:
        raise ZeroDivisionError

    flusher, now = channel._flusher(), time.monotonic()
    flusher.at(now + 0.09, end.set)
    flusher.at(now + 0.06, lambda: done.append(2))
    flusher.at(now + 0.03, stumble)
    flusher.at(now, lambda: done.append(1))
    assert end.wait(5)
    assert done == [1, 2]


def test_a_meta_is_never_far_larger_than_its_snapshot() -> None:
    snapshot = folded([{**log(n, "x" * 4000), "id": f"1-{n + 1}"} for n in range(100)])
    assert len(encode_meta("x", snapshot)) < 3 * 128 * 1024
