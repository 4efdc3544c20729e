"""What a worker process holds, and what keeps it: the heartbeat.

One thread per process renews all leases in one UPDATE every 4 s, and looks every second in between, so that a
cancel is learned of without Redis as well. A process that could not renew for 12 s stops its own runs: after 15 s
somebody else may have them. Another thread looks for that, because a database that hangs holds up the first.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from main.database import with_database
from main.journal import LOST
from main.models import Claim, Execution
from main.run import Run

logger = logging.getLogger(__name__)

HEARTBEAT = 4.0
# Seconds between two looks at whether anything was lost.
PULSE = 1.0
# Seconds without a successful heartbeat after which runs are stopped; below the lease by a margin.
SELF_FENCE = 12.0
# Seconds that a run has to stop once it was told; then it is taken for stuck. In an io worker a thread would be lost
# with it; the child of a cpu worker serves that run alone, and another takes its place at once.
STOP_PATIENCE = 10.0
CPU_STOP_PATIENCE = 2.0


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


@dataclass
class _Held:
    """A run under way. `thread` is the one that its flow is in; None before and after."""

    run: Run
    thread: int | None = None
    is_lost: bool = False
    told_at: float | None = None


class Heart:
    """The leases of one process."""

    def __init__(self) -> None:
        self._held: dict[Claim, _Held] = {}
        self._lock = threading.Lock()
        self._renewed_at = time.monotonic()

    @contextmanager
    def holding(self, execution: Execution, run: Run) -> Iterator[None]:
        """Keep the lease of an execution while its run goes on."""
        claim = Claim(execution.id, execution.attempt)
        with self._lock:
            if not self._kept():
                self._renewed_at = time.monotonic()  # nothing was held until now, so nothing was missed
            self._held[claim] = _Held(run)
        try:
            yield
        finally:
            with self._lock:
                self._held.pop(claim, None)

    @contextmanager
    def in_flow(self, execution: Execution) -> Iterator[None]:
        """Note that this thread is in a flow's hands: it may get stuck there, and not in what follows."""
        held = self._held[Claim(execution.id, execution.attempt)]
        held.thread = threading.get_ident()
        try:
            yield
        finally:
            with self._lock:
                held.thread = None

    @property
    def running(self) -> list[Run]:
        with self._lock:
            return list(self._kept().values())

    def _kept(self) -> dict[Claim, Run]:
        return {claim: held.run for claim, held in self._held.items() if not held.is_lost}

    def pulse(self) -> None:
        """Renew all leases when that is due, and look otherwise whether one is lost."""
        if time.monotonic() - self._renewed_at >= HEARTBEAT - PULSE / 2:
            self.beat()
        else:
            self._ask(Execution.still_held)

    def beat(self) -> None:
        """Renew all leases; stop the runs whose lease is lost."""
        asked_at = time.monotonic()  # the leases count from no earlier than this
        if self._ask(Execution.renew_leases):
            with self._lock:
                self._renewed_at = asked_at

    def _ask(self, what: Callable[[Iterable[Claim]], set[Claim]]) -> bool:
        """Ask the database what is kept, and stop the rest; say whether there was anything to ask for."""
        with self._lock:
            claims = list(self._kept())
        if not claims:
            return False
        kept = with_database(partial(what, claims))
        for claim in set(claims) - kept:
            self._lose(claim)
        return True

    def _lose(self, claim: Claim) -> None:
        """Tell a run once that its lease is lost."""
        with self._lock:
            held = self._held.get(claim)
            if held is None or held.is_lost:  # it has just ended by itself, or was told
                return
            held.is_lost, held.told_at = True, time.monotonic()
        logger.info("execution %s: attempt %d is no longer ours", claim.id, claim.attempt)
        held.run.stop(LOST)

    def stuck(self, patience: float) -> list[tuple[Claim, int]]:
        """Return claims and threads of runs that were told to stop so long ago, and are still in their flow."""
        now = time.monotonic()
        with self._lock:
            for held in self._held.values():
                if held.run.is_stopped and held.told_at is None:
                    held.told_at = now
            return [
                (claim, held.thread)
                for claim, held in self._held.items()
                if held.thread is not None and held.told_at is not None and now - held.told_at >= patience
            ]

    def give_up(self, claim: Claim) -> None:
        """Hold an execution no longer, though its flow goes on."""
        with self._lock:
            self._held.pop(claim, None)
        logger.warning("execution %s: attempt %d does not stop", claim.id, claim.attempt)

    def fence_itself(self) -> None:
        """Stop all runs where renewing has long failed."""
        silent = time.monotonic() - self._renewed_at
        going_on = [run for run in self.running if not run.is_stopped]
        if going_on and silent >= SELF_FENCE:
            logger.warning("no heartbeat for %.0f s: %d runs are stopped", silent, len(going_on))
            for run in going_on:
                run.stop("The database was away for too long.")


heart = Heart()
