"""Deliveries a second: one execution and a thousand watchers, each event one frame to each of their sockets.

The next event is written as soon as the last has reached everybody: the server has something to do nearly all the
time, and never sends two frames as one. Beside it, in turn, a forwarder that hands on the same bytes. Rates are given
by the clock, and by the processor time of the serving process alone: what one core would do that has nothing else to
do. The aim is for the latter, because the load generator, Redis and the writer compute on the same two cores.
"""

import time
from statistics import median
from typing import NamedTuple

import psutil

from benchmarks.audience import executions_of
from benchmarks.bench import Bench
from benchmarks.client import Person, UnexpectedAnswerError
from benchmarks.forwarder import forwarder
from benchmarks.product import processor_time, sign_in
from benchmarks.results import Beside, Row, at_least
from benchmarks.streams import CountingWatcher, Crowd, Door, Tally, settled
from benchmarks.writer import Job, Writer, running_writer

WATCHERS = 1000
ROUNDS = 3


class Load(NamedTuple):
    """Frames a second: by the clock, of the server's processor time, and of the load generator's."""

    by_clock: float
    by_processor: float
    by_generator: float


async def measure_deliveries(bench: Bench) -> list[Row]:
    product, seconds = bench.product, bench.choose(3, 1)
    owner = sign_in(product.local_dir, 1)
    loads, bounds = [], []
    with (
        executions_of(product, owner, ROUNDS) as watched,
        forwarder(product.local_dir) as bare,
    ):
        async with running_writer(product.local_dir) as writer:
            for execution in watched:
                door = Crowded(product.port, execution.door, product.web)
                loads.append(await deliver(door, writer, execution.id, seconds))
                door = Crowded(bare.port, Door("/", Person()), bare.process)
                bounds.append(await deliver(door, writer, bare.channel, seconds))
    return rows(Load(*map(median, zip(*loads, strict=True))), Load(*map(median, zip(*bounds, strict=True))))


class Crowded(NamedTuple):
    """A door that many stand at, and the process behind it."""

    port: int
    door: Door
    process: psutil.Process


def rows(load: Load, bound: Load) -> list[Row]:
    by_processor = Beside("bare forwarder", bound.by_processor)
    by_clock = Beside("bare forwarder", bound.by_clock)
    limit = Beside("with the forwarder", bound.by_generator)
    return [
        Row(
            f"deliveries per core, 1 × {WATCHERS:,} watchers",
            load.by_processor,
            "/s",
            by_processor,
            aim=at_least(60_000),
            ratio_aim=at_least(0.55),
        ),
        Row("  by the clock, on cores that are shared", load.by_clock, "/s", by_clock),
        Row("  load generator's limit per core", load.by_generator, "/s", limit),
    ]


async def deliver(crowded: Crowded, writer: Writer, id_: str, seconds: float, count: int = WATCHERS) -> Load:
    """Write events for so long; return how fast they were delivered to so many."""
    tally, number = Tally(), 2
    watchers = [CountingWatcher(crowded.door.request(), tally) for _ in range(count)]
    async with Crowd(crowded.port, watchers):
        await settled(lambda: tally.tokens)
        await writer.do(Job([id_]))  # from here on everybody has everything at once
        before = await settled(lambda: tally.tokens)
        server, own, began = processor_time(crowded.process), time.process_time(), time.perf_counter()
        while time.perf_counter() < began + seconds:
            await writer.do(Job([id_], number))
            number += 1
            await tally.reach(before + count * (number - 2))
        elapsed = time.perf_counter() - began
        server, own = processor_time(crowded.process) - server, time.process_time() - own
        after = await settled(lambda: tally.tokens)
    frames = count * (number - 2)
    if after != before + frames:
        raise UnexpectedAnswerError(f"{after - before} frames came where {frames} were written.")
    return Load(frames / elapsed, frames / server, frames / own)
