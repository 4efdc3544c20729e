"""Flows that are hard on streams."""

import time
from pathlib import Path

from main.registry import flow
from main.run import Run

# What grows most when it is written as JSON.
PIECE = '"\x1b' * 20_000


@flow(public=True)
def torrent_flow(run: Run) -> str:
    """Say far too much in every way there is."""
    for number in range(60):
        run.step(f"{number} " + "“quoted” " * 11, lambda: run.log('"' * 4000))
    run.step("Write", lambda: _write(run))
    return PIECE


@flow(public=True)
def ticking_flow(run: Run, folder: str) -> None:
    """Say something all the time; leave a file when it is stopped."""
    try:
        while True:
            run.token(". ")
            time.sleep(0.02)
    finally:
        (Path(folder) / "stopped").touch()


def _write(run: Run) -> None:
    for _ in range(10):
        run.token(PIECE)
        run.log("A page is written.")
        time.sleep(0.06)  # so that each is a frame of its own
