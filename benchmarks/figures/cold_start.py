"""How long `manage.py dev` takes until it is ready, on data that is there already."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple
from urllib.parse import urlsplit

from benchmarks.bench import Bench
from benchmarks.client import Connection, arrive, run_to_its_end
from benchmarks.product import PROJECT, environment
from benchmarks.results import Row, at_most

PATIENCE = 90.0


class Start(NamedTuple):
    """Seconds to the line that says it is ready, to the end of a first execution, and of the stop."""

    ready: float
    executed: float
    stopped: float


async def measure_cold_start(bench: Bench) -> list[Row]:
    first = await start_and_stop(bench.local_dir)
    later = [await start_and_stop(bench.local_dir) for _ in range(bench.choose(3, 1))]
    return [
        Row("cold start: ready, second start", median(each.ready for each in later), "s", aim=at_most(4)),
        Row("cold start: a first execution done", median(each.executed for each in later), "s"),
        Row("cold start: ready, very first start", first.ready, "s"),
        Row("stop of everything", median(each.stopped for each in later), "s", aim=at_most(5)),
    ]


async def start_and_stop(local_dir: Path) -> Start:
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "manage.py", "dev"),
        cwd=PROJECT,
        env=environment(local_dir),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout
    try:
        async with asyncio.timeout(PATIENCE):
            port = await port_when_ready(process.stdout)
            ready = time.perf_counter()
            reading = asyncio.create_task(process.stdout.read())  # or the pipe would be full some time
            await execute_once(port)
            executed = time.perf_counter()
    finally:
        stopping = time.perf_counter()
        process.send_signal(signal.SIGTERM)
        await process.wait()
    await reading
    return Start(ready - began, executed - began, time.perf_counter() - stopping)


async def port_when_ready(output: asyncio.StreamReader) -> int:
    lines = []
    async for line in output:
        lines.append(line.decode(errors="replace"))
        if lines[-1].startswith("Ready on "):
            return urlsplit(lines[-1].split()[-1]).port or 80
    raise RuntimeError(f"`manage.py dev` does not start:{os.linesep}{''.join(lines[-20:])}")


async def execute_once(port: int) -> None:
    visitor = await arrive(port)
    async with await Connection.open(port) as connection:
        await run_to_its_end(connection, "instant_flow", visitor)
