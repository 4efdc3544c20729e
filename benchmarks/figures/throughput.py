"""Executions a second with 50 clients, each of which starts a flow, watches it end, and starts the next: a flow that
returns at once, and one of four steps.

Each client is a visitor with a session and one kept-alive connection of their own. Beside it, in turn, is the
load generator's own limit: the same clients against a bare server that answers the bytes the product answered.
Processor time tells what the rate is spent on, and changes less than the rate where the machine is shared.
"""

import asyncio
import time
from statistics import median
from typing import NamedTuple

from benchmarks.bare import bare_server, record
from benchmarks.bench import Bench
from benchmarks.client import Connection, Person, arrive, run_to_its_end
from benchmarks.product import Product
from benchmarks.results import Beside, Row, at_least, percentile

FLOW, FOUR_STEPS = "instant_flow", "four_step_flow"
CLIENTS = 50
ROUNDS = 3


class Load(NamedTuple):
    """What a round of load did: executions a second, and how long each took in ms."""

    rate: float
    durations: list[float]


class Cost(NamedTuple):
    """What one execution cost a part of the platform, in ms of a processor."""

    part: str
    milliseconds: float


class LostError(Exception):
    """PostgreSQL does not have what the clients saw."""


async def measure_throughput(bench: Bench) -> list[Row]:
    product = bench.product
    visitors = [await arrive(product.port) for _ in range(CLIENTS)]
    await drive(product.port, visitors, 1.0, FLOW)
    recording = await record(product.port, FLOW, visitors[0])
    before = product.count_executions()
    with bare_server(recording, bench.local_dir) as bare_port:
        loads, limits = [], []
        computed = product.processor_seconds()
        for _ in range(ROUNDS):
            loads.append(await drive(product.port, visitors, bench.choose(4, 1), FLOW))
            limits.append(await drive(bare_port, visitors, 0.5, FLOW))
    durations = [duration for load in loads for duration in load.durations]
    costs = costs_of_one(computed, product.processor_seconds(), len(durations))
    check(product, before, len(durations))
    limit = Beside("load generator's limit", median(each.rate for each in limits))
    return [
        Row("executions, 50 clients", median(each.rate for each in loads), "/s", limit, aim=at_least(100)),
        Row("  one of them, p50", percentile(durations, 50), "ms"),
        Row("  one of them, p95", percentile(durations, 95), "ms"),
        Row("processor time of one execution", sum(cost.milliseconds for cost in costs), "ms"),
        *(Row(f"  {cost.part}", cost.milliseconds, "ms") for cost in costs),
    ]


async def measure_four_steps(bench: Bench) -> list[Row]:
    product = bench.product
    visitors = [await arrive(product.port) for _ in range(CLIENTS)]
    await drive(product.port, visitors, 1.0, FOUR_STEPS)
    before = product.count_executions()
    loads = [await drive(product.port, visitors, bench.choose(4, 1), FOUR_STEPS) for _ in range(ROUNDS)]
    durations = [duration for load in loads for duration in load.durations]
    check(product, before, len(durations))
    return [
        Row("executions of four steps", median(each.rate for each in loads), "/s", aim=at_least(40)),
        Row("  one of them, p50", percentile(durations, 50), "ms"),
        Row("  one of them, p95", percentile(durations, 95), "ms"),
    ]


async def drive(port: int, people: list[Person], seconds: float, flow: str) -> Load:
    """Let everybody start and watch, one after the other, until the time is up; each ends what it began."""
    began = time.perf_counter()
    lanes = await asyncio.gather(*(lane(port, person, began + seconds, flow) for person in people))
    elapsed = time.perf_counter() - began
    durations = [duration for lane in lanes for duration in lane]
    return Load(len(durations) / elapsed, durations)


async def lane(port: int, person: Person, until: float, flow: str) -> list[float]:
    durations = []
    async with await Connection.open(port) as connection:
        while (began := time.perf_counter()) < until:
            await run_to_its_end(connection, flow, person)
            durations.append(1000 * (time.perf_counter() - began))
    return durations


def costs_of_one(before: dict[str, float], after: dict[str, float], executed: int) -> list[Cost]:
    return [Cost(part, 1000 * (after[part] - before[part]) / executed) for part in before]


def check(product: Product, before: dict[str, int], executed: int) -> None:
    """Raise LostError unless PostgreSQL has exactly what the clients saw, all of it successful."""
    expected = before | {"SUCCESS": before.get("SUCCESS", 0) + executed}
    if (found := product.count_executions()) != expected:
        raise LostError(f"PostgreSQL has {found} executions where the clients saw {expected}.")
