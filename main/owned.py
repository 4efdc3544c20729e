"""An owner's executions on one stream: what happens to all of them, and who is told."""

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from main import sse
from main.access import Viewer
from main.owner_events import OwnerEvent
from main.watchers import Piece, Send, Watcher

# How far an execution is; it never goes back.
RANKS = {"PENDING": 0, "PROGRESS": 1, "SUCCESS": 2, "FAILURE": 2}
ENDED = 2
# Seconds for which a state that was told is remembered; the unfinished ones are noted again and again.
KNOWN_FOR = 60.0
# What stands in an id where nothing was told yet of one of the two owners that a person may be.
NOTHING = "-"


class News(NamedTuple):
    """An event of an owner's executions, and its number in Redis; "" for what Redis did not tell."""

    number: str
    event: OwnerEvent


class Owned:
    """The executions of an owner, who is a user or a visitor."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.heard = ""
        """The number of what was heard last."""
        self.telling: set[OwnerWatcher] = set()
        # What was told last of each execution's state, and when.
        self._states: dict[str, tuple[str, float]] = {}

    def hear(self, news: News) -> None:
        """Tell what has just happened; an end once, also where it was found before it was heard."""
        self.heard = max(self.heard, news.number, key=order)
        if news.event.state and self.has_ended(news.event.state[0]):
            return
        self.note([news.event])
        self._tell(news)

    def compare(self, present: Iterable[OwnerEvent]) -> None:
        """Tell of those executions that got on without anybody saying so: Redis was away, or whoever ended them."""
        known = time.monotonic() - KNOWN_FOR
        self._states = {id_: (state, at) for id_, (state, at) in self._states.items() if at > known}
        for event in present:
            if event.state and self._is_further(*event.state):
                self._tell(News("", event))
            self.note([event])

    def has_ended(self, execution_id: str) -> bool:
        return RANKS.get(self._states.get(execution_id, ("", 0.0))[0]) == ENDED

    def note(self, told: Iterable[OwnerEvent]) -> None:
        """Remember the states that were told."""
        for event in told:
            if event.state and (self._is_further(*event.state) or not self.has_ended(event.state[0])):
                self._states[event.state[0]] = event.state[1], time.monotonic()

    def _is_further(self, execution_id: str, state: str) -> bool:
        known = self._states.get(execution_id)
        return known is None or RANKS[state] > RANKS[known[0]]

    def _tell(self, news: News) -> None:
        for watcher in list(self.telling):
            if watcher.is_live:
                watcher.hear(self, news)
            else:
                watcher.has_missed(self)


class OwnerWatcher(Watcher):
    """Is told what happens to all executions of a person: of a user, and of the visitor they were before."""

    __slots__ = ("_is_level", "_owned", "_seen", "_since")

    def __init__(
        self,
        send: Send,
        viewer: Viewer,
        owned: list[Owned],
        *,
        seen: list[str],
        since: Callable[[Owned, str], Awaitable[tuple[str, list[News]]]],
    ) -> None:
        """`since` returns what happened after a number (or how all is, without one), and the number it leads to."""
        super().__init__(send, viewer)
        self._owned = owned
        self._seen = seen
        self._since = since
        self._is_level = [False] * len(owned)

    def fall_behind(self) -> None:
        self._is_level = [False] * len(self._owned)
        super().fall_behind()

    def has_missed(self, owned: Owned) -> None:
        """Note that it has to ask: something was told while it was not live."""
        self._is_level[self._owned.index(owned)] = False

    async def missed(self) -> Piece | None:
        messages: list[bytes] = []
        while (place := self._first_behind()) is not None:
            self._is_level[place] = True
            newest, news = await self._since(self._owned[place], self._seen[place])
            messages += [self._message(place, each) for each in news]
            self._seen[place] = newest
        return Piece(b"".join(messages)) if messages else None

    def _first_behind(self) -> int | None:
        """Return which owner it has not heard all of. None is said without giving way, just before it is live."""
        for place, owned in enumerate(self._owned):
            if not self._is_level[place] or order(owned.heard) > order(self._seen[place]):
                return place
        return None

    def hear(self, owned: Owned, news: News) -> None:
        place = self._owned.index(owned)
        if news.number and order(news.number) <= order(self._seen[place]):
            return
        self.deliver(Piece(self._message(place, news)))

    def _message(self, place: int, news: News) -> bytes:
        self._seen[place] = news.number or self._seen[place]
        where = ",".join(seen or NOTHING for seen in self._seen)
        return sse.message(news.event.data, id=where, event=news.event.name)


def order(number: str) -> tuple[int, int]:
    """Return what numbers of Redis are ordered by: milliseconds, and a count within them; "" is before all."""
    milliseconds, _, count = number.partition("-")
    return int(milliseconds or 0), int(count or 0)
