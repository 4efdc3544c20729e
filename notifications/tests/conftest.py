"""People who are told, and a channel that says what it was given."""

from collections.abc import Iterator

import pytest

from accounts.models import User
from notifications import channels
from notifications.channels import NotSentError
from notifications.letters import Letter
from notifications.models import Notification


@pytest.fixture
def alice() -> User:
    return User.objects.create_user("alice@example.com", "correct horse battery", name="Alice")


@pytest.fixture
def bob() -> User:
    return User.objects.create_user("bob@example.com", "correct horse battery", name="Bob")


class Postbox:
    """A channel: keeps what it is given, or raises the next of `errors`."""

    def __init__(self) -> None:
        self.sent: list[Notification] = []
        self.errors: list[NotSentError | None] = []
        self.missing = ""

    def why_unavailable(self) -> str:
        return self.missing

    def send(self, notification: Notification, letter: Letter) -> str:
        if error := self.errors.pop(0) if self.errors else None:
            raise error
        self.sent.append(notification)
        return "250 OK"

    def close(self) -> None:
        pass


@pytest.fixture
def postbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Postbox]:
    """Stand in for e-mail where it is about when something is sent, not how."""
    box = Postbox()
    channels.channels.cache_clear()
    monkeypatch.setitem(channels.channels(), "email", box)
    yield box
    channels.channels.cache_clear()
