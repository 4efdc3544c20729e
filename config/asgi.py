"""The ASGI application: Django, with a limit on bodies before it and the pump behind it.

A view that authenticated a watcher answers with the hand-off header. The wrapper sees it, lets the request end,
with its thread and its database connection, and streams from the pump.
"""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

from django.conf import settings
from django.core.asgi import get_asgi_application

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

django_application = get_asgi_application()

# Only now that Django is set up can models be imported.
from main.api import problem  # noqa: E402
from main.pump import HAND_OFF, Pump  # noqa: E402
from main.registry import load_flows  # noqa: E402

load_flows(["main.flows", *settings.FLOW_MODULES])

_HAND_OFF = HAND_OFF.lower().encode()


class BodyTooLargeError(Exception):
    """Raised out of `receive`, through Django, when a body grows past the limit."""


class Application:
    """Serves HTTP; `pump` carries the open streams of this process."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application
        self.pump = Pump()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if _declared_length(scope) > settings.MAX_BODY_BYTES:
            await _send_too_large(send)
            return
        watched: list[str] = []
        try:
            await self._application(scope, _limited(receive), _intercepting(send, watched))
        except BodyTooLargeError:
            await _send_too_large(send)
            return
        if watched:
            await self.pump.stream(watched[0], receive, send)


def _declared_length(scope: Scope) -> int:
    value: bytes = dict(scope["headers"]).get(b"content-length", b"")
    return int(value) if value.isdigit() else 0


def _limited(receive: Receive) -> Receive:
    """Count the body while it is read."""
    size = 0

    async def receive_counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > settings.MAX_BODY_BYTES:
            raise BodyTooLargeError
        return message

    return receive_counted


def _intercepting(send: Send, watched: list[str]) -> Send:
    """Pass a response on, unless it hands the request over to the pump: then note for which execution."""

    async def send_or_note(message: Message) -> None:
        if message["type"] == "http.response.start":
            watched.extend(value.decode() for name, value in message["headers"] if name.lower() == _HAND_OFF)
        if not watched:
            await send(message)

    return send_or_note


async def _send_too_large(send: Send) -> None:
    response = problem(413, f"The body is larger than {settings.MAX_BODY_BYTES} bytes.")
    headers = [(name.lower().encode(), value.encode()) for name, value in response.items()]
    await send(
        {"type": "http.response.start", "status": 413, "headers": [*headers, (b"connection", b"close")]}
    )
    await send({"type": "http.response.body", "body": response.content})


application = Application(django_application)
