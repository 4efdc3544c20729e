"""The provider's stand-in: does some work, applies effects, writes texts as Gemini does, and counts every call.

It gives a fresh value to every call, so that a step which was done twice has two values. It honours the header
Idempotency-Key: an effect whose key it knows is answered as before and not applied again.
"""

import json
import re
import secrets
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple

from main.tests.providers import Exchange, LocalProvider, Request, gemini_event

# Seconds that every answer takes longer while the provider is slow.
SLOWNESS = 3.0
WORDS = 16
PROMPT = re.compile(r"execution (\S+) step (.+) attempt (\d+) seconds ([\d.]+)")
MARK = re.compile(r"(?P<step>[\w ]+): attempt (?P<attempt>\d+), value (?P<value>[0-9a-f]{8})\.")


class Call(NamedTuple):
    """One call, as it arrived. `key` is its Idempotency-Key; `applied` says whether it changed something."""

    execution: str
    step: str
    attempt: int
    value: str
    key: str = ""
    applied: bool = False

    @property
    def mark(self) -> str:
        return f"{self.step}: attempt {self.attempt}, value {self.value}."


class Mark(NamedTuple):
    """What an answer says of the call it was given to."""

    step: str
    attempt: int
    value: str


def marks_in(text: str) -> list[Mark]:
    """Find the marks in a text, such as the JSON of a step's result."""
    return [Mark(each["step"].strip(), int(each["attempt"]), each["value"]) for each in MARK.finditer(text)]


class Provider(LocalProvider):
    """The stand-in as a threaded HTTP server. Faults set `slow` and `truncating`."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.slow = False
        self.truncating = False
        self.calls: list[Call] = []
        self._applied: dict[str, Call] = {}
        self._lock = threading.Lock()

    def play(self, request: Request, handler: BaseHTTPRequestHandler) -> None:
        """Answer; whoever asked may have been killed meanwhile."""
        try:
            super().play(request, handler)
        except OSError:
            handler.close_connection = True

    def _answer(self, exchange: Exchange) -> None:
        if self.slow:
            exchange.released.wait(SLOWNESS)
        if exchange.request.path == "/work":
            self._work(exchange)
        elif exchange.request.path == "/effects":
            self._apply(exchange)
        else:
            self._write(exchange)

    def _work(self, exchange: Exchange) -> None:
        call = self._note(exchange.request.body)
        exchange.released.wait(exchange.request.body["seconds"])
        self._send(exchange, {"mark": call.mark})

    def _apply(self, exchange: Exchange) -> None:
        """Apply first and answer late, so that many answers get lost after the effect."""
        asked, key = exchange.request.body, exchange.request.headers.get("idempotency-key", "")
        with self._lock:
            call = _new_call(asked)._replace(key=key, applied=key not in self._applied)
            self.calls.append(call)
            known = self._applied.setdefault(key, call)
        exchange.released.wait(asked["seconds"])
        self._send(exchange, {"mark": known.mark})

    def _note(self, asked: dict[str, Any]) -> Call:
        call = _new_call(asked)
        with self._lock:
            self.calls.append(call)
        return call

    def _send(self, exchange: Exchange, body: dict[str, Any]) -> None:
        if not self.truncating:
            exchange.send_json(200, body)
            return
        data = json.dumps(body).encode()
        exchange.handler.send_response(200)
        exchange.handler.send_header("Content-Type", "application/json")
        exchange.handler.send_header("Content-Length", str(len(data)))
        exchange.handler.end_headers()
        exchange.handler.wfile.write(data[: len(data) // 2])
        exchange.hang_up()

    def _write(self, exchange: Exchange) -> None:
        """Stream a text whose first words are the mark."""
        found = PROMPT.search(json.dumps(exchange.request.body))
        if not found:
            exchange.send_json(
                400, {"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "No prompt."}}
            )
            return
        execution, step, attempt, seconds = found.groups()
        call = self._note({"execution": execution, "step": step, "attempt": int(attempt)})
        words = [f"{call.mark} ", *(f"word{number} " for number in range(WORDS))]
        exchange.begin_stream()
        for number, word in enumerate(words):
            if self.truncating and number == WORDS // 2:
                exchange.send_bytes(b'data: {"candidates": [{"content": {"par')
                exchange.hang_up()
                return
            exchange.send_event(gemini_event(word, "STOP" if number == WORDS else ""))
            exchange.released.wait(float(seconds) / WORDS)
        exchange.end_stream()


def _new_call(asked: dict[str, Any]) -> Call:
    return Call(asked["execution"], asked["step"], asked["attempt"], secrets.token_hex(4))
