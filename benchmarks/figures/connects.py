"""Processor time of the web process for one stream that is opened: by somebody new, and by one who comes back.

Someone new is checked by Django: session, user, execution. Who comes back, or has just started the execution, brings
a ticket. Each opens a stream of an execution of their own, ten at the same time, and stays until all have come.
"""

import asyncio

from benchmarks.audience import begin, executions_of, ticketed
from benchmarks.bench import Bench
from benchmarks.product import Product, processor_time, sign_in
from benchmarks.results import Row, at_most
from benchmarks.streams import CountingWatcher, Door, Tally, connect, some_at_once

WARM_UP = 50
AT_ONCE = 10
# Seconds in which the last of them are done with.
REST = 0.3


async def measure_connects(bench: Bench) -> list[Row]:
    product, people = bench.product, bench.choose(1000, 200)
    with executions_of(product, sign_in(product.local_dir, people), 1) as executions:
        await begin(product, executions)
        first = [execution.door for execution in executions]
        await cost_of(product, first[:WARM_UP])
        new = await cost_of(product, first)
        returning = await ticketed(product, executions)
        await cost_of(product, returning[:WARM_UP])
        known = await cost_of(product, returning)
    return [
        Row("processor time of a first connect", new, "ms", aim=at_most(2)),
        Row("processor time of a returning connect", known, "ms", aim=at_most(0.4)),
    ]


async def cost_of(product: Product, doors: list[Door], last_event_id: str = "") -> float:
    """Open a stream at each door; return the milliseconds that one took."""
    web, tally = product.web, Tally()
    watchers = [CountingWatcher(door.request(last_event_id), tally) for door in doors]
    before = processor_time(web)
    await some_at_once(watchers, lambda watcher: connect(product.port, watcher), AT_ONCE)
    await asyncio.sleep(REST)
    spent = processor_time(web) - before
    for watcher in watchers:
        watcher.close()
    await asyncio.sleep(REST)
    return 1000 * spent / len(doors)
