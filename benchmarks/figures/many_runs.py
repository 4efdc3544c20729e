"""A thousand executions that write 20 tokens a second each, and a watcher for each: whether all come, and how soon.

Two cores cannot run a thousand flows, so one process writes their events as workers would, in pipelines of twenty every
millisecond. How many it truly wrote is a row of its own. The delay is from just before a pipeline is made.
"""

from statistics import median

from benchmarks.audience import executions_of
from benchmarks.bench import Bench
from benchmarks.figures.latency import Delays
from benchmarks.numbers import Numbers
from benchmarks.product import sign_in
from benchmarks.results import Beside, Row, at_least, at_most, percentile
from benchmarks.streams import Crowd, Message, ReadingWatcher, settled
from benchmarks.writer import Done, Job, running_writer

PEOPLE, EACH = 100, 10
PERIOD, SLICES = 0.05, 50


class Seen:
    """What one watcher saw, and how soon."""

    def __init__(self) -> None:
        self.numbers, self.delays = Numbers(), Delays()

    def hear(self, message: Message) -> None:
        self.delays.hear(message)
        self.numbers.hear(message)


async def measure_many_runs(bench: Bench) -> list[Row]:
    product, turns = bench.product, int(bench.choose(10, 3) / PERIOD)
    runs = PEOPLE * EACH
    with executions_of(product, sign_in(product.local_dir, PEOPLE), EACH) as executions:
        seen = [Seen() for _ in executions]
        watchers = [
            ReadingWatcher(execution.door.request(), each.hear)
            for execution, each in zip(executions, seen, strict=True)
        ]
        async with running_writer(product.local_dir) as writer, Crowd(product.port, watchers):
            ids = [execution.id for execution in executions]
            done = await writer.write(Job(ids, count=turns, period=PERIOD, slices=SLICES))
            await settled(lambda: sum(each.numbers.next for each in seen))
    return rows(seen, runs * turns, done, runs / PERIOD)


def rows(seen: list[Seen], written: int, done: Done, rate: float) -> list[Row]:
    delays = [delay for each in seen for delay in each.delays.by_number.values()]
    missing = written - sum(each.numbers.next - 1 - each.numbers.lost for each in seen)
    asked = Beside("asked for", rate)
    return [
        Row(f"{len(seen):,} runs × 1 watcher: tokens lost", missing, "", aim=at_most(0)),
        Row("  on their way, p50", median(delays), "ms"),
        Row("  on their way, p99", percentile(delays, 99), "ms", aim=at_most(100)),
        Row("  told in snapshots instead", written - missing - len(delays), "", aim=at_most(0)),
        Row("  written", written / done.seconds, "/s", asked, ratio_aim=at_least(0.95)),
        Row("  latest write of all, behind its time", 1000 * done.latest, "ms"),
    ]
