"""A thousand executions that write 20 tokens a second each, and a watcher for each: whether all come, and how soon.

Two cores cannot run a thousand flows, so one process writes their events as workers would, in pipelines of twenty
every millisecond. Where it cannot keep that rate on these cores, it writes fewer; how many it truly wrote is a row of
its own. The delay is from just before a pipeline is made.
"""

import asyncio
import time
from statistics import median
from typing import NamedTuple

from benchmarks.audience import executions_of
from benchmarks.bench import Bench
from benchmarks.numbers import Numbers
from benchmarks.product import Product, sign_in
from benchmarks.results import Beside, Row, at_least, at_most, percentile
from benchmarks.streams import Crowd, Message, ReadingWatcher
from benchmarks.writer import Done, Job, running_writer, stamps

PEOPLE, EACH = 100, 10
RUNS = PEOPLE * EACH
# Tokens a second of each run: as is asked for, and what is tried where the writer cannot.
RATES = (20, 15, 10, 5)
# The share of its rate that a writer has to keep.
KEPT = 0.95
SLICES = 50
# Seconds after the last write in which all has to come.
PATIENCE = 10.0


class Seen(Numbers):
    """What one watcher saw, and how many milliseconds each token was on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.delays: list[float] = []

    def hear(self, message: Message) -> None:
        if message.event != "token":
            super().hear(message)
            return
        now = time.monotonic_ns()
        for number, moment in stamps(message.text):
            self.delays.append((now - moment) / 1e6)
            self.take(number)


class Load(NamedTuple):
    """What was written, what came of it, and the microseconds of one event by who computed."""

    written: int
    done: Done
    seen: list[Seen]
    costs: dict[str, float]

    @property
    def rate(self) -> float:
        return self.written / self.done.seconds


async def measure_many_runs(bench: Bench) -> list[Row]:
    for rate in RATES:
        load = await drive(bench.product, rate, bench.choose(10, 3))
        if load.rate >= KEPT * RUNS * rate:
            break
    return rows(load)


async def drive(product: Product, rate: int, seconds: float) -> Load:
    with executions_of(product, sign_in(product.local_dir, PEOPLE), EACH) as executions:
        seen, turns = [Seen() for _ in executions], int(seconds * rate)
        pairs = zip(executions, seen, strict=True)
        watchers = [ReadingWatcher(execution.door.request(), each.hear) for execution, each in pairs]
        async with running_writer(product.local_dir) as writer, Crowd(product.port, watchers):
            before, own = product.processor_seconds(), time.process_time()
            ids = [execution.id for execution in executions]
            done = await writer.do(Job(ids, count=turns, period=1 / rate, slices=SLICES))
            await all_have(seen, turns)
            after, own = product.processor_seconds(), time.process_time() - own
    spent = {name: after[name] - before[name] for name in ("web", "redis")}
    spent |= {"the writer": done.processor, "the watchers": own}
    costs = {name: 1e6 * value / (RUNS * turns) for name, value in spent.items()}
    return Load(RUNS * turns, done, seen, costs)


async def all_have(seen: list[Seen], turns: int) -> None:
    """Wait until everybody has everything, or until it will not come any more."""
    until = time.monotonic() + PATIENCE
    while any(each.next <= turns for each in seen) and time.monotonic() < until:
        await asyncio.sleep(0.1)


def rows(load: Load) -> list[Row]:
    delays = [delay for each in load.seen for delay in each.delays]
    missing = load.written - sum(each.next - 1 - each.lost for each in load.seen)
    asked = Beside("asked for", RUNS * RATES[0])
    return [
        Row(f"{RUNS:,} runs × 1 watcher: tokens lost", missing, "", aim=at_most(0)),
        Row("  on their way, p50", median(delays), "ms"),
        Row("  on their way, p99", percentile(delays, 99), "ms", aim=at_most(100)),
        Row("  told in snapshots instead", load.written - missing - len(delays), "", aim=at_most(0)),
        Row("  written", load.rate, "/s", asked, ratio_aim=at_least(KEPT)),
        Row("  latest write of all, behind its time", 1000 * load.done.latest, "ms"),
        *(Row(f"  processor time of one event, {name}", cost, "µs") for name, cost in load.costs.items()),
    ]
