"""What a client makes of single events, and what it may not be told: an event twice, or one before another."""

from typing import Any, cast

import orjson

from chaos.witness import Snapshot
from main.events import Event, EventId, fold
from main.events import Snapshot as Folded


class Listener:
    """Adds up an execution's events over all connections."""

    def __init__(self) -> None:
        self.seen = ""
        """The id of the last event, as `Last-Event-ID` has it."""
        self.contradictions: list[str] = []
        self._folded = Folded()

    def hear(self, id_: str, name: str, data: str) -> Snapshot:
        """Take an event, and return what all of them add up to."""
        self._check(id_, name)
        self.seen = id_
        number = self._folded.id.seq + 1
        told = orjson.loads(data)
        if name == "snapshot":
            progress = self._folded.progress
            self._folded = Folded.load({**told, "id": f"1-{number}", "url": "", "texts": {}, "writing": None})
            if self._folded.progress < progress:
                self.contradictions.append(f"progress fell from {progress} to {self._folded.progress}")
        else:
            self._folded = fold(self._folded, cast(Event, {**told, "id": f"1-{number}", "type": name}))
        found: dict[str, Any] = orjson.loads(orjson.dumps(self._folded.public()))
        return found

    def _check(self, id_: str, name: str) -> None:
        """A snapshot stands for all that was told, so it may have the number of the last event."""
        if self.seen == "end":
            self.contradictions.append(f"{id_} was told after the end")
        elif self.seen and id_ != "end":
            now, before = EventId.parse(id_), EventId.parse(self.seen)
            if now < before or (now == before and name != "snapshot"):
                self.contradictions.append(f"{id_} was told after {self.seen}")
            if now.attempt == before.attempt and now.seq > before.seq + 1 and name != "snapshot":
                self.contradictions.append(f"{id_} was told after {self.seen}, and nothing in between")
