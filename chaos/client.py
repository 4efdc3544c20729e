"""Those who start executions and watch them: a visitor, and a person who signs in; both use either web server."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import httpx
import orjson

from chaos.listener import Listener
from chaos.witness import FINAL, Snapshot, Witness

# Seconds that a request may take, and that a stream may be silent: a comment comes every 15 s.
PATIENCE, SILENCE = 8.0, 25.0
# Seconds before a request that was not answered is sent again, to another server.
PAUSE = 0.3
TRIES = 200


class Asked(NamedTuple):
    """A request for a start: when it was sent (`time.time()`), the seconds to its answer, and the status or 0."""

    at: float
    seconds: float
    status: int


class Refused(Exception):
    """The server answered what is neither an answer nor passing trouble."""


class Client:
    """One visitor, or person. Requests go to the servers in turn."""

    def __init__(self, urls: list[str]) -> None:
        self.urls = urls
        self.asked: list[Asked] = []
        self._turns = count()
        limits = httpx.Limits(max_connections=None)
        self._http = httpx.AsyncClient(timeout=PATIENCE, limits=limits)

    async def arrive(self) -> None:
        """Get the cookies."""
        (await self._http.get(self.urls[0])).raise_for_status()
        self._keep_token()

    async def sign_in(self, address: str, password: str) -> None:
        """Sign in, as from the page."""
        page = f"{self.urls[0]}/sign-in/"
        (await self._http.get(page)).raise_for_status()
        self._keep_token()
        answer = await self._http.post(page, data={"username": address, "password": password})
        if answer.status_code != 302:
            raise Refused(f"Signing in gave {answer.status_code}.")
        self._keep_token()

    def _keep_token(self) -> None:
        self._http.headers["X-CSRFToken"] = self._http.cookies["csrftoken"]

    async def close(self) -> None:
        await self._http.aclose()

    async def are_healthy(self) -> bool:
        try:
            answers = [await self._http.get(f"{url}/health/") for url in self.urls]
        except httpx.TransportError:
            return False
        return all(each.status_code == 200 for each in answers)

    async def start(self, flow: str, tag: str, seconds: float, *, notify: bool = False) -> str | None:
        """Start an execution, asking until somebody answers; return its id, or None where nobody ever did.

        Each request has the same Idempotency-Key: one whose answer was lost may have started it already.
        """
        body: dict[str, Any] = {"flow": flow, "inputs": {"tag": tag, "seconds": seconds}}
        if notify:
            body["notify"] = True
        for _ in range(TRIES):
            at, began = time.time(), time.monotonic()
            answer = await self._post("/start-task/", body, {"Idempotency-Key": tag})
            status = answer.status_code if answer else 0
            self.asked.append(Asked(at, time.monotonic() - began, status))
            if answer and status == 200:
                return str(answer.json()["task_id"])
            if answer and status < 500:
                raise Refused(f"Starting {flow} gave {status}: {answer.text[:300]}")
            await asyncio.sleep(PAUSE)
        return None

    async def cancel(self, task_id: str) -> bool:
        """Cancel an execution; say whether that ended it, False where it had ended already or nobody answered."""
        for _ in range(TRIES):
            answer = await self._post(f"/api/v1/executions/{task_id}/cancel", {}, {})
            if answer and answer.status_code < 500:
                return answer.status_code == 200
            await asyncio.sleep(PAUSE)
        return False

    async def _post(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> httpx.Response | None:
        try:
            return await self._http.post(f"{self._next_url()}{path}", json=body, headers=headers)
        except httpx.TransportError:
            return None

    def _next_url(self) -> str:
        return self.urls[next(self._turns) % len(self.urls)]

    async def snapshots(self, url: str, task_id: str) -> AsyncIterator[str]:
        """Give an execution's snapshots as JSON until its stream ends; raises TransportError where it breaks."""
        silence = httpx.Timeout(PATIENCE, read=SILENCE)
        async with self._http.stream("GET", f"{url}/task-status/{task_id}/", timeout=silence) as answer:
            if answer.status_code != 200:
                raise Refused(f"the stream was answered with {answer.status_code}")
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    yield line.removeprefix("data: ")

    async def events(self, url: str, task_id: str, seen: str) -> AsyncIterator[tuple[str, str, str]]:
        """Give an execution's events after one that was seen: id, name and data; raises as `snapshots`."""
        silence = httpx.Timeout(PATIENCE, read=SILENCE)
        address = f"{url}/api/v1/executions/{task_id}/events"
        headers = {"Last-Event-ID": seen} if seen else {}
        async with self._http.stream("GET", address, headers=headers, timeout=silence) as answer:
            if answer.status_code != 200:
                raise Refused(f"the stream of events was answered with {answer.status_code}")
            fields: dict[str, str] = {}
            async for line in answer.aiter_lines():
                name, _, value = line.partition(": ")
                if line:
                    fields[name] = value
                elif "data" in fields:
                    yield fields["id"], fields["event"], fields["data"]
                if not line:
                    fields = {}

    async def last_snapshot(self, task_id: str) -> Snapshot | None:
        """Return what somebody sees who comes to an execution that has ended."""
        last: Snapshot | None = None
        async for text in self.snapshots(self._next_url(), task_id):
            last = orjson.loads(text)
            if last and last["state"] in FINAL:
                break
        return last


@dataclass
class Connection:
    """One connection of a watcher: times by `time.time()`, 0 for never."""

    url: str
    opened_at: float
    shown_at: float = 0.0


@dataclass
class Watching:
    """Somebody who watches an execution to its end, whatever becomes of their connections."""

    client: Client
    task_id: str
    # Where everything that was shown is written, for whoever wants to know how a contradiction came about.
    log: Path
    witness: Witness = field(default_factory=Witness)
    connections: list[Connection] = field(default_factory=list)

    async def watch(self) -> None:
        turn = crc32(self.task_id.encode())  # the same in every run
        while not self.witness.final:
            await self._connect(self.client.urls[turn % len(self.client.urls)])
            turn += 1

    async def _connect(self, url: str) -> None:
        connection = Connection(url, time.time())
        self.connections.append(connection)
        try:
            async for text, snapshot in self._shown(url):
                connection.shown_at = connection.shown_at or time.time()
                self._see(url, text, snapshot)
                if self.witness.final:
                    return
        except Refused as refusal:
            self.witness.contradictions.append(str(refusal))
        except httpx.TransportError:
            pass
        await asyncio.sleep(PAUSE)

    async def _shown(self, url: str) -> AsyncIterator[tuple[str, Snapshot]]:
        """Give what is sent, and the snapshot that it is."""
        async for text in self.client.snapshots(url, self.task_id):
            yield text, orjson.loads(text)

    def _see(self, url: str, text: str, snapshot: Snapshot) -> None:
        before = len(self.witness.contradictions)
        self.witness.see(snapshot)
        noted = self.witness.contradictions[before:]
        with self.log.open("a") as log:
            log.write(f"{datetime.now():%H:%M:%S.%f} {url} {text}\n")
            log.writelines(f"^ {sentence}\n" for sentence in noted)

    def is_connected_to(self, url: str) -> bool:
        return bool(self.connections) and self.connections[-1].url == url and not self.witness.final

    def shown_again_after(self, at: float) -> float | None:
        """Return when a connection that was opened after a moment showed something."""
        times = [each.shown_at for each in self.connections if each.opened_at >= at and each.shown_at]
        return min(times, default=None)


@dataclass
class Listening(Watching):
    """Somebody who is told single events, and asks after each loss for what was missed."""

    listener: Listener = field(default_factory=Listener)

    async def _shown(self, url: str) -> AsyncIterator[tuple[str, Snapshot]]:
        async for id_, name, data in self.client.events(url, self.task_id, self.listener.seen):
            snapshot = self.listener.hear(id_, name, data)
            self.witness.contradictions += self.listener.contradictions
            self.listener.contradictions.clear()
            yield f"{id_} {name} {data}", snapshot


def watching(client: Client, task_id: str, log: Path) -> Watching:
    """Return who watches an execution: of every two one is shown snapshots, the other told events."""
    kind = Listening if crc32(task_id.encode()) // 2 % 2 else Watching
    return kind(client, task_id, log)
