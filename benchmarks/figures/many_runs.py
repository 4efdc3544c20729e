"""A thousand executions that write 20 tokens a second each, and a watcher for each: whether all come, and how soon.

Two cores cannot run a thousand flows, so one process writes their events as workers would, in pipelines of twenty every
millisecond. How many it truly wrote is a row of its own. The delay is from just before a pipeline is made.
"""

from statistics import median

from benchmarks.audience import executions_of
from benchmarks.bench import Bench
from benchmarks.figures.latency import Delays
from benchmarks.product import sign_in
from benchmarks.results import Beside, Row, at_least, at_most, percentile
from benchmarks.streams import Crowd, ReadingWatcher, settled
from benchmarks.writer import Job, running_writer

PEOPLE, EACH = 100, 10
PERIOD, SLICES = 0.05, 50


async def measure_many_runs(bench: Bench) -> list[Row]:
    product, turns = bench.product, int(bench.choose(10, 3) / PERIOD)
    runs = PEOPLE * EACH
    with executions_of(product, sign_in(product.local_dir, PEOPLE), EACH) as executions:
        seen = [Delays() for _ in executions]
        watchers = [
            ReadingWatcher(execution.door.request(), delays.hear)
            for execution, delays in zip(executions, seen, strict=True)
        ]
        async with running_writer(product.local_dir) as writer, Crowd(product.port, watchers):
            ids = [execution.id for execution in executions]
            done = await writer.write(Job(ids, count=turns, period=PERIOD, slices=SLICES))
            await settled(lambda: sum(len(each.by_number) for each in seen))
    delays = [delay for each in seen for delay in each.by_number.values()]
    asked = Beside("asked for", runs / PERIOD)
    return [
        Row(
            f"{runs:,} runs × 1 watcher: delivered",
            100 * len(delays) / (runs * turns),
            "%",
            aim=at_least(100),
        ),
        Row("  on their way, p50", median(delays), "ms"),
        Row("  on their way, p99", percentile(delays, 99), "ms", aim=at_most(100)),
        Row("  written", runs * turns / done.seconds, "/s", asked, ratio_aim=at_least(0.95)),
        Row("  latest write of all, behind its time", 1000 * done.latest, "ms"),
    ]
