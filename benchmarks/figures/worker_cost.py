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

EARLY, LATE = 100, 10_000
BURST, SINGLE = 100, 50
WORD = "A word of it. "


async def measure_worker_cost(bench: Bench) -> list[Row]:
    found = in_a_process(bench, bench.choose(15, 4))
    early = Beside(f"at event {EARLY:,}", found["early burst"])
    early_single = Beside(f"at event {EARLY:,}", found["early single"])
    aim = at_most(15)
    return [
        Row(f"worker: a token of a burst, at event {EARLY:,}", found["early burst"], "µs", aim=aim),
        Row(
            f"worker: a token of a burst, at event {LATE:,}",
            found["late burst"],
            "µs",
            early,
            aim=aim,
            ratio_aim=at_most(1.25),
        ),
        Row(f"worker: a single token, at event {EARLY:,}", found["early single"], "µs"),
        Row(f"worker: a single token, at event {LATE:,}", found["late single"], "µs", early_single),
    ]


def in_a_process(bench: Bench, times: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.figures.worker_cost", str(times)]
    settings = environment(bench.product.local_dir)
    done = subprocess.run(command, cwd=PROJECT, env=settings, check=True, capture_output=True)
    found: dict[str, float] = orjson.loads(done.stdout)
    return found


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    found: dict[str, list[float]] = {}
    for _ in range(int(sys.argv[1])):
        publisher = new_publisher()
        for name, number in (("early", EARLY), ("late", LATE)):
            fill(publisher, number)
            found.setdefault(f"{name} burst", []).append(cost_of_burst(publisher))
            found.setdefault(f"{name} single", []).append(cost_of_single(publisher))
    sys.stdout.buffer.write(orjson.dumps({name: median(costs) for name, costs in found.items()}))


def new_publisher() -> "Publisher":
    from main.channel import Publisher
    from main.events import Snapshot

    return Publisher(str(uuid.uuid4()), 1, Snapshot(), lambda: None)


def fill(publisher: "Publisher", number: int) -> None:
    """Send single events up to that number: each has a number of its own, and none waits for the next."""
    while publisher.snapshot.id.seq < number:
        send(publisher)
        publisher.flush()


def send(publisher: "Publisher") -> None:
    publisher.send({"type": "token", "step": "Write", "text": WORD})


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
