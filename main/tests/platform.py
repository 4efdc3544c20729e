"""The real platform for tests: gunicorn, an io worker and a cpu worker, on the session's databases.

Its rows are committed and stay until the file's end: a test looks at the executions it started. This is a plugin (see
conftest.py at the top): a conftest that imported these fixtures would have a platform of its own, and two of them
would share their work.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import httpx
import orjson
import pytest
from django.core.management import call_command
from django.db import connection
from pytest_django.plugin import DjangoDbBlocker

from config.embedded import becomes_free, children_lock, guarded
from config.processes import commands
from config.tests.waiting import wait_until
from main.registry import load_flows
from main.tests.rows import in_thread

FLOWS = [f"main.tests.{name}_flows" for name in ("page", "engine", "graph", "stream", "limits")]
SNAPSHOT = dict[str, Any]
GRACE = 6.0
PATIENCE = 30.0


class Process:
    """One of the platform's processes, under a guard that ends it with the test session."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        self.name = name
        self._folder = Path(environment["LOCAL_DIR"]) / name
        self._folder.mkdir(exist_ok=True)
        self.log = self._folder / "log"
        self._command = guarded([sys.executable, *command[1:]], self._folder, grace=GRACE)
        self.environment = environment
        self.start()

    def start(self) -> None:
        # Two of one name would share their work. The guard, and all that is below it, hold this lock.
        assert becomes_free(children_lock(self._folder), PATIENCE), f"another {self.name} is running"
        with self.log.open("ab") as log:
            self.guard = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=self.environment
            )

    @property
    def pid(self) -> int:
        """The process itself, below its guard."""
        children = Path(f"/proc/{self.guard.pid}/task/{self.guard.pid}/children")
        wait_until(children.read_text)
        return int(children.read_text().split()[0])

    def kill(self) -> None:
        """End it and its children as a crash would, and wait until they are gone."""
        os.killpg(os.getpgid(self.pid), signal.SIGKILL)
        self.guard.wait(PATIENCE)
        assert self.guard.stdin
        self.guard.stdin.close()

    def stop(self, seconds: float = PATIENCE) -> None:
        """End it as a deploy would; raises TimeoutExpired where that takes longer."""
        assert self.guard.stdin
        self.guard.stdin.close()
        self.guard.wait(seconds)

    def restart(self) -> None:
        if self.guard.stdin:
            self.guard.stdin.close()
            self.guard.wait(PATIENCE)
        self.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let it hang for the length of the block."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)


class Visitor(httpx.Client):
    """A browser session without a browser: it has the cookies, and sends the CSRF token."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(base_url=url, timeout=PATIENCE, **options)

    def __enter__(self) -> Self:
        super().__enter__()
        self.get("/").raise_for_status()
        self.headers["X-CSRFToken"] = self.cookies["csrftoken"]
        return self

    def start(self, flow: str, **inputs: Any) -> str:
        """Start a flow and return the task id."""
        response = self.post("/start-task/", json={"flow": flow, "inputs": inputs})
        assert response.status_code == 200, response.text
        task_id: str = response.json()["task_id"]
        return task_id

    def watch(self, task_id: str) -> Iterator[SNAPSHOT]:
        """Yield the snapshots of an execution until its stream ends."""
        with self.stream("GET", f"/task-status/{task_id}/") as response:
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield orjson.loads(line.removeprefix("data: "))

    def run(self, flow: str, **inputs: Any) -> SNAPSHOT:
        """Start a flow, watch it to its end, and return the last snapshot."""
        return list(self.watch(self.start(flow, **inputs)))[-1]

    def details(self, task_id: str) -> dict[str, Any]:
        response = self.get(f"/executions/{task_id}/", headers={"Accept": "application/json"})
        found: dict[str, Any] = response.raise_for_status().json()
        return found


class Platform:
    """The running processes by name: web, worker-io, worker-cpu, worker-notifications."""

    def __init__(self, **settings_: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **os.environ,
            "POSTGRES_DB": str(connection.settings_dict["NAME"]),
            "PUBLIC_URL": self.url,
            "FLOW_MODULES": ",".join(FLOWS),
            "ANONYMOUS_STARTS_PER_MINUTE": "0",
            "DEMO_TOKEN_DELAY": "0.005",
            "CPU_MEMORY_MB": "256",
            "PYTHONUNBUFFERED": "1",
            "DJANGO_ALLOW_ASYNC_UNSAFE": "",  # only this session may
            **settings_,
        }
        lines = commands(bind=f"127.0.0.1:{self.port}", web=1, io=16, cpu=2)
        self.processes = {name: Process(name, line, self.environment) for name, line in lines.items()}

    def __enter__(self) -> Self:
        try:
            wait_until(self.answers, PATIENCE)
            self._work()
        except BaseException:
            self.stop()
            print(*(process.log.read_text() for process in self.processes.values()))  # noqa: T201 for the report
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __getitem__(self, name: str) -> Process:
        return self.processes[name]

    def visitor(self) -> Visitor:
        return Visitor(self.url)

    def revive(self) -> None:
        """Start what has ended, and wait until it answers."""
        ended = [process for process in self.processes.values() if process.guard.poll() is not None]
        for process in ended:
            process.restart()
        if ended:
            wait_until(self.answers, PATIENCE)

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        for process in self.processes.values():
            if process.guard.stdin:
                process.guard.stdin.close()
        for process in self.processes.values():
            process.guard.wait(PATIENCE)

    def _work(self) -> None:
        """Wait until both kinds of workers do what they are asked."""
        with self.visitor() as visitor:
            asked = [visitor.start(flow) for flow in ("count_flow", "cpu_count_flow")]
            for task_id in asked:
                assert list(visitor.watch(task_id))[-1]["state"] == "SUCCESS"


@pytest.fixture(scope="session")
def platform(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Platform]:
    """The platform for the whole session."""
    load_flows(FLOWS)
    with django_db_blocker.unblock(), Platform() as platform:
        yield platform


@pytest.fixture(scope="module", autouse=True)
def used_platforms() -> Iterator[list[Platform]]:
    """What the tests of a file use. All that they left is forgotten: those of other files begin with empty tables."""
    used: list[Platform] = []
    yield used
    if used:
        empty = partial(call_command, "flush", verbosity=0, interactive=False, reset_sequences=False)
        in_thread(empty).result(PATIENCE)  # a browser's event loop may be in this one


@pytest.fixture(autouse=True)
def revived(request: pytest.FixtureRequest, used_platforms: list[Platform]) -> Iterator[None]:
    """Have all of it running again after a test that harmed a process, also where that test failed."""
    if "platform" not in request.fixturenames:
        yield
        return
    platform: Platform = request.getfixturevalue("platform")
    used_platforms.append(platform)
    yield
    platform.revive()


@pytest.fixture
def visitor(platform: Platform) -> Iterator[Visitor]:
    with platform.visitor() as visitor:
        yield visitor


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
