"""What a worker process holds, and the thread that keeps it: the heartbeat.

One thread per process renews all leases in one UPDATE every 4 s and learns what was lost. A process that could
not renew for 12 s stops its own runs: after 15 s somebody else may have them.
"""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from django.db import Error, InterfaceError, OperationalError, connection
from psycopg_pool import PoolTimeout

from main.models import Claim, Execution
from main.run import Run

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

HEARTBEAT = 4.0
# Seconds without a successful heartbeat after which runs are stopped; below the lease by a margin.
SELF_FENCE = 12.0
# Seconds between two tries to reach a database that is away.
DATABASE_PAUSE = 0.5

# What says that the database is away, and may be back soon.
DATABASE_AWAY = (OperationalError, InterfaceError, PoolTimeout)


def worker_name() -> str:
    """Return this process's name. Children of one worker share the part before the last slash."""
    return f"{worker_prefix()}{os.getpid()}"


def worker_prefix() -> str:
    """Return what the names of this worker's processes begin with: host and pid of the parent."""
    return f"{socket.gethostname()}/{_parent_pid}/"


def be_child_of(parent_pid: int) -> None:
    """Say that this process is a child of the worker with that pid."""
    global _parent_pid
    _parent_pid = parent_pid


_parent_pid = os.getpid()


def with_database(what: Callable[[], Result], run: Run | None = None) -> Result:
    """Do something with the database and give the connection back, so that waiting for a model holds none.

    With a run it waits for a database that is away until the run is stopped; then it raises Stopped.
    """
    while True:
        try:
            return what()
        except DATABASE_AWAY:
            if run is None:
                raise
            run.wait(DATABASE_PAUSE)
        finally:
            connection.close()


class Heart:
    """The leases of one process."""

    def __init__(self) -> None:
        self._runs: dict[tuple[uuid.UUID, int], Run] = {}
        self._lock = threading.Lock()
        self._renewed_at = time.monotonic()

    @contextmanager
    def holding(self, execution: Execution, run: Run) -> Iterator[None]:
        """Keep the lease of an execution while its run goes on."""
        key = (execution.id, execution.attempt)
        with self._lock:
            if not self._runs:
                self._renewed_at = time.monotonic()  # nothing was held until now, so nothing was missed
            self._runs[key] = run
        try:
            yield
        finally:
            with self._lock:
                self._runs.pop(key, None)

    @property
    def running(self) -> list[Run]:
        with self._lock:
            return list(self._runs.values())

    def beat(self) -> None:
        """Renew all leases; stop the runs whose lease is lost, and all of them where renewing has long failed."""
        with self._lock:
            held = dict(self._runs)
        if not held:
            return
        claims = [Claim(id=id_, attempt=attempt) for id_, attempt in held]
        try:
            kept = with_database(lambda: Execution.renew_leases(claims))
        except (Error, PoolTimeout) as error:
            self._missed(held, error)
            return
        self._renewed_at = time.monotonic()
        for (id_, attempt), run in held.items():
            if id_ not in kept:
                logger.info("execution %s: attempt %d is no longer ours", id_, attempt)
                run.stop("The execution ended or was taken over.")

    def _missed(self, held: dict[tuple[uuid.UUID, int], Run], error: BaseException) -> None:
        silent = time.monotonic() - self._renewed_at
        logger.warning("no heartbeat for %.0f s: the database is away (%s)", silent, type(error).__name__)
        if silent >= SELF_FENCE:
            for run in held.values():
                run.stop("The database was away for too long.")


heart = Heart()
