"""How costs grow: with the watchers of one execution, with executions, and with what happened before.

Each is processor time: of the web process for one delivery, for one event and for one who comes back with all but the
last ten events; and of a worker for one token of a burst. A drawing of it is left beside the results.
"""

from benchmarks.audience import Watchable, executions_of, ticketed
from benchmarks.bench import Bench
from benchmarks.figures.connects import cost_of
from benchmarks.figures.deliveries import Crowded, deliver
from benchmarks.figures.worker_cost import in_a_process
from benchmarks.growth_plot import Panel, write
from benchmarks.product import Product, processor_time, sign_in
from benchmarks.results import Row
from benchmarks.streams import CountingWatcher, Crowd, Tally, settled
from benchmarks.writer import Job, Writer, running_writer

WATCHERS = (1, 10, 100, 1000)
EXECUTIONS = (1, 10, 100, 1000)
HISTORIES = (100, 1000, 10_000)
# Events a second in all, whatever the number of executions.
RATE = 1000
MISSED, RETURNS = 10, 40


async def measure_growth(bench: Bench) -> list[Row]:
    product = bench.product
    async with running_writer(product.local_dir) as writer:
        panels = [
            await by_watchers(product, writer, bench.choose(2, 1)),
            await by_executions(product, writer, bench.choose(2, 1)),
            await by_history(product, writer),
            by_place(bench),
        ]
    write(panels)
    return [
        Row(f"{panel.title}, {count:,} {panel.along}", cost, "µs")
        for panel in panels
        for count, cost in panel.points
    ]


async def by_watchers(product: Product, writer: Writer, seconds: float) -> Panel:
    points = []
    with executions_of(product, sign_in(product.local_dir, 1), len(WATCHERS)) as executions:
        for count, execution in zip(WATCHERS, executions, strict=True):
            crowded = Crowded(product.port, execution.door, product.web)
            load = await deliver(crowded, writer, execution.id, seconds, count)
            points.append((count, 1e6 / load.by_processor))
    return Panel("One delivery", "µs of the web process", "watchers of one execution", points)


async def by_executions(product: Product, writer: Writer, seconds: float) -> Panel:
    points = []
    for count in EXECUTIONS:
        owners, turns = sign_in(product.local_dir, min(count, 10)), max(int(seconds * RATE / count), 1)
        with executions_of(product, owners, count // len(owners)) as executions:
            points.append((count, await cost_of_event(product, writer, executions, turns)))
    return Panel("One event", "µs of the web process", "executions with a watcher each", points)


async def cost_of_event(product: Product, writer: Writer, executions: list[Watchable], turns: int) -> float:
    """Write events to all of them; return the microseconds of one."""
    tally, ids = Tally(), [execution.id for execution in executions]
    watchers = [CountingWatcher(execution.door.request(), tally) for execution in executions]
    async with Crowd(product.port, watchers):
        await writer.do(Job(ids))
        before = await settled(lambda: tally.tokens)
        spent = processor_time(product.web)
        await writer.do(Job(ids, 2, turns, len(ids) / RATE, min(len(ids), 50)))
        delivered = await settled(lambda: tally.tokens) - before
        return 1e6 * (processor_time(product.web) - spent) / delivered


async def by_history(product: Product, writer: Writer) -> Panel:
    points = []
    with executions_of(product, sign_in(product.local_dir, 1), len(HISTORIES)) as executions:
        doors = await ticketed(product, executions)
        for count, execution, door in zip(HISTORIES, executions, doors, strict=True):
            await writer.do(Job([execution.id], count=count))
            spent = await cost_of(product, [door] * RETURNS, f"1-{count - MISSED}")
            points.append((count, 1000 * spent))
    return Panel("One who comes back", "µs of the web process", "events before", points)


def by_place(bench: Bench) -> Panel:
    found = in_a_process(bench, bench.choose(5, 3))["burst"]
    points = [(int(number), cost) for number, cost in found.items()]
    return Panel("One token of a burst", "µs of a worker", "events before it", points)
