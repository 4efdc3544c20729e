"""The ASGI application: Django's requests each in one thread, and the pump for open streams.

Django's own ASGI handler changes threads around every middleware; this one hands the whole request to a thread of a
pool, as a WSGI server would, and that is several times faster. A view that authenticated a watcher answers with the
hand-off header: the request ends, with its thread and its database connection, and the pump streams.
"""

import asyncio
import gc
import os
import sys
from collections.abc import MutableMapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

import django
from django.conf import settings
from django.core import signals
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.base import BaseHandler
from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.urls import set_script_prefix

django.setup(set_prefix=False)

# Only now that Django is set up can models be imported.
from main.api import problem  # noqa: E402
from main.doors import PATHS, ticketed  # noqa: E402
from main.pump import ExecutionGoneError, HandOff, Pump, TooManyStreamsError, Watch  # noqa: E402
from main.registry import load_flows  # noqa: E402
from main.watchers import Receive, Send  # noqa: E402

load_flows(["main.flows", *settings.FLOW_MODULES])
gc.freeze()  # what is imported stays: a full collection would stop every stream to look at it again

Scope = MutableMapping[str, Any]

# More than there are database connections: a request that waits for one holds no other up.
THREADS = 32
# Who comes to watch is let in by threads of their own: when thousands come back at once, others are served as well.
STREAM_THREADS = 2
# Seconds after which a thread that computes gives way. The event loop waits for that after each of its waits, and
# Python's 5 ms would be felt by every stream while requests are computed.
GIVE_WAY = 0.001


class ClientGoneError(Exception):
    """The client left before its request was read."""


class BodyTooLargeError(Exception):
    """The body is, or grew, larger than MAX_BODY_BYTES."""


class Handler(BaseHandler):
    """Django's requests behind a choice of the middleware."""

    def __init__(self, middleware: list[str], threads: int, name: str) -> None:
        super().__init__()
        every, settings.MIDDLEWARE = settings.MIDDLEWARE, middleware
        self.load_middleware()  # Django has one list for all
        settings.MIDDLEWARE = every
        self.threads = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def respond(self, scope: Scope, body: bytes) -> HttpResponse:
        return await asyncio.get_running_loop().run_in_executor(self.threads, self._respond, scope, body)

    def _respond(self, scope: Scope, body: bytes) -> HttpResponse:
        """Handle a request from its first signal to its last, in this thread."""
        signals.request_started.send(sender=type(self), scope=scope)
        set_script_prefix("/")
        try:
            request = ASGIRequest(scope, BytesIO(body))
        except UnicodeDecodeError:
            return problem(400, "The query is not UTF-8.")
        request.META["CONTENT_LENGTH"] = str(len(body))  # also where the client sent it in chunks
        response = self.get_response(request)
        response._handler_class = type(self)  # type: ignore[attr-defined]  # its last signal
        try:
            return _whole(response)
        finally:
            response.close()  # gives the database connection back


class Application:
    """Serves HTTP; `pump` carries the open streams of this process."""

    def __init__(self) -> None:
        self.pump = Pump()
        self._pages = Handler(settings.MIDDLEWARE, THREADS, "request")
        self._streams = Handler(settings.STREAM_MIDDLEWARE, STREAM_THREADS, "stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        watch = ticketed(scope)
        if watch and await self._stream(watch, receive, send):
            return
        try:
            body = await _read_body(scope, receive)
        except ClientGoneError:
            return
        except BodyTooLargeError:
            await _send(
                problem(413, f"The body is larger than {settings.MAX_BODY_BYTES} bytes."), send, close=True
            )
            return
        handler = self._streams if PATHS.fullmatch(scope["path"]) else self._pages
        response = await handler.respond(scope, body)
        if not isinstance(response, HandOff):
            await _send(response, send)
        elif not await self._stream(response.watch, receive, send):
            await _send(problem(404, "There is no such execution."), send)

    async def _stream(self, watch: Watch, receive: Receive, send: Send) -> bool:
        """Let the pump serve a watcher; say whether there is something to watch."""
        try:
            await self.pump.stream(watch, receive, send)
        except ExecutionGoneError:
            return False
        except TooManyStreamsError as error:
            await _send(problem(429, str(error)), send)
        return True


def _whole(response: HttpResponseBase) -> HttpResponse:
    """Return a response with its content in memory: a static file comes in pieces."""
    if not isinstance(response, StreamingHttpResponse):
        assert isinstance(response, HttpResponse)  # noqa: S101 Django knows these two
        return response
    whole = HttpResponse(b"".join(response), status=response.status_code, headers=response.headers)
    whole.cookies = response.cookies
    return whole


async def _read_body(scope: Scope, receive: Receive) -> bytes:
    """Return the body; it is counted while it is read, because Django would read all of it first."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > settings.MAX_BODY_BYTES:
        raise BodyTooLargeError
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part: bytes = message.get("body", b"")
        body += part
        if len(body) > settings.MAX_BODY_BYTES:
            raise BodyTooLargeError
        if not message.get("more_body", False):
            return body


async def _send(response: HttpResponse, send: Send, *, close: bool = False) -> None:
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.items()]
    headers += [
        (b"set-cookie", cookie.OutputString().encode("latin-1")) for cookie in response.cookies.values()
    ]
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": response.content})


sys.setswitchinterval(GIVE_WAY)
application = Application()
