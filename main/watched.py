"""An execution that somebody watches: folded once, encoded once, shared by all its watchers."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from main import sse
from main.access import Viewer
from main.events import NO_EVENT, Event, EventId, Snapshot, fold, merge
from main.watchers import Piece, Send, Watcher

# At most ten frames a second for one execution.
FRAME_INTERVAL = 0.1
# How much of what was missed is sent in one go.
PIECE_BYTES = 32 * 1024
FIRST_EVENT = EventId(1, 1)


class Told(NamedTuple):
    """An event as it is told."""

    number: EventId
    type: str
    message: bytes
    is_jump: bool = False
    """Whether it stands for what can no longer be told one by one; then it is told in any case."""

    @property
    def is_end(self) -> bool:
        return self.type == "result"


class Watched:
    """The newest snapshot of an execution, and who is shown it (`/task-status/`) or told its events.

    `add` takes the event that is next. Where it is unknown what happened in between, `jump` takes what is known now.
    """

    def __init__(self, execution_id: str) -> None:
        self.id = execution_id
        self.snapshot: Snapshot | None = None
        self.whole = False  # the snapshot holds everything up to its number
        self.early: list[Event] | None = []  # events that came while it was being read what was before
        self.is_behind = False  # something may have happened since that was read
        self.showing: set[SnapshotWatcher] = set()
        self.telling: set[EventWatcher] = set()
        self.version = 0
        self.jumps = 0  # how often it was not known one by one what had happened
        self.heard_at = time.monotonic()
        self.ready = asyncio.Event()
        self._frame: Piece | None = None
        self._framed_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._untold: list[Told] = []

    @property
    def is_watched(self) -> bool:
        return bool(self.showing or self.telling)

    @property
    def is_final(self) -> bool:
        return self.snapshot is not None and self.snapshot.is_final

    def is_missing_something_before(self, number: EventId) -> bool:
        """Say whether an event of that number came before something that should have come first."""
        if self.snapshot is None or not self.whole:
            return True
        return number > self.snapshot.id and number != _next(self.snapshot.id)

    def knows(self, number: EventId) -> bool:
        return self.snapshot is not None and number <= self.snapshot.id

    # What comes in

    def add(self, event: Event, number: EventId) -> None:
        """Fold the next event, and tell it. One that is known already changes nothing."""
        if self.snapshot is None or self.snapshot.is_final or number <= self.snapshot.id:
            return
        self.snapshot = fold(self.snapshot, event)
        if self.telling:
            self._tell(told(event, number))
        self._changed()

    def add_after_gap(self, event: Event) -> None:
        """Fold an event before which something is missing."""
        if self.snapshot:
            self.jump(lambda: fold(self.snapshot, event) if self.snapshot else None)

    def jump(self, newest: Callable[[], Snapshot | None]) -> None:
        """Take the newest snapshot where it is not known one by one what led to it."""
        before, known = (self.snapshot.public(), self.snapshot.id) if self.snapshot else (None, NO_EVENT)
        self.snapshot = newest()
        if self.snapshot is None:
            return
        if self.snapshot.public() == before:
            # Nothing to see, but who is told the next event by its number would take this one for lost.
            if self.telling and self.snapshot.id > known and self.snapshot.id.attempt == known.attempt:
                self._tell(whole(self.snapshot))
            return
        self.jumps += 1
        if self.telling:
            self._tell(whole(self.snapshot))
        self._changed()

    def merge(self, stored: Snapshot) -> None:
        """Add what is stored and was not known here."""
        self.jump(lambda: merge(self.snapshot, stored) if self.snapshot else stored)

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()

    # What goes out: events

    def _tell(self, events: list[Told]) -> None:
        """Tell events with all that were read in the same go."""
        if not self._untold:
            asyncio.get_running_loop().call_soon(self._tell_all)
        self._untold += events

    def _tell_all(self) -> None:
        told, self._untold = self._untold, []
        pieces: dict[frozenset[str], Piece] = {}
        for watcher in list(self.telling):
            if watcher.is_live:
                watcher.hear(told, pieces)

    # What goes out: frames

    @property
    def frame(self) -> Piece:
        """The newest snapshot as it is shown."""
        if self._frame is None:
            assert self.snapshot  # noqa: S101 there is no version without
            self._frame = Piece(sse.snapshot_message(self.snapshot), is_end=self.snapshot.is_final)
        return self._frame

    def _changed(self) -> None:
        """Show it, now or as soon as the last frame is a tenth of a second old."""
        if not self.showing:  # who comes is shown the newest first
            self.version += 1
            self._frame = None
            return
        due = self._framed_at + FRAME_INTERVAL - time.monotonic()
        if due <= 0 or self.is_final:
            self._show()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(due, self._show)

    def _show(self) -> None:
        self.close()
        self._timer = None
        self._frame = None
        self.version += 1
        self._framed_at = time.monotonic()
        for watcher in list(self.showing):
            if watcher.is_live:
                watcher.look()

    def begin(self) -> None:
        """Show what was read first. The next frame may follow at once, however young this one is."""
        if self.snapshot:
            self._show()
        self._framed_at = 0.0


class SnapshotWatcher(Watcher):
    """Is shown snapshots: always the newest, so nothing queues up for who reads slowly."""

    __slots__ = ("_shown", "_watched")

    def __init__(self, send: Send, viewer: Viewer, watched: Watched) -> None:
        super().__init__(send, viewer)
        self._watched = watched
        self._shown = 0

    async def missed(self) -> Piece | None:
        if self._shown == self._watched.version:
            return None
        self._shown = self._watched.version
        return self._watched.frame

    def look(self) -> None:
        self._shown = self._watched.version
        self.deliver(self._watched.frame)


class EventWatcher(Watcher):
    """Is told events, each once and in order: all after `seen`, or those of some types."""

    __slots__ = ("_jumps", "_missed", "_seen", "_since", "_types", "_watched")

    def __init__(
        self,
        send: Send,
        viewer: Viewer,
        watched: Watched,
        *,
        seen: EventId,
        types: frozenset[str],
        since: Callable[[Watched, EventId], Awaitable[list[Told]]],
    ) -> None:
        """`since` returns the next of what happened after an event, and nothing where nothing did."""
        super().__init__(send, viewer)
        self._watched = watched
        self._seen = seen
        self._types = types
        self._since = since
        self._missed: list[Told] = []
        self._jumps = watched.jumps if watched.whole else -1

    async def missed(self) -> Piece | None:
        while True:
            if not self._missed:
                self._missed = await self._since(self._watched, self._seen) or self._unnumbered()
            if not self._missed:
                return None
            piece = self._next_piece()
            if piece.body:
                return piece

    def hear(self, told: list[Told], pieces: dict[frozenset[str], Piece]) -> None:
        """Send what has just happened. `pieces` has what others were sent of it, by types."""
        if told[0].number > self._seen:
            piece = pieces.get(self._types)
            if piece is None:
                piece = pieces[self._types] = self._piece(told)
        else:
            has_jumped = self._jumps != self._watched.jumps
            told = [
                each
                for each in told
                if each.number > self._seen or each.is_end or (each.is_jump and has_jumped)
            ]
            if not told:
                return
            if all(each.is_jump for each in told) and self._watched.snapshot:
                told = whole(self._watched.snapshot, self._seen)  # PostgreSQL's number may be an older one
            piece = self._piece(told)
        self._note(told)
        if piece.body:
            self.deliver(piece)

    def _note(self, told: list[Told]) -> None:
        self._seen = max(self._seen, told[-1].number)
        if any(each.is_jump for each in told):
            self._jumps = self._watched.jumps

    def _next_piece(self) -> Piece:
        """Take of what was missed as much as is sent in one go."""
        taken = size = 0
        while taken < len(self._missed) and size < PIECE_BYTES:
            size += len(self._missed[taken].message)
            taken += 1
        told, self._missed = self._missed[:taken], self._missed[taken:]
        self._note(told)
        return self._piece(told)

    def _piece(self, told: list[Told]) -> Piece:
        if not self._types:
            return Piece(b"".join([each.message for each in told]), told[-1].is_end)
        selected = [each.message for each in told if each.type in self._types or each.type == "snapshot"]
        if told[-1].is_end and "result" not in self._types:
            selected.append(sse.id_alone(sse.END))
        return Piece(b"".join(selected), told[-1].is_end)

    def _unnumbered(self) -> list[Told]:
        """Return once what no event tells: PostgreSQL alone knows it, and its numbers are not those of events."""
        if self._jumps == self._watched.jumps or self._watched.snapshot is None:
            return []
        return whole(self._watched.snapshot, self._seen)


def told(event: Event, number: EventId) -> list[Told]:
    """Return an event as it is told; a snapshot that is final stands for the result as well."""
    if event["type"] == "snapshot":
        snapshot = Snapshot.load(event["snapshot"])
        snapshot.id = number
        return [each._replace(is_jump=False) for each in whole(snapshot)]
    return [Told(number, event["type"], sse.event_message(event))]


def whole(snapshot: Snapshot, seen: EventId = NO_EVENT) -> list[Told]:
    """Return what stands for all that happened until now, to someone who has seen something of it."""
    number = max(snapshot.id, seen)
    all_in_one = Told(number, "snapshot", sse.snapshot_event(snapshot, str(number)), is_jump=True)
    if not snapshot.is_final:
        return [all_in_one]
    return [all_in_one, Told(number, "result", sse.event_message(_result_of(snapshot)), is_jump=True)]


def leads_on(seen: EventId, events: list[Event]) -> bool:
    """Say whether nothing is missing between an event and those that Redis has after it."""
    if not events:
        return False
    first = events[0]
    number = EventId.parse(first["id"])
    if seen.attempt and not seen.seq:  # PostgreSQL told it, which knows more than the events before it
        return first["type"] == "snapshot"
    return first["type"] == "snapshot" or number == _next(seen)


def leads_to(snapshot: Snapshot, events: list[Event]) -> bool:
    """Say whether nothing is missing between a snapshot and the events that Redis has after it."""
    if not events:
        return True
    first = events[0]
    number = EventId.parse(first["id"])
    expected = snapshot.id.seq + 1 if number.attempt == snapshot.id.attempt else 1
    return first["type"] == "snapshot" or number <= snapshot.id or number.seq == expected


def _next(number: EventId) -> EventId:
    return FIRST_EVENT if number == NO_EVENT else EventId(number.attempt, number.seq + 1)


def _result_of(snapshot: Snapshot) -> Event:
    """Return the event that ended it."""
    result: Event = {"type": "result", "state": snapshot.state, "status": snapshot.status}
    if snapshot.error:
        result["error"] = snapshot.error
    else:
        result["final_result"] = snapshot.final_result
    return result
