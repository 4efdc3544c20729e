"""An HTTP client on raw asyncio streams, so that what is measured is the server and not a library.

One `Connection` is one kept-alive connection. One `Person` is who asks: a visitor or someone signed in.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any, NamedTuple, Self

import orjson

START = "/start-task/"


class Answer(NamedTuple):
    """A response. `head` is its status line and headers as they came, `headers` has them by lower-case name."""

    status: int
    head: bytes
    headers: dict[str, list[str]]
    body: bytes


class Frame(NamedTuple):
    """One message of a stream: a snapshot, or a line for the browser (then `state` is empty)."""

    state: str
    is_last: bool


class UnexpectedAnswerError(Exception):
    """The server answered what a benchmark cannot go on with."""


@dataclass
class Person:
    """Who asks, by the cookies of their browser."""

    cookies: dict[str, str] = field(default_factory=dict)

    @property
    def headers(self) -> str:
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return f"Cookie: {cookies}\r\nX-CSRFToken: {self.cookies.get('csrftoken', '')}\r\n"

    def take_cookies(self, answer: Answer) -> None:
        for line in answer.headers.get("set-cookie", []):
            self.cookies |= {name: cookie.value for name, cookie in SimpleCookie(line).items()}


class Connection:
    """A kept-alive connection to a server on this machine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def get(self, path: str, person: Person) -> Answer:
        """Return the answer to a GET that asks for JSON, as a script of the page does."""
        self._ask("GET", path, person, "Accept: application/json\r\n")
        return await self._answer()

    async def start(self, flow: str, person: Person) -> str:
        """Start a flow without inputs; return the task's id."""
        return task_id_of(await self.started(flow, person))

    async def started(self, flow: str, person: Person, **inputs: Any) -> Answer:
        """Start a flow; return the answer, which is none but success."""
        answer = await self.post_start(flow, person, **inputs)
        if answer.status != 200:
            raise UnexpectedAnswerError(f"Starting {flow} gave {answer.status}: {answer.body[:500]!r}")
        person.take_cookies(answer)
        return answer

    async def post_start(self, flow: str, person: Person, **inputs: Any) -> Answer:
        body = orjson.dumps({"flow": flow, "inputs": inputs})
        self._ask("POST", START, person, "Content-Type: application/json\r\n", body)
        return await self._answer()

    async def watch(self, task_id: str, person: Person) -> AsyncIterator[Frame]:
        """Give the frames of a task's stream, to its end."""
        rest = b""
        async for piece in self.pieces(task_id, person):
            *frames, rest = (rest + piece).split(b"\n\n")
            for frame in frames:
                yield _frame(frame)

    async def pieces(self, task_id: str, person: Person) -> AsyncIterator[bytes]:
        """Give the stream of snapshots as it comes, chunk by chunk."""
        async for piece in self.stream(f"/task-status/{task_id}/", person):
            yield piece

    async def stream(self, path: str, person: Person) -> AsyncIterator[bytes]:
        """Give a stream as it comes, chunk by chunk."""
        self._ask("GET", path, person, "Accept: text/event-stream\r\n")
        head = await self._head()
        if head.status != 200:
            raise UnexpectedAnswerError(f"The stream {path} gave {head.status}.")
        if "content-length" in head.headers:  # it had ended before we came
            yield await self._body(head)
            return
        while chunk := await self._chunk():
            yield chunk

    def _ask(self, method: str, path: str, person: Person, headers: str, body: bytes = b"") -> None:
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{person.headers}{headers}{length}\r\n"
        self._writer.write(head.encode() + body)

    async def _answer(self) -> Answer:
        head = await self._head()
        return head._replace(body=await self._body(head))

    async def _head(self) -> Answer:
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").strip().split("\r\n")
        headers: dict[str, list[str]] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            headers.setdefault(name.lower(), []).append(value)
        return Answer(int(first.split(" ", 2)[1]), head, headers, b"")

    async def _body(self, head: Answer) -> bytes:
        if "content-length" in head.headers:
            return await self._reader.readexactly(int(head.headers["content-length"][0]))
        chunks = []
        while chunk := await self._chunk():
            chunks.append(chunk)
        return b"".join(chunks)

    async def _chunk(self) -> bytes:
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        return (await self._reader.readexactly(size + 2))[:-2]


def task_id_of(answer: Answer) -> str:
    return str(orjson.loads(answer.body)["task_id"])


def _frame(text: bytes) -> Frame:
    is_last = text.startswith(b"id: end\n")
    data: Any = text.partition(b"data: ")[2]
    return Frame(orjson.loads(data)["state"] if data else "", is_last)


async def arrive(port: int) -> Person:
    """Return a visitor who has opened the page."""
    visitor = Person()
    async with await Connection.open(port) as connection:
        visitor.take_cookies(await connection.get("/", visitor))
    return visitor


async def run_to_its_end(connection: Connection, flow: str, person: Person) -> str:
    """Start a flow and watch it end; return the task's id. It has to succeed."""
    task_id = await connection.start(flow, person)
    last = Frame("", is_last=False)
    async for frame in connection.watch(task_id, person):
        last = frame if frame.state else last
    if not last.is_last or last.state != "SUCCESS":
        raise UnexpectedAnswerError(f"{flow} {task_id} ended as {last.state or 'nothing'}.")
    return task_id
