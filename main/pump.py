"""Watchers: one Redis subscription per web process, any number of open streams.

Each execution that is watched is folded once, encoded once per frame, and shared by all its watchers. A frame is
a whole snapshot, so a slow watcher simply gets the newest one when it is ready; nothing queues up for it.

What Redis does not say comes from PostgreSQL: the snapshot of an execution that Redis has forgotten, the end of
one whose last event was lost, and everything while Redis is away.
"""

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson
from django.conf import settings
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from main.channel import GATHER, REDIS_TIMEOUT, follow, meta_key, read_events, read_meta, stream_key
from main.database import DATABASE_AWAY, with_database
from main.events import LAST_SEQ, NO_EVENT, Event, EventId, Snapshot, fold, merge
from main.models import Execution
from main.run import page_address

logger = logging.getLogger(__name__)

# What says that Redis is away. uvloop raises a RuntimeError where a connection closes just as something is written.
REDIS_AWAY = (RedisError, OSError, RuntimeError)

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# The header by which a Django view hands its request over to the pump; never sent to a client.
HAND_OFF = "X-Watch-Execution"
# Stands in it where nobody has begun the execution, so that nothing is stored of it but its row.
NEW = "new"
EVENT_STREAM = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
# At most ten frames a second for one execution; a comment where nothing else was sent for 15 s.
FRAME_INTERVAL = 0.1
KEEP_ALIVE = 15.0
# How often silent executions are looked up in PostgreSQL, in seconds; and all of them while Redis is away.
LOOK_UP = 5.0
LOOK_UP_WITHOUT_REDIS = 1.0
# Seconds after which a client whose stream just ends shall come back, and the spread after a deploy.
RETRY = 2.0
RETRY_SPREAD = 2.0
# Seconds that Redis may take for an answer before it is taken for hung.
PING_PATIENCE = 1.0
FIRST_EVENT = EventId(1, 1)
# A channel that is always subscribed, so that the connection lives while nothing is watched.
IDLE_CHANNEL = "pump"


def hand_off(execution: Execution) -> dict[str, str]:
    """Return the header that hands the request of a watcher over."""
    return {HAND_OFF: f"{execution.id} {NEW if execution.is_new else ''}"}


def encode_frame(snapshot: Snapshot) -> bytes:
    """Return a snapshot as an unnamed SSE message; the last one has the id `end`."""
    head = b"id: end\ndata: " if snapshot.is_final else b"data: "
    return head + orjson.dumps(snapshot.public()) + b"\n\n"


def encode_last_frame(snapshot: Snapshot) -> bytes:
    return _retry(RETRY) + encode_frame(snapshot)


def _retry(seconds: float) -> bytes:
    return b"retry: %d\n\n" % int(seconds * 1000)


class Watcher:
    """An open stream: sleeps until there is a newer frame, a comment is due, or it shall end."""

    __slots__ = ("_wake", "gone", "ping")

    def __init__(self) -> None:
        self.gone = False
        self.ping = False
        self._wake: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self._wake and not self._wake.done():
            self._wake.set_result(None)

    async def sleep(self) -> None:
        self._wake = asyncio.get_running_loop().create_future()
        await self._wake


class Watched:
    """An execution that somebody watches: its snapshot, its newest frame, its watchers."""

    def __init__(self, execution_id: str) -> None:
        self.id = execution_id
        self.snapshot: Snapshot | None = None
        self.whole = False  # the snapshot holds everything up to its number
        self.early: list[bytes] | None = []  # events that came while the snapshot was being read
        self.watchers: set[Watcher] = set()
        self.frame = b""
        self.version = 0
        self.framed_at = 0.0
        self.heard_at = time.monotonic()
        self.timer: asyncio.TimerHandle | None = None
        self.ready = asyncio.Event()

    def is_missing_something_before(self, event: Event) -> bool:
        return self.snapshot is None or not self.whole or _leaves_gap(self.snapshot, event)

    def wake_all(self) -> None:
        for watcher in self.watchers:
            watcher.wake()

    def changed(self) -> None:
        """Make a new frame, now or as soon as the last one is a tenth of a second old."""
        due = self.framed_at + FRAME_INTERVAL - time.monotonic()
        if due <= 0 or (self.snapshot and self.snapshot.is_final):
            self.make_frame()
        elif self.timer is None:
            self.timer = asyncio.get_running_loop().call_later(due, self.make_frame)

    def make_frame(self) -> None:
        if self.timer:
            self.timer.cancel()
            self.timer = None
        if self.snapshot:
            self.frame = encode_frame(self.snapshot)
            self.version += 1
            self.framed_at = time.monotonic()
            self.wake_all()


class Pump:
    """The streams of one web process. Everything here runs in its event loop."""

    def __init__(self) -> None:
        self._watched: dict[str, Watched] = {}
        self._redis: Redis | None = None
        self._pubsub: PubSub | None = None
        self._connected = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    async def stream(self, handed_over: str, receive: Receive, send: Send) -> None:
        """Serve one watcher until the execution ends, the client leaves, or the server does.

        `handed_over` is what `hand_off` wrote.
        """
        execution_id, _, mark = handed_over.partition(" ")
        self._begin()
        watched = await self._watch(execution_id, is_new=mark == NEW)
        watcher = Watcher()
        watched.watchers.add(watcher)
        leaving = asyncio.ensure_future(_notice_leaving(receive, watcher))
        try:
            await _send_start(send)
            await self._send_frames(watched, watcher, send)
        finally:
            leaving.cancel()
            watched.watchers.discard(watcher)
            await self._forget(watched)

    def close(self) -> None:
        """Tell every watcher to come back a little later, and end its stream. May be called from a signal."""
        self._closing = True
        for watched in self._watched.values():
            watched.wake_all()

    async def _send_frames(self, watched: Watched, watcher: Watcher, send: Send) -> None:
        shown = 0
        while not watcher.gone:
            if self._closing:
                back = RETRY / 2 + random.random() * RETRY_SPREAD  # noqa: S311
                await send({"type": "http.response.body", "body": _retry(back), "more_body": False})
                return
            if shown != watched.version:
                shown, final = watched.version, bool(watched.snapshot and watched.snapshot.is_final)
                await send({"type": "http.response.body", "body": watched.frame, "more_body": not final})
                if final:
                    return
                continue
            if watcher.ping:
                watcher.ping = False
                await send({"type": "http.response.body", "body": b":\n\n", "more_body": True})
            await watcher.sleep()

    # What is watched

    async def _watch(self, execution_id: str, *, is_new: bool) -> Watched:
        """Return the execution with its snapshot read; the first watcher of it subscribes and reads."""
        watched = self._watched.get(execution_id)
        if watched is None:
            watched = self._watched[execution_id] = Watched(execution_id)
            try:
                await self._subscribe(execution_id)
                if is_new:  # nothing is stored of it yet, so the database need not be asked
                    watched.snapshot = Snapshot(url=page_address(execution_id))
                    watched.whole = True
                else:  # Redis may know less than another server has shown
                    watched.snapshot = await self._stored(execution_id)
                    await self._let_redis_catch_up(watched)
                await self._read(watched)
                watched.framed_at = 0.0  # the first frame holds up none
            except BaseException:
                self._watched.pop(execution_id, None)  # the next watcher shall try anew
                raise
            finally:
                watched.ready.set()
        await watched.ready.wait()
        return watched

    async def _forget(self, watched: Watched) -> None:
        if watched.watchers or self._watched.get(watched.id) is not watched:
            return
        del self._watched[watched.id]
        if watched.timer:
            watched.timer.cancel()
        if self._pubsub and self._connected.is_set():
            try:
                await self._pubsub.unsubscribe(stream_key(watched.id))
            except REDIS_AWAY:
                await self._disconnect()

    async def _read(self, watched: Watched) -> None:
        """Read the snapshot, from Redis or else from PostgreSQL, and fold on what came meanwhile."""
        watched.early = [] if watched.early is None else watched.early
        known, events = await self._known(watched)
        if known is None:
            known = follow(watched.id, None, events)
        watched.whole = known is not None and _leads_to(known, events)
        shown = watched.snapshot or (await self._stored(watched.id) if known is None else None)
        early, watched.early = watched.early, None
        newer = [*events, *early]
        if known is None or known is shown:
            watched.snapshot = follow(watched.id, shown, newer) if shown else None
        else:
            watched.snapshot = _newest(follow(watched.id, known, newer), shown)
        if watched.snapshot is None:
            return
        watched.heard_at = time.monotonic()
        watched.make_frame()

    async def _let_redis_catch_up(self, watched: Watched) -> None:
        """Wait a moment where a step is stored that Redis does not know as done: events are gathered before they go."""
        known = follow(watched.id, *await self._known(watched))
        if watched.snapshot and not watched.snapshot.done_steps <= (known.done_steps if known else set()):
            await asyncio.sleep(2 * GATHER)

    async def _known(self, watched: Watched) -> tuple[Snapshot | None, list[bytes]]:
        """Return the newest whole snapshot, if there is one, and the events after it that Redis has."""
        snapshot = watched.snapshot if watched.whole else None
        if not self._redis or not self._connected.is_set():
            return snapshot, []
        try:
            async with asyncio.timeout(REDIS_TIMEOUT):
                meta = read_meta(await self._redis.get(meta_key(watched.id)))
                if meta and (snapshot is None or meta.id > snapshot.id):
                    meta.progress = max(meta.progress, watched.snapshot.progress if watched.snapshot else 0)
                    snapshot = meta
                after = f"({snapshot.id}" if snapshot else "-"
                events = read_events(await self._redis.xrange(stream_key(watched.id), after, "+"))
        except REDIS_AWAY:
            return snapshot, []
        return snapshot, events

    async def _take_stored(self, watched: Watched) -> None:
        if stored := await self._stored(watched.id):
            watched.snapshot = merge(watched.snapshot, stored) if watched.snapshot else stored

    async def _stored(self, execution_id: str) -> Snapshot | None:
        try:
            return await asyncio.to_thread(with_database, lambda: _stored_snapshot(execution_id))
        except DATABASE_AWAY:
            return None

    # What Redis says

    def _begin(self) -> None:
        if not self._tasks:
            self._tasks = [asyncio.ensure_future(self._listen_forever()), asyncio.ensure_future(self._tick())]

    async def _subscribe(self, execution_id: str) -> None:
        try:
            async with asyncio.timeout(REDIS_TIMEOUT):
                await self._connected.wait()
                assert self._pubsub  # noqa: S101 — set before `_connected`
                await self._pubsub.subscribe(stream_key(execution_id))
        except REDIS_AWAY:
            if self._connected.is_set():  # so that the listener subscribes anew; without, it is about to
                await self._disconnect()

    async def _listen_forever(self) -> None:
        while True:
            try:
                await self._listen()
            except REDIS_AWAY as error:
                logger.warning("no live events: Redis does not answer (%s)", type(error).__name__)
            except Exception:
                logger.exception("the pump stumbled")
            finally:
                await self._disconnect()
            await asyncio.sleep(0.5)

    async def _listen(self) -> None:
        """Subscribe to everything that is watched, catch up, and then hand on what comes."""
        await self._connect()
        assert self._pubsub  # noqa: S101
        await self._pubsub.subscribe(IDLE_CHANNEL, *(stream_key(id_) for id_ in self._watched))
        self._connected.set()
        for watched in list(self._watched.values()):
            if watched.ready.is_set():
                await self._read(watched)
        while True:
            message = await self._pubsub.get_message(ignore_subscribe_messages=True, timeout=None)
            if message:
                await self._heard(message["channel"].decode().removeprefix("execution:"), message["data"])

    async def _disconnect(self) -> None:
        self._connected.clear()
        if self._redis:
            await self._redis.aclose()

    async def _connect(self) -> None:
        self._redis = Redis.from_url(
            settings.REDIS_URL, socket_connect_timeout=REDIS_TIMEOUT, retry=Retry(NoBackoff(), 0)
        )
        self._pubsub = self._redis.pubsub()
        async with asyncio.timeout(PING_PATIENCE):
            await self._redis.ping()

    async def _notice_silence(self) -> None:
        """Leave a Redis that hangs: that alone breaks no connection."""
        if not self._redis or not self._connected.is_set():
            return
        try:
            async with asyncio.timeout(PING_PATIENCE):
                await self._redis.ping()
        except REDIS_AWAY:
            await self._disconnect()

    async def _heard(self, execution_id: str, encoded: bytes) -> None:
        watched = self._watched.get(execution_id)
        if watched is None:
            return
        if watched.early is not None:
            watched.early.append(encoded)
            return
        watched.heard_at = time.monotonic()
        event: Event = orjson.loads(encoded)
        if watched.is_missing_something_before(event):
            await self._read(watched)
            watched.whole = not watched.is_missing_something_before(event)
            if not watched.whole and _tells_an_end(event):  # which is stored, with what led to it
                await self._take_stored(watched)
        if watched.snapshot:
            watched.snapshot = fold(watched.snapshot, event)
            watched.changed()

    # What PostgreSQL says

    async def _tick(self) -> None:
        """Send comments into silence, and look silent executions up in the database."""
        while True:
            await asyncio.sleep(LOOK_UP if self._connected.is_set() else LOOK_UP_WITHOUT_REDIS)
            try:
                self._keep_alive()
                await self._notice_silence()
                await self._look_up()
            except DATABASE_AWAY:
                logger.warning("the database is away; streams stay open")
            except Exception:
                logger.exception("the pump stumbled")

    def _keep_alive(self) -> None:
        for watched in self._watched.values():
            if time.monotonic() - watched.framed_at > KEEP_ALIVE - LOOK_UP:
                watched.framed_at = time.monotonic()
                for watcher in watched.watchers:
                    watcher.ping = True
                    watcher.wake()

    async def _look_up(self) -> None:
        patience = LOOK_UP if self._connected.is_set() else 0.0
        silent = [each for each in self._watched.values() if time.monotonic() - each.heard_at >= patience]
        if not silent:
            return
        ids = [each.id for each in silent]
        whole = not self._connected.is_set() or any(each.snapshot is None for each in silent)
        stored = await asyncio.to_thread(with_database, lambda: _look_up_stored(ids, whole))
        for watched in silent:
            if found := stored.get(watched.id):
                watched.snapshot = merge(watched.snapshot, found) if watched.snapshot else found
                watched.heard_at = time.monotonic()
                watched.changed()


def _newest(known: Snapshot | None, shown: Snapshot | None) -> Snapshot | None:
    """Return what Redis knows, with what was shown or is stored, or that alone where Redis is behind."""
    if known is None or shown is None:
        return known or shown
    return merge(known, shown) if known.id > shown.id else shown


def _tells_an_end(event: Event) -> bool:
    return event["type"] == "result" or (event["type"] == "step" and event["state"] == "done")


def _leaves_gap(snapshot: Snapshot, event: Event) -> bool:
    number = EventId.parse(event["id"])
    expected = FIRST_EVENT if snapshot.id == NO_EVENT else (snapshot.id.attempt, snapshot.id.seq + 1)
    return number > snapshot.id and number != expected


def _leads_to(snapshot: Snapshot, events: list[bytes]) -> bool:
    """Say whether nothing is missing between a snapshot and the events that Redis has after it."""
    if not events:
        return True
    first: Event = orjson.loads(events[0])
    number = EventId.parse(first["id"])
    expected = snapshot.id.seq + 1 if number.attempt == snapshot.id.attempt else 1
    return first["type"] == "snapshot" or number <= snapshot.id or number.seq in (expected, LAST_SEQ)


def _stored_snapshot(execution_id: str) -> Snapshot | None:
    execution = Execution.objects.filter(id=uuid.UUID(execution_id)).first()
    return execution.snapshot() if execution else None


def _look_up_stored(ids: list[str], whole: bool) -> dict[str, Snapshot]:
    """Return the snapshots of those that have ended; without Redis, of all of them."""
    found = Execution.objects.filter(id__in=ids)
    if not whole:
        found = found.filter(state__in=Execution.FINAL)
    return {str(execution.id): execution.snapshot() for execution in found}


async def _send_start(send: Send) -> None:
    headers = [(name.lower().encode(), value.encode()) for name, value in EVENT_STREAM.items()]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _retry(RETRY), "more_body": True})


async def _notice_leaving(receive: Receive, watcher: Watcher) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    watcher.gone = True
    watcher.wake()
