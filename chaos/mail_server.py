"""The mail server's stand-in: takes every mail and remembers it; slowly, without an answer, or not for now.

It runs in the harness's own process and loop. What it was sent it has, whether its answer arrived or not: as for a
real server, a mail whose answer is lost was delivered all the same.
"""

import asyncio
import random
import re
import time
from email import message_from_bytes, policy
from typing import Any, NamedTuple, Self, cast

from aiosmtpd.smtp import SMTP, Envelope, Session

# Seconds by which a slow server is late with its answer to a mail, at least and at most; and those that the product
# waits for one: what comes later than these is sent again.
SLOWNESS, EMAIL_TIMEOUT = (1.0, 5.0), 3
# Seconds after which a held connection goes on by itself.
HOLD = 30.0
LINK = re.compile(r"/executions/([0-9a-f-]{36})/")


class Mail(NamedTuple):
    """A mail as it arrived: the time, who it is for, and the execution that its text links to."""

    at: float
    to: str
    message_id: str
    execution: str


class MailServer:
    """Listens on a free port of 127.0.0.1. Faults set `slow`, `dropping`, `holding` and `silent`."""

    def __init__(self) -> None:
        self.mails: list[Mail] = []
        self.slow = False
        self.dropping = False
        """It hangs up when it has taken a mail, instead of saying so."""
        self.holding = False
        """It does not begin with a mail: whoever has one for it waits, and has not sent it."""
        self.silent = False
        """It has taken a mail, and does not say so."""

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    def _connection(self) -> SMTP:
        return SMTP(self, enable_SMTPUTF8=True, loop=asyncio.get_running_loop())

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        await self._while("holding")
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.mails += arrived(cast(bytes, envelope.content), envelope.rcpt_tos)
        await self._while("silent")
        if self.slow:
            await asyncio.sleep(random.uniform(*SLOWNESS))  # noqa: S311
        if self.dropping:
            cast(Any, server.transport).abort()
        return "250 taken"

    async def _while(self, flag: str) -> None:
        until = time.monotonic() + HOLD
        while getattr(self, flag) and time.monotonic() < until:
            await asyncio.sleep(0.05)


def arrived(content: bytes, receivers: list[str]) -> list[Mail]:
    """Return a mail once for each receiver."""
    message = message_from_bytes(content, policy=policy.default)
    body = message.get_body(("plain",))
    link = LINK.search(str(body.get_content()) if body else "")
    execution = link[1] if link else ""
    return [Mail(time.time(), to, str(message["Message-ID"]), execution) for to in receivers]
