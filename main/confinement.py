"""What confines a run in a child of a `cpu` worker: a ceiling of memory, and an eye on the processes that it starts.

Linux counts what a process has allocated (RLIMIT_DATA), and refuses more than a limit: Python then raises
MemoryError in the flow. A little is kept back above the ceiling for the threads that keep this process's promises;
a watcher ends a run that has got there, such as by a slow growth, or by catching the MemoryError. It also counts
the memory of the processes that the run started, and kills them when the run is told to stop.
"""

import logging
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from main import descendants
from main.errors import FlowError, classify_error
from main.run import Run, Stopped

logger = logging.getLogger(__name__)

MIB = 1024 * 1024
# Kept back above the ceiling, for this process's own threads.
RESERVE = 32 * MIB
# What writing down may take once a run is to be ended that goes on allocating.
LAST_RESERVE = 256 * MIB
# Seconds between two looks of the watcher.
WATCH = 0.25
# glibc's, where the stack's limit is "unlimited".
DEFAULT_STACK = 2 * MIB

Fail = Callable[[FlowError], None]


class Confinement:
    """Confines the one run of this process; `megabytes` is the ceiling, 0 for none."""

    def __init__(self, megabytes: int) -> None:
        self._ceiling = megabytes * MIB if sys.platform == "linux" else 0
        self._before = 0
        self._run: Run | None = None
        self._fail: Fail | None = None
        self._occupied = threading.Event()
        self._lock = threading.Lock()
        self.is_worn = False
        """Whether another process should take this one's place: a run ended for want of memory, or left much of it."""
        threading.Thread(target=self._watch, name="confinement", daemon=True).start()

    @contextmanager
    def around(self, run: Run, fail: Fail) -> Iterator[None]:
        """Confine a run for the length of the block; what it leaves of processes ends with it.

        Raises FlowError of type `memory` where it ended for want of memory. `fail` is called with the same error,
        and this process ends, where the flow does not end by itself.
        """
        self._before = allocated()
        self._run, self._fail = run, fail
        self._set_limit(RESERVE)
        self._occupied.set()
        try:
            yield
        except Stopped:
            raise
        except BaseException as error:
            self._lift()  # or there would be none to write this down
            if classify_error(error).type != "memory":
                raise
            self.is_worn = True
            if isinstance(error, FlowError):  # it has a better sentence
                raise
            raise self._too_much() from error
        finally:
            self._leave()

    def replace_if_worn(self) -> None:
        """End this process where it is worn: its worker puts a fresh one in its place."""
        if self.is_worn:
            end_process()

    def _leave(self) -> None:
        with self._lock:  # the watcher may be at work on this run
            self._occupied.clear()
            self._run = self._fail = None
            self._lift()
        descendants.end()
        if self._ceiling and allocated() - self._before > self._ceiling / 2:
            logger.info(
                "much of the last execution's memory is still in use: this process makes place for a fresh one"
            )
            self.is_worn = True

    def _watch(self) -> None:
        while True:
            self._occupied.wait()
            time.sleep(WATCH)
            with self._lock:
                try:
                    self._look()
                except MemoryError:
                    pass  # in a moment again
                except Exception:
                    logger.exception("the confinement stumbled")

    def _look(self) -> None:
        if self._run is None or self._fail is None:
            return
        if self._run.is_stopped:
            descendants.kill()
        elif self._is_outgrown():
            self._set_limit(LAST_RESERVE)
            descendants.kill()
            logger.warning(
                "execution %s: its flow has outgrown its memory and goes on; it is ended", self._run.id
            )
            try:
                self._fail(self._too_much())
            finally:
                end_process()
        else:
            self._set_limit(RESERVE)  # there may be more threads now

    def _is_outgrown(self) -> bool:
        if not self._ceiling:
            return False
        used = allocated() - self._before
        return used > self._ceiling or (
            descendants.are_there() and used + descendants.memory() > self._ceiling
        )

    def _too_much(self) -> FlowError:
        return FlowError(
            f"The flow needed more than the {self._ceiling // MIB} MB of memory that an execution may use.",
            type="memory",
        )

    def _set_limit(self, reserve: int) -> None:
        if self._ceiling:
            _limit(self._before + self._ceiling + reserve + _stacks(_status()))

    def _lift(self) -> None:
        if self._ceiling:
            _limit(resource.RLIM_INFINITY)


def end_process() -> NoReturn:
    """End this child of a worker, with all that it started; its worker puts another in its place."""
    try:
        descendants.kill()
    finally:
        os._exit(1)


def allocated() -> int:
    """Return the bytes that this process has allocated, without the stacks of threads, which are room and not use."""
    status = _status()
    return status["VmData"] * 1024 - _stacks(status)


def _stacks(status: dict[str, int]) -> int:
    size, _ = resource.getrlimit(resource.RLIMIT_STACK)
    return status["Threads"] * (DEFAULT_STACK if size == resource.RLIM_INFINITY else size)


def _status() -> dict[str, int]:
    """Return what Linux says of this process's memory, in KiB, and threads; elsewhere nothing of both."""
    status = {"VmData": 0, "Threads": 0}
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text().splitlines()
        for name, _, value in (line.partition(":") for line in lines):
            if name in status:
                status[name] = int(value.split()[0])
    return status


def _limit(size: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        size = hard if size == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (size, hard))
