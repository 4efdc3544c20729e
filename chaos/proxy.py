"""A TCP proxy before a server: it passes on what comes, slowly, not at all, or breaks every connection."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum
from typing import Self

# Opens a connection to what is behind a proxy.
Way = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]

# Seconds by which a slow connection delays each piece, at least and at most. Redis is given up after 0.3 s,
# so some of its answers come in time.
DELAYS = 0.02, 0.2


class Mode(Enum):
    PASS = "pass"  # noqa: S105
    SLOW = "slow"
    HUNG = "hung"
    CUT = "cut"


class Proxy:
    """Listens on a free port of 127.0.0.1. `connect` opens a connection to the server behind it."""

    def __init__(self, connect: Way) -> None:
        self._connect = connect
        self._mode = Mode.PASS
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._open, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.become(Mode.CUT)
        await asyncio.gather(*self._connections, return_exceptions=True)

    def become(self, mode: Mode) -> None:
        self._mode = mode
        if mode is Mode.HUNG:
            self._flowing.clear()
        else:
            self._flowing.set()
        if mode is Mode.CUT:
            self._abort_all()

    def _abort_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def _open(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode is Mode.CUT:
            writer.transport.abort()
            await closed(writer)
            return
        try:
            behind = await self._connect()
        except OSError:
            writer.transport.abort()
            await closed(writer)
            return
        ends = {writer, behind[1]}
        self._writers |= ends
        try:
            await asyncio.gather(self._pass_on(reader, behind[1]), self._pass_on(behind[0], writer))
            await asyncio.gather(*map(closed, ends))
        finally:
            self._writers -= ends

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(65536):
                await self._flowing.wait()
                if self._mode is Mode.SLOW:
                    await asyncio.sleep(random.uniform(*DELAYS))  # noqa: S311
                writer.write(piece)
                await writer.drain()
        writer.close()


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close a connection and wait until it is, which is a moment later."""
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
