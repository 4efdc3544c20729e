"""The processes that this one has started, and those that they have started."""

import ctypes
import os
import sys
import time
from contextlib import suppress

import psutil

PR_SET_CHILD_SUBREAPER = 36
# Seconds in which what was killed is gone, unless it hangs in the kernel.
DEATH_PATIENCE = 1.0


def adopt() -> None:
    """Have those whose parent ends become children of this process, so that none gets out of sight (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def are_there() -> bool:
    """Say whether this process has children, dead ones that nobody waited for among them; a look of 1 µs."""
    if not hasattr(os, "waitid"):
        return True
    with suppress(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return True
    return False


def kill() -> None:
    """Kill all descendants. Who waits for one of them learns how it ended."""
    if are_there():
        _kill(psutil.Process().children(recursive=True))


def end() -> None:
    """Kill all descendants, also those that begin meanwhile, and forget them. Nobody may wait for one of them."""
    until = time.monotonic() + DEATH_PATIENCE
    while are_there() and time.monotonic() < until:
        kill()
        reap()
        time.sleep(0.005)


def end_tree(child: psutil.Process) -> None:
    """Kill a child and its descendants, and forget it. Nobody may wait for it."""
    with suppress(psutil.NoSuchProcess):
        _kill([*child.children(recursive=True), child])
    with suppress(ChildProcessError):
        os.waitpid(child.pid, os.WNOHANG)


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process.kill()


def reap() -> None:
    """Forget the dead."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def memory() -> int:
    """Return the bytes that descendants have for themselves."""
    return sum(map(_own_memory, psutil.Process().children(recursive=True)))


def _own_memory(process: psutil.Process) -> int:
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return int(process.memory_full_info().uss)
    return 0
