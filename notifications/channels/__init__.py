"""Ways to reach a person. The file is the registration: every module here has a `channel`, known by the file's name.

A channel is given a notification and sends it, once; when it is tried again, and when no more, is the outbox's.
"""

import importlib
import pkgutil
from functools import cache
from typing import Protocol

from notifications.letters import Letter
from notifications.models import Notification


class Channel(Protocol):
    def why_unavailable(self) -> str:
        """Return in a sentence what is missing before anything can be sent; "" where nothing is."""

    def send(self, notification: Notification, letter: Letter) -> str:
        """Send what a notification says; return what the other side answered. Raises Refused or PutOff."""

    def close(self) -> None:
        """Give back what this thread holds open, such as a connection: there is nothing to send for now."""


class NotSentError(Exception):
    """A try that failed; its text is what the other side answered, or what was wrong."""


class Refused(NotSentError):
    """It would be refused the next time as well."""


class PutOff(NotSentError):
    """It may go through later. It may also have gone through now, where the answer did not arrive."""


@cache
def channels() -> dict[str, Channel]:
    """Return all channels by name."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    return {name: importlib.import_module(f"{__name__}.{name}").channel for name in names}


def open_channels() -> list[str]:
    """Return the names of those that can send."""
    return [name for name, channel in channels().items() if not channel.why_unavailable()]
