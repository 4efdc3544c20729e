"""What a worker process holds, and what keeps it: the heartbeat.

One thread per process renews all leases in one UPDATE every 4 s and learns what was lost. A process that could
not renew for 12 s stops its own runs: after 15 s somebody else may have them. Another thread looks for that,
because a database that hangs holds up the first.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from main.database import with_database
from main.models import LOST, Claim, Execution
from main.run import Run

logger = logging.getLogger(__name__)

HEARTBEAT = 4.0
# Seconds without a successful heartbeat after which runs are stopped; below the lease by a margin.
SELF_FENCE = 12.0
# Seconds that a run has to stop once its lease is lost; then it is taken for stuck.
STOP_PATIENCE = 10.0


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


class Heart:
    """The leases of one process."""

    def __init__(self) -> None:
        self._runs: dict[Claim, Run] = {}
        self._threads: dict[Claim, int] = {}
        # When the runs whose lease is lost were told, until they stop.
        self._lost: dict[Claim, float] = {}
        self._lock = threading.Lock()
        self._renewed_at = time.monotonic()

    @contextmanager
    def holding(self, execution: Execution, run: Run) -> Iterator[None]:
        """Keep the lease of an execution while its run goes on."""
        claim = Claim(execution.id, execution.attempt)
        with self._lock:
            if not self._runs:
                self._renewed_at = time.monotonic()  # nothing was held until now, so nothing was missed
            self._runs[claim] = run
            self._threads[claim] = threading.get_ident()
        try:
            yield
        finally:
            with self._lock:
                for held in (self._runs, self._threads, self._lost):
                    held.pop(claim, None)

    @property
    def running(self) -> list[Run]:
        with self._lock:
            return list(self._runs.values())

    def beat(self) -> None:
        """Renew all leases; stop the runs whose lease is lost."""
        with self._lock:
            held = dict(self._runs)
        if not held:
            return
        asked_at = time.monotonic()  # the leases count from no earlier than this
        kept = with_database(lambda: Execution.renew_leases(held))
        with self._lock:
            self._renewed_at = asked_at
        for claim in held.keys() - kept:
            self._lose(claim)

    def _lose(self, claim: Claim) -> None:
        """Tell a run once that its lease is lost."""
        with self._lock:
            run = self._runs.pop(claim, None)
            if run is None:  # it has just ended by itself
                return
            self._lost[claim] = time.monotonic()
        logger.info("execution %s: attempt %d is no longer ours", claim.id, claim.attempt)
        run.stop(LOST)

    def take_stuck(self) -> list[int]:
        """Return, once, the threads whose runs lost their lease long ago and have not stopped."""
        with self._lock:
            stuck = [claim for claim, at in self._lost.items() if time.monotonic() - at >= STOP_PATIENCE]
            for claim in stuck:
                del self._lost[claim]
                logger.warning("execution %s: attempt %d does not stop", claim.id, claim.attempt)
            return [self._threads[claim] for claim in stuck]

    def fence_itself(self) -> None:
        """Stop all runs where renewing has long failed."""
        silent = time.monotonic() - self._renewed_at
        going_on = [run for run in self.running if not run.is_stopped]
        if going_on and silent >= SELF_FENCE:
            logger.warning("no heartbeat for %.0f s: %d runs are stopped", silent, len(going_on))
            for run in going_on:
                run.stop("The database was away for too long.")


heart = Heart()
