"""What the platform adds to a flow of 1.5 s, as the client sees it from its start to the last frame.

Beside it, in turn and half a step later: a bare process that sleeps as long and answers the same number of
frames of the same size.
"""

import asyncio
import time
from statistics import median

from benchmarks.bare import bare_server, record
from benchmarks.bench import Bench
from benchmarks.client import Connection, Person, run_to_its_end
from benchmarks.flows.sleeping import PAUSES
from benchmarks.results import Beside, Row, at_most

FLOW = "sleeping_flow"
# Seconds by which the two lanes are apart, so that one sleeps while the other does something.
STAGGER = 0.25


async def measure_added_time(bench: Bench) -> list[Row]:
    product = bench.product
    times = bench.choose(12, 3)
    recording = await record(product.port, FLOW, product.signed_in, PAUSES)
    with bare_server(recording, bench.local_dir) as bare_port:
        added, bare = await asyncio.gather(
            lane(product.port, product.signed_in, times, 0.0),
            lane(bare_port, product.signed_in, times, STAGGER),
        )
    bound = Beside("bare process", median(bare))
    return [Row("added to a flow of 1.5 s", median(added), "ms", beside=bound, aim=at_most(15))]


async def lane(port: int, person: Person, times: int, delay: float) -> list[float]:
    """Return for each run how many milliseconds longer it took than it slept."""
    await asyncio.sleep(delay)
    added = []
    async with await Connection.open(port) as connection:
        await run_to_its_end(connection, FLOW, person)
        for _ in range(times):
            began = time.perf_counter()
            await run_to_its_end(connection, FLOW, person)
            added.append(1000 * (time.perf_counter() - began - sum(PAUSES)))
    return added
