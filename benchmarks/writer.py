"""Events written as a worker writes them, at a given pace: jobs for a process of its own, which is writing.py.

Every event is one token whose text is its number and the moment just before it was written: "17:81236123123 ".
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import PIPE

import orjson

from benchmarks.product import PROJECT, environment

# What the name of a bare server's channel begins with; see forwarder.py.
BARE = "bare-"


@dataclass(frozen=True)
class Job:
    """Write `count` events to each of `ids`, numbered from `first`, one each in every `period` of seconds.

    A period's events are written in so many `slices`, evenly spread.
    """

    ids: list[str]
    first: int = 1
    count: int = 1
    period: float = 0.0
    slices: int = 1


@dataclass(frozen=True)
class Done:
    """What became of a job, in seconds: how long it took, by how much a slice was late at most, what it computed."""

    seconds: float
    latest: float
    processor: float


class Writer:
    """The process, from outside."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def do(self, job: Job) -> Done:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(orjson.dumps(asdict(job)) + b"\n")
        return Done(**orjson.loads(await self._process.stdout.readline()))


@asynccontextmanager
async def running_writer(local_dir: Path) -> AsyncIterator[Writer]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.writing"),
        cwd=PROJECT,
        env=environment(local_dir),
        stdin=PIPE,
        stdout=PIPE,
    )
    assert process.stdin
    assert process.stdout
    try:
        await process.stdout.readline()
        yield Writer(process)
    finally:
        process.stdin.close()
        await process.wait()


def stamps(text: str) -> list[tuple[int, int]]:
    """Return the numbers and moments, in nanoseconds, of the tokens in a text."""
    return [
        (int(number), int(moment)) for number, _, moment in (word.partition(":") for word in text.split())
    ]
