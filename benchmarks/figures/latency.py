"""From the moment at which the worker writes an event to the one at which the client has it, for one quiet stream.

The text of each event is the moment just before it was written, by the clock that all processes of a machine share.
Every other event goes through a forwarder that hands on the same bytes, so both see the same machine.
"""

import time

from benchmarks.audience import executions_of
from benchmarks.bench import Bench
from benchmarks.client import Person
from benchmarks.forwarder import forwarder
from benchmarks.product import sign_in
from benchmarks.results import Beside, Row, at_most, percentile
from benchmarks.streams import Crowd, Door, Message, ReadingWatcher, settled
from benchmarks.writer import Job, running_writer, stamps

# Seconds between two events of one stream.
PERIOD = 0.01
# Events that are not counted: the first ones warm up.
WARM_UP = 20


class Delays:
    """How many milliseconds each token of a stream was on its way, by its number."""

    def __init__(self) -> None:
        self.by_number: dict[int, float] = {}

    def hear(self, message: Message) -> None:
        now = time.monotonic_ns()
        if message.event == "token":
            for number, written in stamps(message.text):
                self.by_number[number] = (now - written) / 1e6

    @property
    def counted(self) -> list[float]:
        return [delay for number, delay in self.by_number.items() if number > WARM_UP]


async def measure_latency(bench: Bench) -> list[Row]:
    product, events = bench.product, WARM_UP + bench.choose(600, 150)
    watched, bare = Delays(), Delays()
    with (
        executions_of(product, sign_in(product.local_dir, 1), 1) as [execution],
        forwarder(product.local_dir) as bare_server,
    ):
        async with (
            running_writer(product.local_dir) as writer,
            Crowd(product.port, [ReadingWatcher(execution.door.request(), watched.hear)]),
            Crowd(bare_server.port, [ReadingWatcher(Door("/", Person()).request(), bare.hear)]),
        ):
            await writer.do(Job([execution.id, bare_server.channel], count=events, period=PERIOD, slices=2))
            await settled(lambda: len(watched.by_number) + len(bare.by_number))
    return [row(percent, watched, bare) for percent in (50, 95)]


def row(percent: int, watched: Delays, bare: Delays) -> Row:
    bound = Beside("bare forwarder", percentile(bare.counted, percent))
    aim = at_most(1.4) if percent == 50 else None
    value = percentile(watched.counted, percent)
    return Row(f"event written → client, p{percent}", value, "ms", bound, ratio_aim=aim)
