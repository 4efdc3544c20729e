"""A web process with 5,000 watchers is killed, and gunicorn starts another: how long until all of them have seen what
was written meanwhile, and what ordinary requests take while they come back.

The watchers are browsers' EventSources: each comes back after the time that its stream told it, with the last id that
it had. Once all of them by their tickets, once all of them as strangers, whom Django checks. Ordinary requests are
sent ten a second, whether the last was answered or not; those are counted that were sent from the first answer of the
new process until the last watcher had caught up.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from benchmarks.audience import Watchable, executions_of, ticketed
from benchmarks.bench import Bench
from benchmarks.client import Connection
from benchmarks.numbers import LostError, check
from benchmarks.product import Product, sign_in
from benchmarks.results import Row, at_most, percentile
from benchmarks.returning import Returning, watching
from benchmarks.streams import Door
from benchmarks.writer import Job, Writer, running_writer

PEOPLE, EACH = 100, 10
# Events before the kill, and those that are written while nobody is there.
BEFORE, MISSED = 5, 2
PATIENCE = 60.0
# Seconds between two ordinary requests.
PERIOD = 0.1


class Storm(NamedTuple):
    """Seconds from the kill until a request was answered, and until all had caught up; what requests took."""

    answered: float
    caught_up: float
    requests: list[float]


async def measure_storm(bench: Bench) -> list[Row]:
    product, count = bench.product, bench.choose(5000, 1000)
    rows = []
    for name in ("by tickets", "as strangers"):
        with executions_of(product, sign_in(product.local_dir, PEOPLE), EACH) as executions:
            known = await ticketed(product, executions) if name == "by tickets" else None
            storm = await brew(product, executions, known or [each.door for each in executions], count)
        rows += [
            Row(
                f"{count:,} come back after a kill, {name}: caught up", storm.caught_up, "s", aim=at_most(20)
            ),
            Row("  the new process answers", storm.answered, "s"),
            Row("  requests meanwhile, p99", percentile(storm.requests, 99), "s", aim=at_most(1)),
        ]
    return rows


async def brew(product: Product, executions: list[Watchable], doors: list[Door], count: int) -> Storm:
    watchers = [Returning(product.port, doors[number % len(doors)]) for number in range(count)]
    ids = [execution.id for execution in executions]
    async with running_writer(product.local_dir) as writer, watching(watchers):
        await all_have(watchers, writer, ids, 1, BEFORE)
        product.web.kill()
        killed = time.perf_counter()
        async with asking_often(product, executions[0]) as answers:
            await all_have(watchers, writer, ids, BEFORE + 1, MISSED)
            caught_up = time.perf_counter()
        check([each.seen for each in watchers], BEFORE + MISSED)
    back = min(asked + took for asked, took in answers)
    meanwhile = [took for asked, took in answers if asked >= back]
    return Storm(back - killed, caught_up - killed, meanwhile)


async def all_have(watchers: list[Returning], writer: Writer, ids: list[str], first: int, count: int) -> None:
    """Write so many events to each execution, and wait until everybody has them."""
    await writer.do(Job(ids, first=first, count=count, period=0.5, slices=10))
    until = time.monotonic() + PATIENCE
    while behind := [each for each in watchers if each.seen.next < first + count]:
        if time.monotonic() > until or any(each.refused for each in behind):
            doing = Counter(f"refused, {each.refused}" if each.refused else each.doing for each in behind)
            raise LostError(f"{len(behind)} of {len(watchers)} did not catch up: {dict(doing)}.")
        await asyncio.sleep(0.05)


@asynccontextmanager
async def asking_often(product: Product, execution: Watchable) -> AsyncIterator[list[tuple[float, float]]]:
    """Ask for an execution every so often; give when each was asked for, and what it took."""
    answers: list[tuple[float, float]] = []

    async def ask() -> None:
        asked = time.perf_counter()
        async with await Connection.open(product.port) as connection:
            answer = await connection.get(f"/executions/{execution.id}/", execution.person)
        assert answer.status == 200, answer.status
        answers.append((asked, time.perf_counter() - asked))

    async def ask_on() -> None:
        while True:
            tasks.create_task(ask())
            await asyncio.sleep(PERIOD)

    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(ask_on())
        yield answers
        asking.cancel()
