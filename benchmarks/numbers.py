"""What one watcher saw of numbered tokens: whether each came, and came once."""

import asyncio
import time

import orjson

from benchmarks.streams import Message

# What a text begins with in a snapshot whose own beginning was cut off.
CUT = "… "


class LostError(Exception):
    """A watcher did not see everything, or saw something twice."""


class Numbers:
    """The tokens of one stream. Their text is their number, or number and moment: "17 18:81236123123 ".

    A `snapshot` event replaces what was shown: what it holds has been seen. `lost` and `twice` count tokens.
    """

    def __init__(self) -> None:
        self.next = 1
        self.lost = 0
        self.twice = 0
        self.snapshots = 0
        self.seen_at = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def is_whole(self) -> bool:
        return not self.lost and not self.twice

    def hear(self, message: Message) -> None:
        if message.event == "token":
            self.seen_at = time.perf_counter()
            for number in numbers_in(message.text):
                self.take(number)
        elif message.event == "snapshot":
            self.snapshots += 1
            self._replace(message)
        elif message.event == "result" and not self.done.done():
            self.done.set_result(None)

    def take(self, number: int) -> None:
        self.twice += number < self.next
        self.lost += max(number - self.next, 0)
        self.next = max(self.next, number + 1)

    def _replace(self, message: Message) -> None:
        text: str = orjson.loads(message.data)["details"].get("partial_result", "")
        if text.startswith(CUT):
            text = text.removeprefix(CUT).partition(" ")[2]  # the first number may be half of one
        if found := numbers_in(text):
            self.next = found[-1] + 1


def numbers_in(text: str) -> list[int]:
    return [int(word.partition(":")[0]) for word in text.split()]


def check(watchers: list[Numbers], tokens: int) -> None:
    """Raise LostError unless each saw so many tokens, in order, each once."""
    for each in watchers:
        if not each.is_whole or each.next != tokens + 1:
            raise LostError(
                f"Of {tokens} tokens a watcher saw the last as {each.next - 1}, {each.lost} never, {each.twice} twice."
            )
