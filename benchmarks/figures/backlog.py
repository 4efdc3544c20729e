"""Ten thousand waiting: how long a claim takes among them, and how fast they are worked off, every one.

Beside a claim, in the same process and in turn: an UPDATE of one row by its key, which is what a claim would be if
it had nothing to choose.
"""

import subprocess
import sys
import time

import orjson

from benchmarks.bench import Bench
from benchmarks.product import PROJECT, Product, database, environment
from benchmarks.results import Beside, Row, at_most

# Seconds for which nothing may change before the backlog is taken for stuck.
PATIENCE = 30.0


class StuckError(Exception):
    """The backlog was not worked off."""


async def measure_backlog(bench: Bench) -> list[Row]:
    product, waiting = bench.product, bench.choose(10_000, 1_000)
    claims = in_a_process(product, "claims", 10_000, bench.choose(300, 100))
    in_a_process(product, "enqueue", waiting, 0)
    seconds = work_off(product)
    return [
        *(claim_row(name, figures) for name, figures in claims.items()),
        Row(f"worked off, {waiting:,} at once", waiting / seconds, "/s"),
    ]


def claim_row(name: str, figures: dict[str, float]) -> Row:
    beside = Beside("UPDATE by key", figures["bound"])
    return Row(f"claim next among 10,000, {name}", figures["claim"], "ms", beside, aim=at_most(3))


def in_a_process(product: Product, what: str, count: int, times: int) -> dict[str, dict[str, float]]:
    command = [sys.executable, "-m", "benchmarks.queueing", what, str(count), str(times)]
    settings = environment(product.local_dir)
    done = subprocess.run(command, cwd=PROJECT, env=settings, check=True, capture_output=True)
    found: dict[str, dict[str, float]] = orjson.loads(done.stdout)
    return found


def work_off(product: Product) -> float:
    """Wait until nothing waits or runs; return how long it took. Everything has to succeed."""
    began = changed = time.monotonic()
    left = unended(product)
    while left:
        time.sleep(0.1)
        now = unended(product)
        if now < left:
            left, changed = now, time.monotonic()
        if time.monotonic() - changed > PATIENCE:
            raise StuckError(f"{left} executions wait or run, and nothing happens.")
    counts = product.count_executions()
    if set(counts) != {"SUCCESS"}:
        raise StuckError(f"PostgreSQL has {counts}.")
    return time.monotonic() - began


def unended(product: Product) -> int:
    with database(product.local_dir) as rows:
        found = rows.execute(
            "SELECT count(*) FROM main_execution WHERE state IN ('PENDING', 'RUNNING')"
        ).fetchone()
    assert found
    return int(found[0])
