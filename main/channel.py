"""Events on their way through Redis: a stream to replay, a channel to push, the task meta with the snapshot.

Redis is never waited for: a command may take 0.3 s, and after a failure Redis is left out for some seconds.
What was lost meanwhile comes as one `snapshot` event. PostgreSQL stays the truth.

Keys of an execution, all of which expire EVENT_RETENTION seconds after the last event:

    execution:{id}            stream of events, by their number; a stale attempt cannot add to it
    execution:{id}            (as a Pub/Sub channel) the same bytes
    celery-task-meta-{id}     what Celery's AsyncResult(id) reads, and the snapshot to fold on from
    owner:{owner}             stream of what happens to all of an owner's executions, numbered by Redis
    owner:{owner}             (as a Pub/Sub channel) the same, each after its number
"""

import heapq
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple, TypedDict

import orjson
from django.conf import settings
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from main.events import LAST_SEQ, Event, EventId, Snapshot, fold, merge
from main.owner_events import OwnerEvent, execution_event, node_events
from main.run import page_address

logger = logging.getLogger(__name__)

REDIS_TIMEOUT = 0.3
PAUSE_AFTER_FAILURE = 5.0
# Seconds after its end for which an execution's last event is tried to be sent.
LAST_RETRY = 60.0
# Seconds for which tokens and log lines are gathered before they are sent, and between two writes of the meta.
GATHER = 0.025
META_INTERVAL = 0.25
# How many events the stream keeps, about.
STREAM_LENGTH = 10_000
# An attempt that does not know yet that the execution ended, or went on elsewhere, leaves the meta as it is.
SET_META = """
if #redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', 1) == 0 then
    redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
end
"""
# How many events an owner's stream keeps, about; and a publisher for its owner while Redis is away.
OWNER_STREAM_LENGTH = 1000
OWNER_EVENTS_KEPT = 100
# What an attempt says after the execution went on elsewhere is not told either: its own event is not the last one.
TELL_OWNER = """
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if ARGV[1] ~= '' and newest[1] and newest[1][1] ~= ARGV[1] then return end
for place = 4, #ARGV do
    local number = redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'e', ARGV[place])
    redis.call('PUBLISH', KEYS[2], number .. ' ' .. ARGV[place])
end
redis.call('EXPIRE', KEYS[2], ARGV[3])
"""

_silent_until = 0.0


class Theirs(NamedTuple):
    """Whose an execution is and what it runs, for the stream of all that is theirs."""

    owner: str
    flow: str


class ExecutionFailed(Exception):
    """What `AsyncResult(task_id).info` is at FAILURE; Celery demands an exception. args: sentence, details."""


class RedisOptions(TypedDict):
    socket_timeout: float
    socket_connect_timeout: float
    retry: Retry


@cache
def redis_client() -> Redis:
    """The process's client. One connection per thread that is using it at the moment."""
    return Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=REDIS_TIMEOUT,
        socket_connect_timeout=REDIS_TIMEOUT,
        retry=Retry(NoBackoff(), 0),
        max_connections=200,
    )


def with_redis(what: Callable[[Redis], Any], default: Any = None) -> Any:
    """Do something with Redis and return what it gives, or the default where Redis does not answer."""
    global _silent_until
    if time.monotonic() < _silent_until:
        return default
    try:
        return what(redis_client())
    except (RedisError, OSError) as error:
        _silent_until = time.monotonic() + PAUSE_AFTER_FAILURE
        logger.warning("Redis does not answer (%s); going on without it", type(error).__name__)
        return default


def stream_key(execution_id: str) -> str:
    return f"execution:{execution_id}"


def meta_key(execution_id: str) -> str:
    return f"celery-task-meta-{execution_id}"


def owner_channel(owner: str) -> str:
    return f"owner:{owner}"


def encode(event: Event) -> bytes:
    return orjson.dumps(event)


def history(execution_id: str) -> Snapshot | None:
    """Return the snapshot that Redis knows, up to the last event.

    None where it knows nothing whole, or something of another version of this code.
    """

    def read(redis: Redis) -> Snapshot | None:
        snapshot = read_meta(redis.get(meta_key(execution_id)))
        after = f"({snapshot.id}" if snapshot else "-"
        events = read_events(redis.xrange(stream_key(execution_id), after, "+"))
        try:
            return follow(execution_id, snapshot, events)
        except (ValueError, LookupError, TypeError):
            return None

    found: Snapshot | None = with_redis(read)
    return found


def follow(execution_id: str, snapshot: Snapshot | None, events: Iterable[bytes]) -> Snapshot | None:
    """Fold encoded events onto a snapshot; without one they must reach back to the very first."""
    decoded: list[Event] = [orjson.loads(event) for event in events]
    if snapshot is None:
        if not decoded or (decoded[0]["id"] != "1-1" and decoded[0]["type"] != "snapshot"):
            return None
        snapshot = Snapshot(url=page_address(execution_id))
    for event in decoded:
        snapshot = fold(snapshot, event)
    return snapshot


def read_events(rows: Any) -> list[bytes]:
    """Return the encoded events in what XRANGE gave."""
    return [fields[b"e"] for _, fields in rows]


def latest(execution_ids: list[str]) -> dict[str, Snapshot]:
    """Return by id what the task metas hold, in one round trip: snapshots up to a quarter of a second old."""
    metas = (
        with_redis(lambda redis: redis.mget([meta_key(each) for each in execution_ids]), [])
        if execution_ids
        else []
    )
    snapshots = zip(execution_ids, map(read_meta, metas), strict=False)
    return {execution_id: snapshot for execution_id, snapshot in snapshots if snapshot}


def read_meta(meta: Any) -> Snapshot | None:
    """Return the snapshot in a task meta; None where there is none, or one of another version of this code."""
    try:
        return Snapshot.load(orjson.loads(meta)["snapshot"]) if meta else None
    except (ValueError, LookupError, TypeError):
        return None


class Publisher:
    """Sends one attempt's events: numbers, gathers, folds and writes them. May be called from any thread.

    Events go out at once after a quiet moment, and are gathered for 25 ms otherwise. `on_superseded` is called
    when Redis tells that the execution went on elsewhere.
    """

    def __init__(
        self,
        execution_id: str,
        attempt: int,
        base: Snapshot,
        on_superseded: Callable[[], None],
        theirs: Theirs | None = None,
    ) -> None:
        self.execution_id = execution_id
        self.snapshot = base
        self._owner_news = OwnerNews(execution_id, theirs) if theirs else None
        self._attempt = attempt
        self._seq = 0
        self._on_superseded = on_superseded
        self._waiting: list[Event] = []
        self._waiting_lock = threading.Lock()
        self._flush_lock = threading.Lock()
        self._flushed_at = 0.0
        self._meta_at = 0.0
        self._meta_due = False
        self._lost = False
        self._retry_due = False
        self._last_retry = math.inf
        self._closed = False

    def send(self, event: Event) -> None:
        """Tell the watchers. Returns within moments; raises nothing."""
        with self._waiting_lock:
            if self._closed:
                return
            self._gather(event)
            first = len(self._waiting) == 1
        if time.monotonic() - self._flushed_at >= GATHER:
            self.flush()
        elif first:
            _flusher().at(self._flushed_at + GATHER, self.flush)

    def resume(self) -> None:
        """Begin with the whole snapshot, for watchers whose own does not lead up to it."""
        self._lost = True

    def close(self, result: Event) -> None:
        """Send the last event and the final task meta."""
        self.send(result)
        with self._waiting_lock:
            self._closed = True
        self._last_retry = time.monotonic() + LAST_RETRY
        self.flush()

    def leave(self) -> None:
        """Send what is waiting, and then nothing more: the execution is somebody else's now."""
        self.flush()
        with self._flush_lock, self._waiting_lock:
            self._closed, self._waiting = True, []
            self._lost = self._meta_due = False
            self._last_retry = 0.0

    def flush(self) -> None:
        """Number and send what is waiting, and the task meta when that is due."""
        with self._flush_lock:
            with self._waiting_lock:
                events, self._waiting = self._waiting, []
            numbered = [self._numbered(event) for event in events]
            for event in numbered:
                self.snapshot = fold(self.snapshot, event)
            if self._owner_news:
                self._owner_news.note(numbered)
            self._meta_due = self._meta_due or bool(events)
            if self._lost and self._seq:
                numbered = [self._whole_snapshot()]
            self._write(numbered)

    def _gather(self, event: Event) -> None:
        """Add an event to what is waiting; a token joins the one before it."""
        last = self._waiting[-1] if self._waiting else None
        if last and event["type"] == "token" == last["type"] and event["step"] == last["step"]:
            last["text"] += event["text"]
        else:
            self._waiting.append(event.copy())

    def _numbered(self, event: Event) -> Event:
        self._seq += 1
        event["id"] = str(EventId(self._attempt, self._seq))
        return event

    def _whole_snapshot(self) -> Event:
        """Return all that was lost in one event, with a number that Redis has not seen."""
        event = self._numbered({"type": "snapshot", "snapshot": self.snapshot.dump()})
        self.snapshot.id = EventId.parse(event["id"])
        return event

    def _write(self, events: list[Event]) -> None:
        now = time.monotonic()
        with_meta = self._meta_due and (self.snapshot.is_final or now - self._meta_at >= META_INTERVAL)
        if not events and not with_meta:
            return
        replies = with_redis(lambda redis: self._pipelined(redis, events, with_meta))
        self._flushed_at = time.monotonic()
        if replies is None:
            self._lost = True
            self._retry_later()
            return
        if any(isinstance(reply, ResponseError) and "equal or smaller" in str(reply) for reply in replies):
            self._on_superseded()
        self._lost = any(isinstance(reply, Exception) for reply in replies)
        if with_meta:
            self._meta_at, self._meta_due = now, False
            if self._owner_news:
                self._owner_news.clear()
        elif self._meta_due:
            _flusher().at(self._meta_at + META_INTERVAL, self.flush)

    def _retry_later(self) -> None:
        """Tell what was lost even where nothing more happens."""
        if self._retry_due or time.monotonic() > self._last_retry:
            return
        self._retry_due = True
        _flusher().at(time.monotonic() + PAUSE_AFTER_FAILURE, self._retry)

    def _retry(self) -> None:
        self._retry_due = False
        if self._lost:
            self.flush()

    def _pipelined(self, redis: Redis, events: list[Event], with_meta: bool) -> list[Any]:
        pipeline = redis.pipeline(transaction=False)
        if with_meta:  # before the events: whoever misses some finds all of them in it
            set_meta(pipeline, self.execution_id, self.snapshot)
        for event in events:
            add_event(pipeline, self.execution_id, event)
        if with_meta:
            keep_events(pipeline, self.execution_id)
            if self._owner_news:
                self._owner_news.tell(pipeline, self.snapshot)
        return pipeline.execute(raise_on_error=False)


class OwnerNews:
    """What an owner was not told yet of an execution. It is told with the task meta: four times a second at most."""

    def __init__(self, execution_id: str, theirs: Theirs) -> None:
        self._execution_id = execution_id
        self._theirs = theirs
        self._nodes: list[OwnerEvent] = []
        self._now: OwnerEvent | None = None
        self._told: OwnerEvent | None = None

    def note(self, events: Iterable[Event]) -> None:
        """Keep what is told one by one: steps that ended."""
        self._nodes += node_events(self._execution_id, self._theirs.flow, events)
        del self._nodes[:-OWNER_EVENTS_KEPT]

    def tell(self, pipeline: Any, snapshot: Snapshot) -> None:
        self._now = execution_event(self._execution_id, self._theirs.flow, snapshot)
        changed = [self._now] if self._now != self._told else []
        news = [*self._nodes, *changed] if snapshot.is_final else [*changed, *self._nodes]
        tell_owner(pipeline, self._theirs.owner, self._execution_id, str(snapshot.id), news)

    def clear(self) -> None:
        """Note that it was told."""
        self._told, self._nodes = self._now, []


class OutsideEnd(NamedTuple):
    """An end that was decided outside of the attempt: cancelled, overdue, poisonous. The snapshot has it in it."""

    execution_id: str
    event: Event
    snapshot: Snapshot
    theirs: Theirs | None


def outside_end(
    execution_id: str, attempt: int, result: Event, before: Snapshot, theirs: Theirs | None = None
) -> OutsideEnd:
    number = EventId(attempt, LAST_SEQ)
    event: Event = {**result, "id": str(number)}
    snapshot = fold(before, event)
    snapshot.id = number  # also where what is stored has the end in it
    return OutsideEnd(execution_id, event, snapshot, theirs)


def announce_end(
    execution_id: str, attempt: int, result: Event, stored: Snapshot, theirs: Theirs | None = None
) -> None:
    """Tell watchers of an end that was decided outside of the attempt."""
    shown = history(execution_id)
    before = merge(shown, stored) if shown else stored
    announce_ends([outside_end(execution_id, attempt, result, before, theirs)])


def announce_ends(ends: Iterable[OutsideEnd]) -> None:
    """Tell watchers, of all in one round trip."""

    def write(redis: Redis) -> None:
        pipeline = redis.pipeline(transaction=False)
        for end in ends:
            set_meta(pipeline, end.execution_id, end.snapshot)
            add_event(pipeline, end.execution_id, end.event)
            keep_events(pipeline, end.execution_id)
            if end.theirs:
                news = execution_event(end.execution_id, end.theirs.flow, end.snapshot)
                tell_owner(pipeline, end.theirs.owner, end.execution_id, end.event["id"], [news])
        pipeline.execute(raise_on_error=False)

    with_redis(write)


def announce_start(execution_id: str, theirs: Theirs, snapshot: Snapshot) -> None:
    """Tell an owner of an execution that was just started."""
    event = execution_event(execution_id, theirs.flow, snapshot, is_new=True)
    with_redis(lambda redis: tell_owner(redis, theirs.owner, execution_id, "", [event]))


def add_event(pipeline: Any, execution_id: str, event: Event) -> None:
    key, encoded = stream_key(execution_id), encode(event)
    pipeline.xadd(key, {"e": encoded}, id=event["id"], maxlen=STREAM_LENGTH, approximate=True)
    pipeline.publish(key, encoded)


def tell_owner(redis: Any, owner: str, execution_id: str, number: str, events: Iterable[OwnerEvent]) -> None:
    """Tell an owner what happened, unless another event than `number` is the execution's newest."""
    if encoded := [event.encode() for event in events]:
        keys = stream_key(execution_id), owner_channel(owner)
        redis.eval(
            TELL_OWNER, len(keys), *keys, number, OWNER_STREAM_LENGTH, settings.EVENT_RETENTION, *encoded
        )


def set_meta(pipeline: Any, execution_id: str, snapshot: Snapshot) -> None:
    meta = encode_meta(execution_id, snapshot)
    keys = stream_key(execution_id), meta_key(execution_id)
    pipeline.eval(SET_META, len(keys), *keys, str(snapshot.id), meta, settings.EVENT_RETENTION)


def keep_events(pipeline: Any, execution_id: str) -> None:
    """Let an execution's events be kept from now on for as long as they are; asked for with each task meta."""
    pipeline.expire(stream_key(execution_id), settings.EVENT_RETENTION)


def encode_meta(execution_id: str, snapshot: Snapshot) -> bytes:
    """Write a snapshot as Celery's result backend keeps a task, so that AsyncResult reads it."""
    details = snapshot.public()["details"]
    result: Any = details
    if snapshot.error:
        result = {
            "exc_type": ExecutionFailed.__name__,
            "exc_module": ExecutionFailed.__module__,
            "exc_message": [snapshot.error["message"], details],
        }
    return orjson.dumps(
        {
            "task_id": execution_id,
            "status": snapshot.state,
            "result": result,
            "traceback": None,
            "children": [],
            "snapshot": snapshot.dump(),
        }
    )


class _Flusher:
    """One thread per process that does what is due a little later."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._changed = threading.Condition()
        self._count = 0
        threading.Thread(target=self._work, name="flusher", daemon=True).start()

    def at(self, when: float, what: Callable[[], None]) -> None:
        with self._changed:
            self._count += 1
            heapq.heappush(self._due, (when, self._count, what))
            self._changed.notify()

    def _work(self) -> None:
        while True:
            due = self._next()
            try:
                due()
            except Exception:
                logger.exception("an execution's events could not be sent")

    def _next(self) -> Callable[[], None]:
        with self._changed:
            while True:
                pause = self._due[0][0] - time.monotonic() if self._due else None
                if pause is not None and pause <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(pause)


@cache
def _flusher() -> _Flusher:
    return _Flusher()
