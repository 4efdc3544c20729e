"""Open streams, many at once: raw protocols in one event loop, so that thousands cost the load generator little.

A `Door` says where a stream is asked for. A `Watcher` is one connection to it; what it hears goes to a function, as
bytes (`CountingWatcher`: how many tokens) or message by message (`ReadingWatcher`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, Self, TypeVar, cast

import httptools
import orjson

from benchmarks.client import Answer, Person, UnexpectedAnswerError, task_id_of

# How many connect at the same time: below the backlog of gunicorn, so that none is refused.
AT_ONCE = 200
# Seconds that a stream may take until it is open, or to say what it has to say.
PATIENCE = 30.0


class Message(NamedTuple):
    """What stands between two empty lines of a stream. A comment has nothing but empty fields."""

    id: str
    event: str
    data: bytes
    retry: int = 0

    @property
    def text(self) -> str:
        """The text of a token."""
        found: str = orjson.loads(self.data)["text"]
        return found


class Door(NamedTuple):
    """A stream's path, and whose cookies it is asked with."""

    path: str
    person: Person

    @classmethod
    def of_started(cls, answer: Answer, person: Person) -> "Door":
        """Return where everything is told of an execution, to the one who has just started it."""
        [ticket] = answer.headers["watch-ticket"]
        return cls(f"/api/v1/executions/{task_id_of(answer)}/events?ticket={ticket}", person)

    def request(self, last_event_id: str = "") -> bytes:
        again = f"Last-Event-ID: {last_event_id}\r\n" if last_event_id else ""
        head = f"GET {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n"
        return f"{head}{self.person.headers}{again}\r\n".encode()


class Watcher(asyncio.Protocol):
    """One connection that asks for one stream. `opened` is done with its head, `ended` with its end."""

    def __init__(self, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.request = request
        self.opened: asyncio.Future[int] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_headers_complete(self) -> None:
        if not self.opened.done():
            self.opened.set_result(self._parser.get_status_code())

    def on_message_complete(self) -> None:
        self.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_result(0)
        if not self.ended.done():
            self.ended.set_result(None)

    def close(self) -> None:
        if self._transport:
            self._transport.close()


class CountingWatcher(Watcher):
    """Counts the tokens that come, and looks no further into them."""

    TOKEN, END = b"\nevent: token\n", b"\n\n"

    def __init__(self, request: bytes, tally: "Tally") -> None:
        super().__init__(request)
        self._tally = tally
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        if not self.opened.done():  # the first piece may have messages behind its head
            super().data_received(data)
        data = self._rest + data
        end = data.rfind(self.END) + 1
        self._rest = data[end:]
        if found := data.count(self.TOKEN, 0, end):
            self._tally.add(found)


class Tally:
    """How many tokens all watchers have seen; wakes who waits for a number of them."""

    def __init__(self) -> None:
        self.tokens = 0
        self._wanted: tuple[int, asyncio.Future[None]] | None = None

    def add(self, tokens: int) -> None:
        self.tokens += tokens
        if self._wanted and self.tokens >= self._wanted[0]:
            if not self._wanted[1].done():
                self._wanted[1].set_result(None)
            self._wanted = None

    async def reach(self, tokens: int) -> None:
        """Wait until so many were seen; raises UnexpectedAnswerError where they do not come."""
        if self.tokens >= tokens:
            return
        self._wanted = (tokens, asyncio.get_running_loop().create_future())
        try:
            async with asyncio.timeout(PATIENCE):
                await self._wanted[1]
        except TimeoutError:
            raise UnexpectedAnswerError(f"{self.tokens} of {tokens} tokens came.") from None


class ReadingWatcher(Watcher):
    """Hands on message by message."""

    def __init__(self, request: bytes, hear: Callable[[Message], None]) -> None:
        super().__init__(request)
        self._hear = hear
        self._rest = b""

    def on_body(self, body: bytes) -> None:
        *texts, self._rest = (self._rest + body).split(b"\n\n")
        for text in texts:
            self._hear(parse(text))


def parse(text: bytes) -> Message:
    """Read one message of Server-Sent Events."""
    fields = {}
    for line in text.split(b"\n"):
        name, _, value = line.partition(b": ")
        fields[name] = value
    return Message(
        fields.get(b"id", b"").decode(),
        fields.get(b"event", b"").decode(),
        fields.get(b"data", b""),
        int(fields.get(b"retry", b"0")),
    )


W = TypeVar("W", bound=Watcher)
Item = TypeVar("Item")


async def connect(port: int, watcher: W) -> W:
    """Open a watcher's stream; raises UnexpectedAnswerError where the answer is no stream."""
    async with asyncio.timeout(PATIENCE):
        await asyncio.get_running_loop().create_connection(lambda: watcher, "127.0.0.1", port)
        status = await watcher.opened
    if status != 200:
        raise UnexpectedAnswerError(f"A stream gave {status or 'no answer'}.")
    return watcher


async def some_at_once(
    items: Iterable[Item], do: Callable[[Item], Awaitable[object]], at_once: int = AT_ONCE
) -> None:
    """Do something with each, so many at the same time."""
    waiting = iter(items)

    async def lane() -> None:
        for item in waiting:
            await do(item)

    async with asyncio.TaskGroup() as lanes:
        for _ in range(at_once):
            lanes.create_task(lane())


class Crowd:
    """Open streams that end with the block."""

    def __init__(self, port: int, watchers: Sequence[Watcher]) -> None:
        self.watchers = watchers
        self._port = port

    async def __aenter__(self) -> Self:
        await some_at_once(self.watchers, lambda watcher: connect(self._port, watcher))
        return self

    async def __aexit__(self, *_: object) -> None:
        for watcher in self.watchers:
            watcher.close()
        await asyncio.gather(*(watcher.ended for watcher in self.watchers if watcher.opened.done()))

    @property
    def ended(self) -> int:
        return sum(watcher.ended.done() for watcher in self.watchers)


async def settled(count: Callable[[], int]) -> int:
    """Wait until a count has not changed for a while; return it."""
    before = -1
    while before != (now := count()):
        before = now
        await asyncio.sleep(0.3)
    return now
