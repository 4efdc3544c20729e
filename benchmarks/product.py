"""The product's own processes, called as `manage.py dev` and docker-compose.yml call them.

They get a LOCAL_DIR of their own, with a real PostgreSQL and Redis, and settings from nowhere else. Unlike
`manage.py dev` nothing restarts them when a file changes, or somebody who edits would spoil a figure.
"""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NamedTuple

import orjson
import psutil
import psycopg

from benchmarks.client import Person
from config import embedded
from config.processes import commands
from config.servers import Servers

PROJECT = Path(__file__).resolve().parent.parent
DATABASE = "api_ctm"
# The defaults of WEB_CONCURRENCY, IO_CONCURRENCY and CPU_CONCURRENCY.
WEB, IO, CPU = 1, 32, 2
NAMES = ("web", "worker-io", "worker-cpu", "worker-notifications")
# Seconds that everything gets to start, and a process to end.
START_PATIENCE, STOP_PATIENCE = 60.0, 6.0


class NotStartedError(Exception):
    """A process of the product did not start; the message has the last lines of all."""


class Owner(NamedTuple):
    """Someone who is signed in."""

    user_id: str
    person: Person


@dataclass
class Product:
    """The running product: where it listens, and the guards of its processes, and of the databases, by name.

    `mail_port` is where its mail server would be.
    """

    local_dir: Path
    port: int
    mail_port: int
    signed_in: Person
    guards: dict[str, psutil.Process]
    databases: dict[str, psutil.Process]
    stack: ExitStack

    @property
    def web(self) -> psutil.Process:
        """The process that serves: gunicorn's only child."""
        return self.guards["web"].children()[0].children()[0]

    def launch(self, name: str) -> None:
        """Start a process of ours, for the first time or again; it is ready a little later."""
        command = commands(bind=f"127.0.0.1:{self.port}", web=WEB, io=IO, cpu=CPU)[name]
        self.guards[name] = self.stack.enter_context(child(name, command, self.local_dir, self.mail_port))

    def processes(self, name: str) -> list[psutil.Process]:
        """Return a process of ours and its children; the guard that watches over it is not counted."""
        return self.guards[name].children(recursive=True)

    def processor_seconds(self) -> dict[str, float]:
        """Return by name how long each process and its children have computed, databases included."""
        return {name: computed(guard) for name, guard in (self.guards | self.databases).items()}

    def count_executions(self) -> dict[str, int]:
        """Count by state what PostgreSQL has."""
        with database(self.local_dir) as connection:
            return dict(
                connection.execute("SELECT state, count(*) FROM main_execution GROUP BY state").fetchall()
            )


def environment(local_dir: Path) -> dict[str, str]:
    """Return the environment of the product: none of the settings that the shell or `.env` may have."""
    example = (PROJECT / ".env.example").read_text()
    names = set(re.findall(r"^#?([A-Z_]+)=", example, re.MULTILINE))
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    return inherited | {
        "ENV_FILE": os.devnull,
        "DEVELOPMENT": "true",
        "LOCAL_DIR": str(local_dir),
        "PORT": "0",
        "FLOW_MODULES": "benchmarks.flows",
        "ANONYMOUS_STARTS_PER_MINUTE": "0",
        "DEMO_TOKEN_DELAY": "0",
        "MAX_STREAMS_PER_USER": "0",
        "MAX_STREAMS_PER_VISITOR": "0",
        "PYTHONUNBUFFERED": "1",
    }


@contextmanager
def running_product(local_dir: Path) -> Iterator[Product]:
    """Start everything, wait until it is ready, and end it with the block."""
    with ExitStack() as stack:
        stack.enter_context(embedded.owned(local_dir))
        servers = stack.enter_context(Servers(local_dir, database_name=DATABASE)).servers
        databases = {each.name: psutil.Process(each.process.pid) for each in servers if each.process}
        person = sign_in(local_dir, 1)[0].person
        product = Product(local_dir, free_port(), free_port(), person, {}, databases, stack)
        for name in NAMES:
            product.launch(name)
        wait_until_ready(product)
        yield product


def sign_in(local_dir: Path, count: int) -> list[Owner]:
    """Make so many users who are signed in; the database is ready afterwards."""
    command = [sys.executable, "-m", "benchmarks.prepare", str(count)]
    done = subprocess.run(command, cwd=PROJECT, env=environment(local_dir), check=True, capture_output=True)
    csrf = {"csrftoken": "b" * 32}
    return [Owner(user_id, Person(csrf | cookies)) for user_id, cookies in orjson.loads(done.stdout)]


@contextmanager
def child(name: str, command: list[str], local_dir: Path, mail_port: int) -> Iterator[psutil.Process]:
    """Run a process under its guard, as `manage.py dev` does; its output goes to a file."""
    guarded = embedded.guarded([sys.executable, *command[1:]], local_dir, grace=STOP_PATIENCE)
    with (
        log_of(name, local_dir).open("wb") as log,
        subprocess.Popen(
            guarded,
            cwd=PROJECT,
            env=environment(local_dir)
            | {"EMAIL_URL": f"smtp://127.0.0.1:{mail_port}", "MAILS_PER_RECEIVER": "0"},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        ) as process,
    ):
        yield psutil.Process(process.pid)
        assert process.stdin
        process.stdin.close()


def log_of(name: str, local_dir: Path) -> Path:
    return local_dir / f"{name}.log"


def computed(guard: psutil.Process) -> float:
    seconds = 0.0
    for process in guard.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # PostgreSQL's come and go
            seconds += processor_time(process)
    return seconds


def processor_time(process: psutil.Process) -> float:
    """Return for how many seconds a process has computed, for itself and in the kernel."""
    times = process.cpu_times()
    return times.user + times.system


def wait_until_ready(product: Product) -> None:
    began = time.monotonic()
    while not (is_healthy(product.port) and are_working(product.local_dir, time.monotonic() - began)):
        ended = any(guard.status() == psutil.STATUS_ZOMBIE for guard in product.guards.values())
        if ended or time.monotonic() - began > START_PATIENCE:
            raise NotStartedError("\n".join(last_words(name, product.local_dir) for name in product.guards))
        time.sleep(0.05)


def is_healthy(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health/")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def are_working(local_dir: Path, seconds: float) -> bool:
    """Whether every worker process has told the database in these last seconds that it is there."""
    with database(local_dir) as connection:
        found = connection.execute(
            "SELECT count(*) FROM main_workerbeat WHERE beat_at > now() - make_interval(secs => %s)",
            [seconds],
        ).fetchone()
    return found == (2 + CPU,)  # the two workers that have threads, and the cpu worker's children


def last_words(name: str, local_dir: Path) -> str:
    lines = log_of(name, local_dir).read_text(errors="replace").splitlines()[-20:]
    return "\n".join([f"{name}:", *lines])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def database(local_dir: Path) -> psycopg.Connection:
    return psycopg.connect(
        host=str(embedded.postgres_sockets(local_dir)),
        port=embedded.PORT,
        user=embedded.USER,
        dbname=DATABASE,
    )
