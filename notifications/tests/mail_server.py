"""A mail server that does as it is told: greylists, refuses, hangs, drops what it was given."""

import asyncio
import ssl
from dataclasses import dataclass, field
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from main.tests.platform import free_port

# In place of an answer: say nothing, or close the connection.
HANG, DROP = "hang", "drop"
PASSWORD = "p@ss:w/rd%"
OK = "250 OK: queued as 4F2"


@dataclass(frozen=True)
class Received:
    """A mail as it was taken; also where its sender was not told so."""

    sender: str
    receivers: list[str]
    raw: bytes
    user: str = ""

    @property
    def message(self) -> EmailMessage:
        parser = BytesParser(EmailMessage, policy=policy.default)
        return parser.parsebytes(self.raw)

    def part(self, subtype: str) -> str:
        body = self.message.get_body((subtype,))
        assert body
        return str(body.get_content())


@dataclass
class MailServer:
    """The lists that begin with `on_` have the next answers to what they are named after, else it is kind."""

    tls: ssl.SSLContext | None = None
    is_implicit: bool = False
    password: str = ""
    on_mail: list[str] = field(default_factory=list)
    on_receiver: list[str] = field(default_factory=list)
    on_data: list[str] = field(default_factory=list)
    on_quit: list[str] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    port: int = field(default_factory=free_port)

    def __enter__(self) -> Self:
        options: dict[str, Any] = {}
        if self.tls and self.is_implicit:
            options = {"ssl_context": self.tls}
        elif self.tls:
            options = {"tls_context": self.tls, "require_starttls": True}
        if self.password:
            login = {"authenticator": self._check, "auth_required": True, "auth_exclude_mechanism": ["LOGIN"]}
            options |= {**login, "auth_require_tls": bool(self.tls) and not self.is_implicit}
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port, **options)
        self._controller.start()
        self.connections = 0  # the controller has tried whether it answers
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()

    def _check(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        return AuthResult(
            success=data.password == self.password.encode(), handled=False, auth_data=data.login.decode()
        )

    # What aiosmtpd asks

    async def handle_EHLO(
        self, server: Any, session: Any, envelope: Any, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        self.connections += 1
        return responses

    async def handle_MAIL(
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        answer = self.on_mail.pop(0) if self.on_mail else "250 OK"
        if answer.startswith("250"):
            envelope.mail_from = address
        return await self._say(server, answer)

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        answer = self.on_receiver.pop(0) if self.on_receiver else "250 OK"
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return await self._say(server, answer)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        answer = self.on_data.pop(0) if self.on_data else OK
        if answer in (OK, DROP):
            mail = Received(envelope.mail_from, envelope.rcpt_tos, envelope.content, session.auth_data or "")
            self.received.append(mail)
        return await self._say(server, answer)

    async def handle_QUIT(self, server: Any, session: Any, envelope: Any) -> str:
        return await self._say(server, self.on_quit.pop(0) if self.on_quit else "221 Bye")

    async def _say(self, server: Any, answer: str) -> str:
        if answer == HANG:
            await asyncio.Event().wait()
        if answer == DROP:
            server.transport.abort()
        return answer
