"""Open streams. What happens is sent at once by whoever has it; no task and no queue of their own stands between.

A client that does not read what it is sent is left behind: the server's buffer for it (64 KiB, and the one piece that
filled it) is all that it costs, and nobody waits for it. As soon as it reads on it is caught up.
"""

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Generator, MutableMapping
from types import coroutine
from typing import Any, NamedTuple

from main import sse
from main.access import Viewer

Send = Callable[[MutableMapping[str, Any]], Coroutine[Any, Any, None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

logger = logging.getLogger(__name__)

# Seconds after which a client shall come back whose stream could not go on.
TROUBLE = 2.0

_DONE = object()


class Piece(NamedTuple):
    """What is sent in one go, and whether the stream ends with it."""

    body: bytes
    is_end: bool = False


class Watcher(ABC):
    """An open stream."""

    __slots__ = ("_behind", "_farewell", "_send", "is_live", "is_over", "sent_at", "viewer")

    def __init__(self, send: Send, viewer: Viewer) -> None:
        self._send = send
        self._behind: asyncio.Task[None] | None = None
        self._farewell: bytes | None = None
        self.viewer = viewer
        self.is_live = False
        """Whether it has seen all until now, so that what happens next may be sent at once."""
        self.is_over = False
        self.sent_at = time.monotonic()

    @abstractmethod
    async def missed(self) -> Piece | None:
        """Return what comes next of what it has not seen, or None where it has seen all."""

    async def open(self, retry: float) -> None:
        """Send the head of the response. A client whose stream breaks off comes back after so many seconds."""
        await self._send({"type": "http.response.start", "status": 200, "headers": sse.RAW_HEADERS})
        await self._send_piece(Piece(sse.retry(retry)))

    async def catch_up(self) -> None:
        """Send all that was missed; from then on what happens is delivered."""
        while not self.is_over:
            if self._farewell is not None:
                await self._send_piece(Piece(self._farewell, is_end=True))
            elif missed := await self.missed():
                await self._send_piece(missed)
            elif self._farewell is None:  # which may have come while it was asked what was missed
                self.is_live = True
                return

    def deliver(self, piece: Piece) -> None:
        """Send what has just happened to a watcher that is live."""
        sending = self._sending(piece)
        try:
            waiting_for = _begun(sending)
        except Exception:
            logger.exception("a stream broke")  # which is nothing to the others
            self.leave()
            return
        if waiting_for is not _DONE:
            self.is_live = False
            self._behind = asyncio.ensure_future(self._go_on(sending, waiting_for))

    def fall_behind(self) -> None:
        """Look again what was missed: it was not heard of everything that happened."""
        if self.is_live:
            self.is_live = False
            self._behind = asyncio.ensure_future(self._catch_up_aside())

    def comment(self) -> None:
        """Show the client, and what stands between, that the stream lives. One that is behind has enough to read."""
        if self.is_live:
            self.deliver(Piece(sse.COMMENT))

    def end(self, farewell: bytes) -> None:
        """Say a last word and end the stream; where the client is behind, as soon as it has read on."""
        if self.is_live:
            self.deliver(Piece(farewell, is_end=True))
        else:
            self._farewell = farewell

    def leave(self) -> None:
        """Forget it: the client is gone, or has all."""
        self.is_live, self.is_over = False, True
        if self._behind:
            self._behind.cancel()

    def _sending(self, piece: Piece) -> Coroutine[Any, Any, None]:
        self.sent_at = time.monotonic()
        if piece.is_end:
            self.is_live, self.is_over = False, True
        return self._send({"type": "http.response.body", "body": piece.body, "more_body": not piece.is_end})

    async def _send_piece(self, piece: Piece) -> None:
        await self._sending(piece)

    async def _go_on(self, sending: Coroutine[Any, Any, None], waiting_for: Any) -> None:
        await _rest(sending, waiting_for)
        await self._catch_up_aside()

    async def _catch_up_aside(self) -> None:
        """Catch up beside the server's own task; a stream for which that fails ends, and its client comes back."""
        try:
            await self.catch_up()
        except Exception as error:
            logger.warning("a stream cannot be caught up and ends", exc_info=error)
            await self._send_piece(Piece(sse.retry(TROUBLE), is_end=True))


def _begun(sending: Coroutine[Any, Any, None]) -> Any:
    """Run a coroutine to its end and return _DONE, or what it would wait for first.

    The server's `send` waits only where its buffer is full, so nearly always this is a plain call: a task and a
    wake-up for every watcher of every event would cost more than the sending itself.
    """
    try:
        return sending.send(None)
    except StopIteration:
        return _DONE


@coroutine
def _rest(sending: Coroutine[Any, Any, None], waiting_for: Any) -> Generator[Any, None, None]:
    """Go on with a coroutine that was begun, once what it waits for has come."""
    try:
        while True:
            yield waiting_for
            waiting_for = sending.send(None)
    except StopIteration:
        return
    finally:
        sending.close()
