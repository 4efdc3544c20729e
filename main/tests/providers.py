"""Model and search providers on this machine: real HTTP servers that speak Gemini's and Tavily's protocols.

A server plays its script, one behaviour per request, and goes on with its `default` behaviour. It records
what it was asked.

    with GeminiServer() as gemini:
        gemini.script.extend([fails(500, "INTERNAL"), says("Good ", "day.")])
"""

import contextlib
import json
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import pytest

from main import chat_models

Behaviour = Callable[["Exchange"], None]


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]  # names in lower case
    body: Any  # what was JSON; bytes of anything else

    @property
    def is_stream(self) -> bool:
        return ":streamGenerateContent" in self.path


@dataclass
class Exchange:
    """One request, and the ways to answer it."""

    request: Request
    handler: BaseHTTPRequestHandler
    released: threading.Event = field(default_factory=threading.Event)

    def send_json(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.handler.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.handler.send_header(name, value)
        self.handler.send_header("Content-Length", str(len(data)))
        self.handler.end_headers()
        self.handler.wfile.write(data)

    def begin_stream(self) -> None:
        self.handler.send_response(200)
        self.handler.send_header("Content-Type", "text/event-stream")
        self.handler.send_header("Transfer-Encoding", "chunked")
        self.handler.end_headers()

    def send_event(self, body: Any) -> None:
        self.send_bytes(f"data: {json.dumps(body)}\r\n\r\n".encode())

    def send_bytes(self, data: bytes) -> None:
        self.handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.handler.wfile.flush()

    def end_stream(self) -> None:
        self.handler.wfile.write(b"0\r\n\r\n")

    def hang_up(self) -> None:
        self.handler.close_connection = True

    def hang(self) -> None:
        """Say nothing until the server is closed; the connection stays open."""
        self.released.wait(60)
        self.hang_up()


class Server(ThreadingHTTPServer):
    daemon_threads = False  # closing waits for every thread, so that no socket outlives a test

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self._connections: list[socket.socket] = []

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent: clients that leave are what the tests are about."""

    def server_close(self) -> None:
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()


class LocalProvider:
    """A threaded HTTP server on a free port of 127.0.0.1."""

    def __init__(self, default: Behaviour) -> None:
        self.default = default
        self.script: deque[Behaviour] = deque()
        self.requests: list[Request] = []
        self._released = threading.Event()
        self._server = Server(self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()

    def play(self, request: Request, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append(request)
        behaviour = self.script.popleft() if self.script else self.default
        behaviour(Exchange(request, handler, self._released))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(int(headers["content-length"]))
                if headers["content-type"].startswith("application/json"):
                    body = json.loads(body)
                provider.play(Request(self.path, headers, body), self)

            def log_message(self, *args: object) -> None:
                """Stay silent."""

        return Handler


class GeminiServer(LocalProvider):
    """`POST /v1beta/models/{model}:generateContent` and `:streamGenerateContent?alt=sse`."""

    def __init__(self, default: Behaviour | None = None) -> None:
        super().__init__(default or says("Rain ", "on the ", "roof."))


class TavilyServer(LocalProvider):
    """`POST /search`."""

    def __init__(self, default: Behaviour | None = None) -> None:
        super().__init__(default or finds(HIT))


# What any of them may do


def hangs(exchange: Exchange) -> None:
    exchange.hang()


def hangs_up(exchange: Exchange) -> None:
    exchange.hang_up()


def answers(status: int, body: Any, headers: dict[str, str] | None = None) -> Behaviour:
    return lambda exchange: exchange.send_json(status, body, headers)


# Gemini


def says(*parts: str, finish: str = "STOP") -> Behaviour:
    """Answer with the parts, one event each where a stream was asked for."""

    def behave(exchange: Exchange) -> None:
        if not exchange.request.is_stream:
            exchange.send_json(200, gemini_event("".join(parts), finish))
            return
        exchange.begin_stream()
        for part in parts[:-1]:
            exchange.send_event(gemini_event(part))
        exchange.send_event(gemini_event(parts[-1], finish))
        exchange.end_stream()

    return behave


def stalls_after(*parts: str) -> Behaviour:
    """Stream the parts, then stay silent with the connection open."""

    def behave(exchange: Exchange) -> None:
        _begin(exchange, parts)
        exchange.hang()

    return behave


def breaks_after(*parts: str) -> Behaviour:
    """Stream the parts, then drop the connection in the middle of the next event."""

    def behave(exchange: Exchange) -> None:
        _begin(exchange, parts)
        exchange.send_bytes(b'data: {"candidates": [{"content": {"par')
        exchange.hang_up()

    return behave


def ends_early_after(*parts: str) -> Behaviour:
    """Stream the parts and end properly as HTTP goes, but without a finish reason."""

    def behave(exchange: Exchange) -> None:
        _begin(exchange, parts)
        exchange.end_stream()

    return behave


def refuses_the_prompt(exchange: Exchange) -> None:
    body = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 4}}
    if not exchange.request.is_stream:
        exchange.send_json(200, body)
        return
    exchange.begin_stream()
    exchange.send_event(body)
    exchange.end_stream()


def fails(
    code: int, status: str, message: str = "Trouble.", details: list[dict[str, Any]] | None = None
) -> Behaviour:
    """Answer with an error in Google's form."""
    error = {"code": code, "message": message, "status": status}
    return answers(code, {"error": error | ({"details": details} if details else {})})


def refuses_the_key(exchange: Exchange) -> None:
    """Google answers a wrong key with 400, not 401."""
    reason = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "API_KEY_INVALID",
        "domain": "googleapis.com",
    }
    fails(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", [reason])(exchange)


def has_no_quota(
    seconds: float, quota: str = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
) -> Behaviour:
    return fails(
        429,
        "RESOURCE_EXHAUSTED",
        f"You exceeded your current quota. Please retry in {seconds}s.",
        [
            {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota}]},
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{seconds}s"},
        ],
    )


def gemini_event(text: str, finish: str = "") -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    usage = {"promptTokenCount": 4, "candidatesTokenCount": 3, "totalTokenCount": 7}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-3.8-flash"}


def _begin(exchange: Exchange, parts: tuple[str, ...]) -> None:
    exchange.begin_stream()
    for part in parts:
        exchange.send_event(gemini_event(part))


# Tavily

HIT = {
    "url": "https://example.org/tides",
    "title": "Tides",
    "content": "The moon pulls the sea; that is why there are tides.",
    "score": 0.9,
    "raw_content": None,
}


def finds(*hits: dict[str, Any]) -> Behaviour:
    return answers(
        200, {"query": "", "answer": None, "images": [], "results": list(hits), "response_time": 0.1}
    )


def refuses(status: int, sentence: str, headers: dict[str, str] | None = None) -> Behaviour:
    """Answer with an error in Tavily's form."""
    return answers(status, {"detail": {"error": sentence}}, headers)


@pytest.fixture
def gemini(settings: Any) -> Iterator[GeminiServer]:
    """Gemini on this machine, with a key; a test may script it."""
    with GeminiServer() as server:
        settings.GEMINI_API_KEY = "key-of-the-test"
        settings.GOOGLE_GEMINI_BASE_URL = server.url
        settings.CHAT_MODEL = ""
        yield server
        chat_models._make_gemini.cache_clear()  # closes its connections


@pytest.fixture
def tavily(settings: Any) -> Iterator[TavilyServer]:
    """Tavily on this machine, with a key; a test may script it."""
    with TavilyServer() as server:
        settings.TAVILY_API_KEY = "tvly-key-of-the-test"
        settings.TAVILY_BASE_URL = server.url
        yield server
