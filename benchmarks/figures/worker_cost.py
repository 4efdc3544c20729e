"""What telling of an event costs the worker, by its own processor time: early in an execution, and late.

A burst is a hundred tokens at once, which become one event and one new task meta. A token that comes alone is an event
of its own, and a round trip to Redis.

    python -m benchmarks.figures.worker_cost TIMES

is the process that has the publishers; it prints what it found as JSON.
"""

import os
import subprocess
import sys
import time
import uuid
from statistics import median
from typing import TYPE_CHECKING

import orjson

from benchmarks.bench import Bench
from benchmarks.product import PROJECT, environment
from benchmarks.results import Beside, Row, at_most

if TYPE_CHECKING:
    from main.channel import Publisher

PLACES = (100, 1000, 10_000)
BURST, SINGLE = 100, 50
WORD = "A word of it. "


async def measure_worker_cost(bench: Bench) -> list[Row]:
    found = in_a_process(bench, bench.choose(15, 4))
    burst, single = found["burst"], found["single"]
    return [
        Row("worker: a token of a burst, at event 100", burst["100"], "µs", aim=at_most(15)),
        Row(
            "worker: a token of a burst, at event 10,000",
            burst["10000"],
            "µs",
            Beside("at event 100", burst["100"]),
            aim=at_most(15),
            ratio_aim=at_most(1.25),
        ),
        Row("worker: a single token, at event 100", single["100"], "µs"),
        Row(
            "worker: a single token, at event 10,000",
            single["10000"],
            "µs",
            Beside("at event 100", single["100"]),
        ),
    ]


def in_a_process(bench: Bench, times: int) -> dict[str, dict[str, float]]:
    """Return for bursts and single tokens the microseconds of one, by how many events were before."""
    command = [sys.executable, "-m", "benchmarks.figures.worker_cost", str(times)]
    settings = environment(bench.product.local_dir)
    done = subprocess.run(command, cwd=PROJECT, env=settings, check=True, capture_output=True)
    found: dict[str, dict[str, float]] = orjson.loads(done.stdout)
    return found


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    bursts: dict[int, list[float]] = {number: [] for number in PLACES}
    singles: dict[int, list[float]] = {number: [] for number in PLACES}
    for _ in range(int(sys.argv[1])):
        publisher = new_publisher()
        for number in PLACES:
            fill(publisher, number)
            bursts[number].append(cost_of_burst(publisher))
            singles[number].append(cost_of_single(publisher))
    found = {"burst": medians(bursts), "single": medians(singles)}
    sys.stdout.buffer.write(orjson.dumps(found))


def medians(costs: dict[int, list[float]]) -> dict[str, float]:
    return {str(number): median(found) for number, found in costs.items()}


def new_publisher() -> "Publisher":
    from main.channel import Publisher
    from main.events import Snapshot

    return Publisher(str(uuid.uuid4()), 1, Snapshot(), lambda: None)


def fill(publisher: "Publisher", number: int) -> None:
    """Send events up to that number. Tokens of two steps in turn do not join."""
    while publisher.snapshot.id.seq < number:
        for place in range(min(number - publisher.snapshot.id.seq, 500)):
            send(publisher, f"Write {place % 2}")
        publisher.flush()


def send(publisher: "Publisher", step: str = "Write 0") -> None:
    publisher.send({"type": "token", "step": step, "text": WORD})


def cost_of_burst(publisher: "Publisher") -> float:
    """Return the microseconds of one of many tokens at once, with a task meta that is due."""
    time.sleep(0.3)
    began = time.process_time_ns()
    for _ in range(BURST):
        send(publisher)
    publisher.flush()
    return (time.process_time_ns() - began) / 1000 / BURST


def cost_of_single(publisher: "Publisher") -> float:
    began = time.process_time_ns()
    for _ in range(SINGLE):
        send(publisher)
        publisher.flush()
    return (time.process_time_ns() - began) / 1000 / SINGLE


if __name__ == "__main__":
    main()
