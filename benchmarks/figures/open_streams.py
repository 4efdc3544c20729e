"""What ten thousand open streams hold: memory, threads and connections to the database of the web process; and what
a thousand cost while nothing happens.

The streams are asked for by 200 people who are signed in, with tickets for five executions of each, which have begun
and say nothing more. Memory is what the web process has more, as PSS, than after a first 500 streams came and went: its
threads and its connections to the database are there by then.
"""

import asyncio
from collections.abc import Sequence

import psutil

from benchmarks.audience import begin, executions_of, ticketed
from benchmarks.bench import Bench
from benchmarks.figures.memory import pss
from benchmarks.product import Product, database, processor_time, sign_in
from benchmarks.results import Row, at_most
from benchmarks.streams import CountingWatcher, Crowd, Door, Tally

PEOPLE, EXECUTIONS = 200, 5
STREAMS, WARM_UP, SILENT = 10_000, 500, 1000
# Seconds in which what opening left behind comes to rest.
REST = 2.0
# How often, and over how many seconds, the database is asked what holds a connection.
LOOKS, LOOKING = 20, 5.0


async def measure_open_streams(bench: Bench) -> list[Row]:
    product, streams = bench.product, bench.choose(STREAMS, 2000)
    web = product.web
    owners = sign_in(product.local_dir, PEOPLE)
    with executions_of(product, owners, EXECUTIONS) as executions:
        await begin(product, executions)
        doors = await ticketed(product, executions)
        async with Crowd(product.port, watchers(doors, WARM_UP)):
            pass
        await asyncio.sleep(REST)
        before = pss(web.pid)
        async with Crowd(product.port, watchers(doors, streams)) as crowd:
            await asyncio.sleep(REST)
            each = 1024 * (pss(web.pid) - before) / streams
            threads, held = web.num_threads(), await connections_held(product)
            assert crowd.ended == 0, f"{crowd.ended} streams ended."
        async with Crowd(product.port, watchers(doors, SILENT)):
            await asyncio.sleep(REST)
            idle = await share_of_a_core(web, bench.choose(16, 8))
    return [
        Row(f"memory per open stream, at {streams:,}", each, "KB", aim=at_most(15)),
        Row(f"threads at {streams:,} streams", threads, "", aim=at_most(10)),
        Row(f"database connections held at {streams:,}", held, "", aim=at_most(0)),
        Row(f"idle processor time at {SILENT:,} streams", idle, "%", aim=at_most(1)),
    ]


def watchers(doors: Sequence[Door], count: int) -> list[CountingWatcher]:
    """Return so many, spread over the doors."""
    tally = Tally()
    return [CountingWatcher(doors[number % len(doors)].request(), tally) for number in range(count)]


async def connections_held(product: Product) -> int:
    """Return how many connections were in use each time one looked: what only asks something is not holding one."""
    found = []
    with database(product.local_dir) as rows:
        rows.autocommit = True
        for _ in range(LOOKS):
            await asyncio.sleep(LOOKING / LOOKS)
            row = rows.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' "
                "AND state <> 'idle' AND pid <> pg_backend_pid()"
            ).fetchone()
            assert row
            found.append(int(row[0]))
    return min(found)


async def share_of_a_core(process: psutil.Process, seconds: float) -> float:
    """Return how much of one core a process uses meanwhile, in percent."""
    before = processor_time(process)
    await asyncio.sleep(seconds)
    return 100 * (processor_time(process) - before) / seconds
