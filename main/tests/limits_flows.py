"""Flows that take more than they may: memory, processes, time."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

from main.registry import flow
from main.run import Run

MIB = 1024 * 1024
# Twice what tests allow (main/tests/platform.py).
MUCH = 512
HOG = f"import time; held = b'x' * ({MUCH // 3} * 2**20); time.sleep(60)"

How = Literal["at once", "slowly", "in processes", "again and again"]


@flow(public=True, kind="cpu")
def hungry_flow(run: Run, how: How) -> int:
    """Take more memory than an execution may use."""
    take = {
        "at once": lambda: bytearray(MUCH * MIB),
        "slowly": _grow,
        "in processes": lambda: [hog.wait() for hog in [_hog(), _hog()]],
        "again and again": _insist,
    }[how]
    return run.step("Take", lambda: len(str(take())))


def _hog() -> "subprocess.Popen[bytes]":
    """Start a process that alone does not take too much."""
    return subprocess.Popen([sys.executable, "-c", HOG])


def _grow() -> list[bytearray]:
    """Take a little at a time, and be content with what there is."""
    taken: list[bytearray] = []
    while True:
        try:
            taken.append(bytearray(2 * MIB))
        except MemoryError:
            time.sleep(0.01)


def _insist() -> list[bytearray]:
    """Raise something else for want of memory."""
    try:
        return [bytearray(MUCH * MIB)]
    except MemoryError as error:
        raise RuntimeError("The table could not be read.") from error


@flow(public=True, kind="cpu")
def modest_flow(run: Run, megabytes: int = 200) -> int:
    """Take most of the memory that an execution may use, and then less where there is not more."""

    def take() -> int:
        held = bytearray(megabytes * MIB)
        try:
            held += bytearray(MUCH * MIB)
        except MemoryError:
            return len(held) // MIB
        return 0

    return run.step("Take", take)


@flow(public=True, kind="cpu")
def neighbour_flow(run: Run, folder: str) -> int:
    """Wait for a file `open` in a folder; return the process."""
    (Path(folder) / "begun").touch()
    while not (Path(folder) / "open").exists():
        time.sleep(0.02)
        run.check()
    return os.getpid()


@flow(public=True, kind="cpu")
def parent_flow(run: Run, folder: str, seconds: int = 100) -> str:
    """Start a process that starts another out of sight, and wait for it."""
    hidden = f"setsid sh -c 'echo $$ > {folder}/hidden; sleep 1000'"
    script = f"{hidden} & echo $PPID > {folder}/run; echo $$ > {folder}/seen; sleep {seconds}"
    for name in ("seen", "hidden"):  # of an earlier attempt
        (Path(folder) / name).unlink(missing_ok=True)
    subprocess.run(["sh", "-c", script], check=False)
    time.sleep(seconds)
    return "waited"
