"""Mails in a folder, where there is no mail server: for development, and for the mailbox page (see views.py)."""

import hashlib
import re
import time
from collections.abc import Sequence
from datetime import datetime
from email import policy
from email.message import EmailMessage as Message
from email.parser import BytesParser
from pathlib import Path
from typing import NamedTuple

from django.conf import settings
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

# Of how many mails, the newest, the mailbox shows the first lines.
SHOWN = 100
NAME = re.compile(r"\d{20}-[0-9a-f]{8}")


class EmailBackend(BaseEmailBackend):
    """Writes each mail into a file of its own, whole or not at all."""

    answer = "Kept in the folder of mails."

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        folder: Path = settings.MAIL_FOLDER
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for message in email_messages:
            written = message.message()
            name = f"{time.time_ns():020d}-{hashlib.sha256(written['Message-ID'].encode()).hexdigest()[:8]}"
            unfinished = folder / f"{name}.new"
            unfinished.write_bytes(written.as_bytes())
            unfinished.rename(folder / f"{name}.eml")
        return len(email_messages)


class Mail(NamedTuple):
    """A mail as it would arrive."""

    name: str
    message: Message

    @property
    def at(self) -> datetime:
        return datetime.fromtimestamp(int(self.name[:20]) / 1e9).astimezone()

    @property
    def head(self) -> list[tuple[str, str]]:
        """Its head, line by line. (A template that asked the message for `items` would get a field of that name.)"""
        return [(name, str(value)) for name, value in self.message.items()]

    @property
    def text(self) -> str:
        return self._body("plain")

    @property
    def html(self) -> str:
        return self._body("html")

    def _body(self, subtype: str) -> str:
        part = self.message.get_body((subtype,))
        return str(part.get_content()) if part else ""


def is_used() -> bool:
    return bool(f"{__name__}.EmailBackend" == settings.EMAIL_BACKEND)


def newest() -> list[Mail]:
    """Return the newest mails, the last one first."""
    names = sorted((path.stem for path in settings.MAIL_FOLDER.glob("*.eml")), reverse=True)
    return [mail for name in names[:SHOWN] if (mail := read(name))]


def read(name: str) -> Mail | None:
    """Return a mail by its name, None where there is none."""
    path: Path = settings.MAIL_FOLDER / f"{name}.eml"
    if not NAME.fullmatch(name) or not path.is_file():
        return None
    return Mail(name, BytesParser(_class=Message, policy=policy.default).parsebytes(path.read_bytes()))
