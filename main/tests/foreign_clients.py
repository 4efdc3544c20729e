"""Clients of Server-Sent Events that are not ours, each called as its documentation says.

Each watches an address until the server has told it not to come back (204). `EventSource` comes back by itself where
its stream ends earlier; clients that leave that to their caller have the loop of `coming_back`.
"""

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import orjson
import sseclient
from django.conf import settings
from httpx_sse import connect_sse
from playwright.sync_api import Page

from main.tests.platform import PATIENCE, Visitor
from main.tests.programs import cannot, program

NODE = Path(__file__).parent / "node"
INSTALLING = threading.Lock()
# What a message may be named; one without a name is a "message".
NAMES = [
    *("message", "snapshot", "state", "progress", "step", "log"),
    *("tool_result", "token", "result"),
]


class Said(NamedTuple):
    """A message as a client hands it on; without data where it hands that on too."""

    event: str
    id: str
    data: str
    retry: int | None = None


class NotWantedError(Exception):
    """The server answered 204: there is nothing to come back for."""


Client = Callable[[Visitor, str], Iterator[Said]]
# Gives the messages of one connection, asked for with the headers.
Connection = Callable[[Visitor, str, dict[str, str]], Iterator[Said]]


def coming_back(connect: Connection) -> Client:
    """Return the loop that httpx-sse's README has, which also goes on where a stream ends without an error."""

    def watch(visitor: Visitor, path: str) -> Iterator[Said]:
        last_id, retry = "", 1000
        while True:
            try:
                for said in connect(visitor, path, {"Last-Event-ID": last_id} if last_id else {}):
                    last_id = said.id or last_id
                    retry = said.retry or retry
                    if said.data:
                        yield said
            except NotWantedError:
                return
            except httpx.TransportError:
                pass
            time.sleep(retry / 1000)

    return watch


@coming_back
def httpx_sse(visitor: Visitor, path: str, headers: dict[str, str]) -> Iterator[Said]:
    with connect_sse(visitor, "GET", path, headers=headers) as source:
        expect_wanted(source.response.status_code)
        for sse in source.iter_sse():
            yield Said(sse.event, sse.id, sse.data, sse.retry)


@coming_back
def sseclient_py(visitor: Visitor, path: str, headers: dict[str, str]) -> Iterator[Said]:
    with visitor.stream("GET", path, headers=headers) as response:
        expect_wanted(response.status_code)
        for event in sseclient.SSEClient(response.iter_bytes()).events():
            yield Said(event.event, event.id or "", event.data)  # it hides a `retry` without data


@coming_back
def curl(visitor: Visitor, path: str, headers: dict[str, str]) -> Iterator[Said]:
    command = [program("curl"), "-sN", "-w", "%{stderr}%{http_code}", "-b", cookie(visitor)]
    for name, value in headers.items():
        command += ["-H", f"{name}: {value}"]
    with running([*command, address(visitor, path)]) as process:
        assert process.stdout
        assert process.stderr
        fields: dict[str, str] = {}
        for line in process.stdout:
            name, colon, value = line.rstrip("\n").partition(":")
            if colon:
                fields[name] = value.removeprefix(" ")
                continue
            retry = int(fields["retry"]) if "retry" in fields else None
            yield Said(fields.get("event", "message"), fields.get("id", ""), fields.get("data", ""), retry)
            fields = {}
        status = int(process.stderr.read())
    if status:  # without, nobody answered
        expect_wanted(status)


def npm_eventsource(visitor: Visitor, path: str) -> Iterator[Said]:
    """What it says on its standard error, it fails with."""
    script = installed() / "watch.mjs"
    with running([program("node"), str(script), address(visitor, path), cookie(visitor), *NAMES]) as process:
        assert process.stdout
        assert process.stderr
        for line in process.stdout:
            yield Said(*orjson.loads(line))
        assert process.wait(PATIENCE) == 0, process.stderr.read()


def chromium(page: Page) -> Client:
    """Return the client that is a page of a browser, somewhere on the server."""

    def watch(visitor: Visitor, path: str) -> Iterator[Said]:
        page.context.add_cookies(
            [
                {"name": name, "value": value, "url": str(visitor.base_url)}
                for name, value in visitor.cookies.items()
            ]
        )
        page.goto(address(visitor, "/health/"))
        page.evaluate(EVENT_SOURCE, [path, NAMES])
        while (said := page.evaluate("nextMessage()")) is not None:
            yield Said(*said)

    return watch


# `nextMessage` waits for a message; it gives null once the browser will not come back. `source` is the EventSource.
EVENT_SOURCE = """([path, names]) => {
  const messages = [];
  let wake = () => {};
  const put = (message) => {
    messages.push(message);
    wake();
  };
  const source = (window.source = new EventSource(path));
  for (const name of names) {
    source.addEventListener(name, ({ type, lastEventId, data }) => put([type, lastEventId, data]));
  }
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) put(null);
  });
  window.nextMessage = async () => {
    while (!messages.length) await new Promise((resolve) => (wake = resolve));
    return messages.shift();
  };
}"""


def expect_wanted(status: int) -> None:
    if status == 204:
        raise NotWantedError
    assert status == 200


def address(visitor: Visitor, path: str) -> str:
    return str(visitor.base_url.join(path))


def cookie(visitor: Visitor) -> str:
    return "; ".join(f"{name}={value}" for name, value in visitor.cookies.items())


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a program that is read line by line, and end it with the block."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def installed() -> Path:
    """Return the folder of the script and the package that it imports, in the version of the lock file."""
    folder = Path(settings.LOCAL_DIR) / "node"
    with INSTALLING:
        if not folder.exists():
            shutil.copytree(NODE, folder)
            install = [
                program("npm"),
                "ci",
                "--prefer-offline",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
            ]
            done = subprocess.run(install, cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode:
                shutil.rmtree(folder)
                cannot(f"npm cannot install eventsource: {done.stderr}")
    return folder
