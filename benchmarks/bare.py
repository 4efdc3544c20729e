"""The bound: a minimal asyncio server that answers recorded bytes, and keeps, checks and runs nothing.

    python -m benchmarks.bare RECORDING

prints its port and serves until its standard input closes. A POST gets the recorded answer and begins the
recorded stream, with its pauses slept in a thread, as a worker would. A GET gets that stream.
"""

import asyncio
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen

import orjson
import uvloop

from benchmarks.client import Connection, Person, task_id_of

STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PROJECT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Recording:
    """What a server sends: `answer` to a POST, and to a GET pieces, each after a pause in seconds."""

    answer: bytes
    stream: list[tuple[float, bytes]]

    def dump(self) -> bytes:
        stream = [(pause, b64encode(piece).decode()) for pause, piece in self.stream]
        return orjson.dumps({"answer": b64encode(self.answer).decode(), "stream": stream})

    @classmethod
    def load(cls, text: bytes) -> "Recording":
        found = orjson.loads(text)
        stream = [(pause, b64decode(piece)) for pause, piece in found["stream"]]
        return cls(b64decode(found["answer"]), stream)


async def record(port: int, flow: str, person: Person, pauses: tuple[float, ...] = ()) -> Recording:
    """Return what the product sends for this flow: at once, or with a frame after each pause."""
    async with await Connection.open(port) as connection:
        answer = await connection.post_start(flow, person)
        pieces = [piece async for piece in connection.pieces(task_id_of(answer), person)]
    middle = [(pause, chunked(pieces[1])) for pause in pauses[:-1]]
    if not pauses:
        middle = [(0.0, chunked(piece)) for piece in pieces[:-1]]
    last = chunked(pieces[-1]) + chunked(b"")
    stream = [(0.0, STREAM_HEAD), *middle, (pauses[-1] if pauses else 0.0, last)]
    return Recording(answer.head + answer.body, stream)


def chunked(piece: bytes) -> bytes:
    """Return a piece as a chunk of a body whose length is not known; an empty one ends it."""
    return b"%x\r\n%s\r\n" % (len(piece), piece)


@contextmanager
def bare_server(recording: Recording, folder: Path) -> Iterator[int]:
    """Run the bare server as a process of its own; give its port."""
    path = folder / "recording.json"
    path.write_bytes(recording.dump())
    command = [sys.executable, "-m", "benchmarks.bare", str(path)]
    with Popen(command, cwd=PROJECT, stdin=PIPE, stdout=PIPE) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()


async def serve(recording: Recording) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _answer_all(recording, reader, writer)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


async def _answer_all(
    recording: Recording, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    pieces: asyncio.Queue[bytes] = asyncio.Queue()
    running: set[asyncio.Task[None]] = set()
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"POST"):
                await reader.readexactly(_content_length(head))
                running.add(asyncio.create_task(_run(recording, pieces)))
                writer.write(recording.answer)
            else:
                for _ in recording.stream:
                    writer.write(await pieces.get())
                running.clear()
    except asyncio.IncompleteReadError:
        writer.close()


async def _run(recording: Recording, pieces: asyncio.Queue[bytes]) -> None:
    for pause, piece in recording.stream:
        if pause:
            await asyncio.to_thread(time.sleep, pause)
        pieces.put_nowait(piece)


def _content_length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])


if __name__ == "__main__":
    uvloop.run(serve(Recording.load(Path(sys.argv[1]).read_bytes())))
