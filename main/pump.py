"""Watchers: one Redis subscription per web process, any number of open streams.

Each execution that is watched is folded once and encoded once, and what is sent is shared by all its watchers
(watched.py); so is what an owner is told of all theirs (owned.py). An open stream is one small object and the server's
own task (watchers.py): no thread, no database connection.

What Redis does not say comes from PostgreSQL: the snapshot of an execution that Redis has forgotten, the end of
one whose last event was lost, and everything while Redis is away.
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import orjson
from django.db import OperationalError
from django.http import HttpResponse
from django.utils.translation import gettext as _

from main import sse
from main.access import Viewer, still_allowed
from main.channel import GATHER, owner_channel, stream_key
from main.database import DATABASE_AWAY, with_database
from main.events import NO_EVENT, Event, EventId, Snapshot, fold, merge
from main.owned import News, Owned, OwnerWatcher, order
from main.owner_events import COMPLETED, FAILED, OwnerEvent
from main.run import page_address
from main.stored import present_by_owner, present_since, snapshots_of_ended, stored_snapshots
from main.subscription import Subscription
from main.together import Together
from main.watched import EventWatcher, SnapshotWatcher, Told, Watched, leads_on, leads_to, told, whole
from main.watchers import Receive, Send, Watcher

logger = logging.getLogger(__name__)

# A comment where nothing else was sent for 15 s.
KEEP_ALIVE = 15.0
# How often silent executions are looked up in PostgreSQL, in seconds; and all of them while Redis is away.
LOOK_UP = 5.0
LOOK_UP_WITHOUT_REDIS = 1.0
# Seconds for which Redis may be away before PostgreSQL is asked instead: it knows no single events.
AWAY = 2.0
# Seconds between two looks whether those who watch still may.
ACCESS = 3.0
# Seconds after which a client whose stream just ends shall come back, and the spread: not all come at once, and of
# many at most about so many in a second.
RETRY = 1.0
RETRY_SPREAD = 3.0
RETURNS_PER_SECOND = 1000
# Threads that ask the database.
DATABASE_THREADS = 2
# How many events are read at once of what a watcher missed.
MISSED_AT_ONCE = 200
# Seconds that PostgreSQL may take for an answer before it is taken for hung.
DATABASE_PATIENCE = 5.0
ENDS = (COMPLETED, FAILED)

Found = TypeVar("Found")


class ExecutionGoneError(Exception):
    """There is no such execution any more, or not for who asks."""


class TooManyStreamsError(Exception):
    """This person has as many streams open as they may. It says so in a sentence."""

    def __init__(self, most: int) -> None:
        super().__init__(
            _(
                "You have %(most)d streams open, which is as many as you may. Close one, or watch all your executions "
                "on one stream."
            )
            % {"most": most}
        )


@dataclass(frozen=True)
class WatchExecution:
    """What a watcher of one execution asked for, and may have. `types` are those of events; none means all."""

    execution_id: str
    viewer: Viewer
    shows: Literal["snapshots", "events"] = "snapshots"
    is_new: bool = False
    """Whether nobody has begun it, so that nothing is stored of it but its row."""
    seen: EventId = NO_EVENT
    types: frozenset[str] = frozenset()
    by_ticket: bool = False
    """Whether it is still to be looked up if the session has not ended since the ticket was made."""


@dataclass(frozen=True)
class WatchOwned:
    """What a watcher of all their executions asked for: of a user, or a visitor, or of one who is both."""

    owners: tuple[str, ...]
    viewer: Viewer
    seen: tuple[str, ...] = ()


Watch = WatchExecution | WatchOwned


class HandOff(HttpResponse):
    """A view's answer by which the request ends, and its connection is the pump's from then on."""

    def __init__(self, watch: Watch) -> None:
        super().__init__(headers=dict(sse.HEADERS))
        self.watch = watch


class Pump:
    """The streams of one web process. Everything here runs in its event loop."""

    def __init__(self) -> None:
        self.subscription = Subscription(self._heard, self._catch_up_all)
        self._watched: dict[str, Watched] = {}
        self._owned: dict[str, Owned] = {}
        self._watchers: set[Watcher] = set()
        self._open: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._threads = ThreadPoolExecutor(DATABASE_THREADS, thread_name_prefix="pump")
        self._admission = Together(partial(self._in_thread, _admission))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = False

    async def stream(self, watch: Watch, receive: Receive, send: Send) -> None:
        """Serve one watcher until all is told, the client leaves, or the server does.

        Raises TooManyStreamsError, and ExecutionGoneError, before anything is sent.
        """
        viewer = watch.viewer
        if viewer.most_streams and self._open[viewer.person] >= viewer.most_streams:
            raise TooManyStreamsError(viewer.most_streams)
        self._open[viewer.person] += 1
        try:
            self._begin()
            if isinstance(watch, WatchExecution):
                await self._stream_execution(watch, receive, send)
            else:
                await self._stream_owned(watch, receive, send)
        finally:
            self._open[viewer.person] -= 1
            if not self._open[viewer.person]:
                del self._open[viewer.person]

    def close(self) -> None:
        """Tell every watcher to come back a little later, and end its stream. May be called from a signal."""
        self._closing = True
        if self._loop:  # a signal comes in the middle of anything
            self._loop.call_soon_threadsafe(self._say_goodbye)

    def _say_goodbye(self) -> None:
        for watcher in list(self._watchers):
            watcher.end(sse.retry(self._some_time()))

    def _some_time(self) -> float:
        """Return after how many seconds a client shall come back: the more there are, the more they are spread."""
        spread = RETRY_SPREAD + len(self._watchers) / RETURNS_PER_SECOND
        return RETRY + random.random() * spread  # noqa: S311

    async def _serve(self, watcher: Watcher, receive: Receive) -> None:
        """Send what was missed, and wait for the end: what happens is sent by who has it."""
        self._watchers.add(watcher)
        try:
            await watcher.open(self._some_time())
            if self._closing:
                watcher.end(sse.retry(self._some_time()))
            await watcher.catch_up()
            while not watcher.is_over and (await receive())["type"] != "http.disconnect":
                pass
        finally:
            watcher.leave()
            self._watchers.discard(watcher)

    async def _in_thread(self, what: Callable[[Any], Found], of: Any) -> Found:
        """Ask the database; raises what says that it is away, also where it hangs."""
        ask = partial(with_database, lambda: what(of))
        try:
            async with asyncio.timeout(DATABASE_PATIENCE):
                return await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        except TimeoutError as error:
            raise OperationalError("PostgreSQL does not answer.") from error

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _begin(self) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            works = (self.subscription.listen(), self._keep(), self._tick(), self._check_access())
            for work in works:
                self._spawn(work)

    # One execution

    async def _stream_execution(self, watch: WatchExecution, receive: Receive, send: Send) -> None:
        watched = await self._watch_if_allowed(watch)
        watchers: set[Any] = watched.showing
        watcher: Watcher = SnapshotWatcher(send, watch.viewer, watched)
        if watch.shows == "events":
            watchers = watched.telling
            watcher = EventWatcher(
                send, watch.viewer, watched, seen=watch.seen, types=watch.types, since=self._since
            )
        watchers.add(watcher)
        try:
            await self._serve(watcher, receive)
        finally:
            watchers.discard(watcher)
            await self._forget(watched)

    async def _watch_if_allowed(self, watch: WatchExecution) -> Watched:
        """Look up whether a ticket still holds, in the same breath as what is watched."""
        watching = partial(self._watch, watch.execution_id, is_new=watch.is_new)
        if watch.by_ticket:
            watched, allowed = await asyncio.gather(watching(), self._is_allowed(watch.viewer))
            if not allowed:
                await self._forget(watched)
                raise ExecutionGoneError
        return await watching()  # others may have left it, and it been forgotten, since it was read

    async def _is_allowed(self, viewer: Viewer) -> bool:
        """Say whether someone still has a session, as far as that can be known."""
        try:
            return bool(await self._admission(viewer))
        except DATABASE_AWAY:
            return True

    async def _watch(self, execution_id: str, *, is_new: bool) -> Watched:
        """Return the execution with its snapshot read; the first watcher of it subscribes and reads."""
        while watched := self._watched.get(execution_id):
            await watched.ready.wait()
            if self._watched.get(execution_id) is watched:  # it could be read
                return watched
        watched = self._watched[execution_id] = Watched(execution_id)
        try:
            await self._read_first(watched, is_new=is_new)
        except BaseException:
            del self._watched[execution_id]  # the next watcher shall try anew
            self._spawn(self.subscription.remove(stream_key(execution_id)))
            raise
        finally:
            watched.ready.set()
        return watched

    async def _read_first(self, watched: Watched, *, is_new: bool) -> None:
        if is_new:  # nothing is stored of it yet, so the database need not be asked
            watched.snapshot = Snapshot(url=page_address(watched.id))
            watched.whole = True
            await self.subscription.add(stream_key(watched.id))
        else:  # Redis may know less than another server has shown
            subscribing = asyncio.ensure_future(self.subscription.add(stream_key(watched.id)))
            watched.snapshot = await self._stored_snapshot(watched.id)
            await subscribing
            await self._let_redis_catch_up(watched)
        await self._catch_up(watched)
        watched.begin()

    async def _forget(self, watched: Watched) -> None:
        if watched.is_watched or self._watched.get(watched.id) is not watched:
            return
        del self._watched[watched.id]
        watched.close()
        await self.subscription.remove(stream_key(watched.id))

    async def _let_redis_catch_up(self, watched: Watched) -> None:
        """Wait a moment where a step is stored that Redis does not know as done: events are gathered before they go."""
        if not watched.snapshot or not watched.snapshot.done_steps:
            return
        known = _followed(*await self._known(watched))
        if not watched.snapshot.done_steps <= (known.done_steps if known else set()):
            await asyncio.sleep(2 * GATHER)

    # What Redis says of it

    def _heard(self, channel: str, data: bytes) -> None:
        kind, _, id_ = channel.partition(":")
        if kind == "owner" and (owned := self._owned.get(id_)):
            number, _, event = data.partition(b" ")
            owned.hear(News(number.decode(), OwnerEvent.decode(event)))
        elif watched := self._watched.get(id_):
            self._heard_of(watched, orjson.loads(data))

    def _heard_of(self, watched: Watched, event: Event) -> None:
        watched.heard_at = time.monotonic()
        number = EventId.parse(event["id"])
        if watched.early is not None:
            watched.early.append(event)
        elif watched.is_missing_something_before(number):
            watched.early = [event]
            self._spawn(self._catch_up(watched))
        else:
            watched.add(event, number)

    def _catch_up_all(self) -> None:
        """Look what was missed while Redis was not listened to."""
        for watched in self._watched.values():
            watched.is_behind = True  # also for who is just reading it: that may have been too early
            self._catch_up_soon(watched)
        for owned in self._owned.values():
            for watcher in owned.telling:
                watcher.fall_behind()

    def _catch_up_soon(self, watched: Watched) -> None:
        if watched.early is None:
            watched.early = []
            self._spawn(self._catch_up(watched))

    async def _catch_up(self, watched: Watched) -> None:
        """Bring an execution to where Redis is, and then add what came meanwhile."""
        watched.is_behind = False
        try:
            await self._read_events(watched)
        except Exception:  # such as an event of a newer version of this code; PostgreSQL will tell the end
            logger.exception("what Redis has of %s could not be understood", watched.id)
            watched.whole = False
        finally:
            await self._add_early(watched)
        if watched.is_behind:  # the subscription broke meanwhile
            self._catch_up_soon(watched)

    async def _add_early(self, watched: Watched) -> None:
        try:
            while watched.early:
                await self._add_late(watched, watched.early.pop(0))
        except Exception:  # such as an event of a newer version of this code
            logger.exception("what was told of %s could not be understood", watched.id)
            watched.whole = False
        finally:
            watched.early = None

    async def _add_late(self, watched: Watched, event: Event) -> None:
        """Add an event that came while it was read what was before."""
        number = EventId.parse(event["id"])
        if watched.is_missing_something_before(number) and not watched.knows(number):
            watched.whole = False
            if _tells_an_end(event):  # which is stored, with what led to it
                await self._take_stored(watched)
            watched.add_after_gap(event)
        else:
            watched.add(event, number)

    async def _read_events(self, watched: Watched) -> None:
        """Add the events that Redis has and that were not heard, or take the newest snapshot there is."""
        watched.heard_at = time.monotonic()
        if watched.whole and watched.snapshot:
            # The meta first: the events that are read after it have all that is in it.
            meta = await self.subscription.meta(watched.id)
            events = await self.subscription.events(watched.id, _after(watched.snapshot))
            newest = EventId.parse(events[-1]["id"]) if events else watched.snapshot.id
            if leads_to(watched.snapshot, events) and (meta is None or meta.id <= newest):
                for event in events:
                    watched.add(event, EventId.parse(event["id"]))
                return
        known, events = await self._known(watched)
        watched.whole = known is not None and leads_to(known, events)
        if known is None and watched.snapshot is None:
            await self._take_stored(watched)
        watched.jump(lambda: _newest(known, events, watched.snapshot))

    async def _known(self, watched: Watched) -> tuple[Snapshot | None, list[Event]]:
        """Return the newest whole snapshot that Redis has, and the events after it."""
        known = await self.subscription.meta(watched.id)
        if known and watched.snapshot:
            known.progress = max(known.progress, watched.snapshot.progress)
        events = await self.subscription.events(watched.id, _after(known) if known else "")
        if known is None and leads_on(NO_EVENT, events):
            known = Snapshot(url=page_address(watched.id))
        return known, events

    async def _since(self, watched: Watched, seen: EventId) -> list[Told]:
        """Return the next of what happened after an event; as a snapshot where it can no longer be told one by one."""
        shown = watched.snapshot
        if shown is None or (seen >= shown.id and not shown.is_final):
            return []
        after = "" if seen == NO_EVENT else str(seen)
        events = await self.subscription.events(watched.id, after, MISSED_AT_ONCE)
        if leads_on(seen, events):
            return [each for event in events for each in told(event, EventId.parse(event["id"]))]
        return whole(watched.snapshot or shown, seen)

    # What PostgreSQL says of it

    async def _stored_snapshot(self, execution_id: str) -> Snapshot | None:
        """Return what is stored, None where the database is away; raises ExecutionGoneError."""
        try:
            stored = await self._admission(execution_id)
        except DATABASE_AWAY:
            return None
        if not isinstance(stored, Snapshot):
            raise ExecutionGoneError
        return stored

    async def _take_stored(self, watched: Watched) -> None:
        try:
            if stored := await self._stored_snapshot(watched.id):
                watched.merge(stored)
        except ExecutionGoneError:
            pass

    async def _look_up(self) -> None:
        """Look whether what is silent has ended, or got on while Redis was away."""
        if 0 < self.subscription.away_for < AWAY:
            return
        patience = LOOK_UP if self.subscription.is_connected else 0.0
        silent = [each for each in self._watched.values() if time.monotonic() - each.heard_at >= patience]
        if not silent:
            return
        ids = [each.id for each in silent]
        everything = not self.subscription.is_connected or any(each.snapshot is None for each in silent)
        stored = await self._in_thread(stored_snapshots if everything else snapshots_of_ended, ids)
        for watched in silent:
            if found := stored.get(watched.id):
                watched.merge(found)
                watched.heard_at = time.monotonic()
            elif not watched.whole:  # it could not be read
                self._catch_up_soon(watched)

    # All of an owner's

    async def _stream_owned(self, watch: WatchOwned, receive: Receive, send: Send) -> None:
        topics = [self._owned_by(owner) for owner in watch.owners]
        seen = list(watch.seen or [""] * len(topics))
        watcher = OwnerWatcher(send, watch.viewer, topics, seen=seen, since=self._news_since)
        for owned in topics:
            owned.telling.add(watcher)
        try:
            for owned in topics:
                await self.subscription.add(owner_channel(owned.owner))
            await self._serve(watcher, receive)
        finally:
            for owned in topics:
                owned.telling.discard(watcher)
                if not owned.telling and self._owned.get(owned.owner) is owned:
                    del self._owned[owned.owner]
                    await self.subscription.remove(owner_channel(owned.owner))

    def _owned_by(self, owner: str) -> Owned:
        return self._owned.setdefault(owner, Owned(owner))

    async def _news_since(self, owned: Owned, number: str) -> tuple[str, list[News]]:
        """Return what happened after a number, and the number that leads to; how all is where that is not known."""
        news = await self.subscription.news(owned.owner, number) if number else []
        is_known = bool(news) and news[0].number == number
        newest = news[-1].number if is_known else await self.subscription.newest(owned.owner)
        since = order(number)[0] / 1000
        present = await self._in_thread(partial(present_since, owned.owner), since)
        told = news[1:] if is_known else []
        ended = {each.event.state[0] for each in told if each.event.state and each.event.name in ENDS}
        # What ended and was never told, and where it is not known what was told, all that has not ended.
        for event, ended_at in present:
            is_news = ended_at > since and event.state and event.state[0] not in ended
            if (number and is_news) or (not is_known and not ended_at):
                told.append(News("", event))
        if told:  # who was sent a part of it only comes back for all of it
            told[-1] = told[-1]._replace(number=newest)
        owned.note(each.event for each in told)
        owned.note(each.event for each in present)
        # A number that Redis does not know may be ahead of all that will come; without Redis it still counts.
        return newest if self.subscription.is_connected else number, told

    async def _look_up_owned(self) -> None:
        if self._owned:
            present = await self._in_thread(present_by_owner, list(self._owned))
            for owner, owned in self._owned.items():
                owned.compare(each.event for each in present[owner])

    # Again and again

    async def _keep(self) -> None:
        """Send comments into silence, and leave a Redis that hangs; whatever the database does."""
        while True:
            await asyncio.sleep(LOOK_UP)
            try:
                self._keep_alive()
                await self.subscription.notice_silence()
            except Exception:
                logger.exception("the pump stumbled")

    async def _tick(self) -> None:
        """Look silent executions up in the database."""
        while True:
            await asyncio.sleep(LOOK_UP if self.subscription.is_connected else LOOK_UP_WITHOUT_REDIS)
            try:
                await self._look_up()
                await self._look_up_owned()
            except DATABASE_AWAY:
                logger.warning("the database is away; streams stay open")
            except Exception:
                logger.exception("the pump stumbled")

    def _keep_alive(self) -> None:
        due = time.monotonic() - (KEEP_ALIVE - LOOK_UP)
        for watcher in list(self._watchers):
            if watcher.sent_at < due:
                watcher.comment()

    async def _check_access(self) -> None:
        """End the streams of those who may no longer watch."""
        while True:
            await asyncio.sleep(ACCESS)
            viewers = {watcher.viewer for watcher in self._watchers}
            try:
                allowed = await self._in_thread(_allowed, viewers) if viewers else {}
            except DATABASE_AWAY:
                continue
            except Exception:
                logger.exception("the pump stumbled")
                continue
            for watcher in list(self._watchers):
                if watcher.viewer in viewers and watcher.viewer not in allowed:
                    watcher.end(sse.retry(RETRY))


def _admission(asked: Collection[Viewer | str]) -> dict[Viewer | str, Snapshot | bool]:
    """Return of viewers whether they still may watch, and of executions, by id, what is stored."""
    ids = [each for each in asked if isinstance(each, str)]
    viewers = [each for each in asked if isinstance(each, Viewer)]
    stored: Mapping[Any, Snapshot] = stored_snapshots(ids) if ids else {}
    allowed: Mapping[Any, bool] = _allowed(viewers) if viewers else {}
    return {**stored, **allowed}


def _allowed(viewers: Collection[Viewer]) -> dict[Viewer, bool]:
    return dict.fromkeys(still_allowed(viewers), True)


def _followed(snapshot: Snapshot | None, events: list[Event]) -> Snapshot | None:
    """Fold events onto a snapshot; None without one, and where an event is of another version of this code."""
    try:
        for event in events:
            snapshot = fold(snapshot, event) if snapshot else None
    except (ValueError, LookupError, TypeError):
        return None
    return snapshot


def _newest(known: Snapshot | None, events: list[Event], shown: Snapshot | None) -> Snapshot | None:
    """Return what Redis knows, with what was shown or is stored, or that alone where Redis is behind."""
    newest = _followed(known or shown, events)
    if known is None or newest is None or shown is None:
        return newest or shown
    return merge(newest, shown) if newest.id > shown.id else shown


def _tells_an_end(event: Event) -> bool:
    return event["type"] == "result" or (event["type"] == "step" and event["state"] == "done")


def _after(snapshot: Snapshot) -> str:
    return "" if snapshot.id == NO_EVENT else str(snapshot.id)
