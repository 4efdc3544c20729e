"""The bound of live streams: a minimal asyncio server that hands on what one channel of Redis publishes.

    python -m benchmarks.forwarder SOCKET CHANNEL

prints its port and serves until its standard input closes. Whoever connects is answered with the head of a stream,
and then with the bytes of every message as they are. Nothing is checked, kept, numbered or encoded.
"""

import asyncio
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from typing import NamedTuple, cast

import psutil
import uvloop

from benchmarks.bare import PROJECT, STREAM_HEAD
from benchmarks.writer import BARE
from config import embedded


class Watchers(set[asyncio.Transport]):
    """All who are connected."""

    def send(self, message: bytes) -> None:
        for transport in self:
            transport.write(message)


class Stream(asyncio.Protocol):
    """One who is connected."""

    def __init__(self, watchers: Watchers) -> None:
        self._watchers = watchers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by name

    def data_received(self, _: bytes) -> None:
        self._transport.write(STREAM_HEAD)
        self._watchers.add(self._transport)

    def connection_lost(self, _: Exception | None) -> None:
        self._watchers.discard(self._transport)


class Subscription(asyncio.Protocol):
    """The connection to Redis. Its messages have the same beginning, up to the length of what they carry."""

    def __init__(self, channel: str, watchers: Watchers) -> None:
        self._subscribe = b"*2\r\n$9\r\nSUBSCRIBE\r\n$%d\r\n%s\r\n" % (len(channel), channel.encode())
        self._beginning = b"*3\r\n$7\r\nmessage\r\n$%d\r\n%s\r\n$" % (len(channel), channel.encode())
        self._watchers = watchers
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._subscribe)

    def data_received(self, data: bytes) -> None:
        self._rest += data
        while (found := self._rest.find(self._beginning)) >= 0:
            length_at = found + len(self._beginning)
            begin = self._rest.find(b"\r\n", length_at) + 2
            if begin < 2 or len(self._rest) < (end := begin + int(self._rest[length_at : begin - 2])):
                return
            self._watchers.send(self._rest[begin:end])
            self._rest = self._rest[end:]


class Forwarder(NamedTuple):
    """A running forwarder: where it listens, and the channel whose messages it hands on."""

    port: int
    process: psutil.Process
    channel: str


@contextmanager
def forwarder(local_dir: Path) -> Iterator[Forwarder]:
    """Run a forwarder of a channel of its own."""
    channel = f"{BARE}{uuid.uuid4()}"
    command = [sys.executable, "-m", "benchmarks.forwarder", str(embedded.redis_socket(local_dir)), channel]
    with Popen(command, cwd=PROJECT, stdin=PIPE, stdout=PIPE) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield Forwarder(int(process.stdout.readline()), psutil.Process(process.pid), channel)
        finally:
            process.stdin.close()


async def serve(socket: str, channel: str) -> None:
    loop, watchers = asyncio.get_running_loop(), Watchers()
    await loop.create_unix_connection(lambda: Subscription(channel, watchers), socket)
    server = await loop.create_server(lambda: Stream(watchers), "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:]))
