"""A mail server that takes everything and keeps nothing but the count: as fast as the protocol allows."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

GREETING, OK, GO_ON, BYE = b"220 sink\r\n", b"250 OK\r\n", b"354 Go on\r\n", b"221 Bye\r\n"
END_OF_MAIL = b"\r\n.\r\n"


class MailSink:
    """Counts the mails of all its connections."""

    def __init__(self) -> None:
        self.taken = 0

    def connection(self) -> "_Connection":
        return _Connection(self)


class _Connection(asyncio.Protocol):
    def __init__(self, sink: MailSink) -> None:
        self._sink = sink
        self._heard = b""
        self._in_mail = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(GREETING)

    def data_received(self, data: bytes) -> None:
        self._heard += data
        while (end := END_OF_MAIL if self._in_mail else b"\r\n") in self._heard:
            piece, _, self._heard = self._heard.partition(end)
            self._transport.write(self._answer(piece))

    def _answer(self, piece: bytes) -> bytes:
        """Return what is said to a command, or to a whole mail."""
        if self._in_mail:
            self._in_mail = False
            self._sink.taken += 1
            return OK
        command = piece[:4].upper()
        self._in_mail = command == b"DATA"
        return {b"DATA": GO_ON, b"QUIT": BYE}.get(command, OK)


@asynccontextmanager
async def running_sink(port: int) -> AsyncIterator[MailSink]:
    """Listen on a port of 127.0.0.1 for the length of the block."""
    sink = MailSink()
    server = await asyncio.get_running_loop().create_server(sink.connection, "127.0.0.1", port)
    try:
        yield sink
    finally:
        server.close()
