"""Events written as a worker writes them, in a process of its own: the same commands in pipelines, at a given pace.

    python -m benchmarks.writer

says that it is ready, reads jobs from its standard input, a line of JSON each, and answers each with a line when it is
done.
Every event is one token whose text is its number and the moment just before it was written: "17:81236123123 ".
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import PIPE
from typing import TYPE_CHECKING, Any

import orjson

from benchmarks.product import PROJECT, environment

if TYPE_CHECKING:
    from redis.client import Pipeline

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
    """What became of a job: how long it took, and by how much a slice was late at most, in seconds."""

    seconds: float
    latest: float


class Writer:
    """The process, from outside."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def write(self, job: Job) -> Done:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(orjson.dumps(asdict(job)) + b"\n")
        return Done(**orjson.loads(await self._process.stdout.readline()))


@asynccontextmanager
async def running_writer(local_dir: Path) -> AsyncIterator[Writer]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.writer"),
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


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    write([f"{BARE}warm-up"], 1)
    print("ready", flush=True)
    for line in sys.stdin.buffer:
        print(orjson.dumps(asdict(do(Job(**orjson.loads(line))))).decode(), flush=True)


def do(job: Job) -> Done:
    began, latest = time.monotonic(), 0.0
    for turn in range(job.count):
        for piece in range(job.slices):
            late = _await(began + job.period * (turn + piece / job.slices))
            latest = max(latest, late if job.period else 0.0)
            write(job.ids[piece :: job.slices], job.first + turn)
    return Done(time.monotonic() - began, latest)


def _await(due: float) -> float:
    """Sleep until then; return by how much it is too late already."""
    pause = due - time.monotonic()
    if pause > 0:
        time.sleep(pause)
    return max(-pause, 0.0)


def write(ids: list[str], number: int) -> None:
    """Write one event to each, in one round trip."""
    from main.channel import add_event, redis_client

    pipeline = redis_client().pipeline(transaction=False)
    for id_ in ids:
        event: Any = {
            "type": "token",
            "step": "",
            "text": f"{number}:{time.monotonic_ns()} ",
            "id": f"1-{number}",
        }
        if id_.startswith(BARE):
            add_bare_event(pipeline, id_, event)
        else:
            add_event(pipeline, id_, event)
    pipeline.execute()


def add_bare_event(pipeline: "Pipeline", channel: str, event: Any) -> None:
    """Give Redis as much to do as the product does, and publish the very bytes that a watcher shall get."""
    from main.channel import STREAM_LENGTH

    pipeline.xadd(channel, {"e": orjson.dumps(event)}, maxlen=STREAM_LENGTH, approximate=True)
    pipeline.publish(channel, bare_frame(event))
    pipeline.expire(channel, 3600)


def bare_frame(event: Any) -> bytes:
    """Return what the product sends for this event, as a chunk of the stream."""
    data = orjson.dumps({"step": event["step"], "text": event["text"]})
    frame = b"id: %s\nevent: token\ndata: %s\n\n" % (event["id"].encode(), data)
    return b"%x\r\n%s\r\n" % (len(frame), frame)


def stamps(text: str) -> list[tuple[int, int]]:
    """Return the numbers and moments, in nanoseconds, of the tokens in a text."""
    return [
        (int(number), int(moment)) for number, _, moment in (word.partition(":") for word in text.split())
    ]


if __name__ == "__main__":
    main()
