"""An owner's executions on one stream: what happens to all of them, and who is told."""

from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from main import sse
from main.access import Viewer
from main.owner_events import OwnerEvent
from main.watchers import Piece, Send, Watcher

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
        self._states: dict[str, str] = {}

    def hear(self, news: News) -> None:
        """Tell what has just happened."""
        self.heard = max(self.heard, news.number, key=order)
        self.note([news])
        self._tell(news)

    def compare(self, present: Iterable[OwnerEvent]) -> None:
        """Tell how those executions are whose state was not told: Redis was away, or whoever ended them."""
        known, self._states = self._states, {}
        for event in present:
            if event.state and known.get(event.state[0]) != event.state[1]:
                self._tell(News("", event))
            self.note([News("", event)])

    def note(self, told: Iterable[News]) -> None:
        """Remember the states that were told."""
        for each in told:
            if each.event.state:
                execution_id, state = each.event.state
                self._states[execution_id] = state

    def _tell(self, news: News) -> None:
        for watcher in list(self.telling):
            if watcher.is_live:
                watcher.hear(self, news)


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

    async def missed(self) -> Piece | None:
        messages: list[bytes] = []
        for place, owned in enumerate(self._owned):
            while not self._is_level[place] or order(owned.heard) > order(self._seen[place]):
                self._is_level[place] = True
                newest, news = await self._since(owned, self._seen[place])
                messages += [self._message(place, each) for each in news]
                self._seen[place] = newest
        return Piece(b"".join(messages)) if messages else None

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
