"""Flows that are hard on streams."""

import time
from pathlib import Path
from typing import Any

from main.errors import FlowError
from main.registry import flow
from main.run import Run

# What grows most when it is written as JSON.
PIECE = '"\x1b' * 20_000
ODD_VALUES: dict[str, Any] = {
    "not a number": float("nan"),
    "infinity": float("inf"),
    "too large for 64 bits": 2**70,
    "NUL": "a\x00b",
    "half a character": "a\ud800b",
    "odd keys": {"a\x00": 1, 2**70: {"\ud800": 3}},
}


@flow(public=True)
def odd_value_flow(run: Run, value: str, shown: bool = False) -> Any:
    """Return what JSON, UTF-8 or PostgreSQL cannot hold, or show it as a tool result."""
    if shown:
        run.tool_result("oracle", ODD_VALUES[value])
    return None if shown else ODD_VALUES[value]


@flow(public=True, step_retries=0)
def garbled_failure_flow(run: Run) -> None:
    """Fail with a sentence that nobody can keep."""
    raise FlowError("It broke: \x00 \ud800 " + "x" * 10_000)


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


@flow(public=True)
def thirds_flow(run: Run, folder: str) -> str:
    """Write ten words, and ten more for each of the files `1` and `2` in a folder; what is written leaves a file."""
    path = Path(folder)

    def write() -> str:
        words = [f"word{number} " for number in range(30)]
        for third in range(3):
            while third and not (path / str(third)).exists():
                time.sleep(0.02)
                run.check()
            for word in words[10 * third : 10 * third + 10]:
                run.token(word)
                time.sleep(0.02)
            (path / f"written-{third}").touch()
        return "".join(words)

    return str(run.step("Write", write))


def _write(run: Run) -> None:
    for _ in range(10):
        run.token(PIECE)
        run.log("A page is written.")
        time.sleep(0.06)  # so that each is a frame of its own
