"""Mails: how many one notifications worker delivers in a second, and what they add to the end of an execution.

The worker is the product's own, the server one of ours that takes everything (mail_sink.py). Beside it, in turn, the
same mails by smtplib alone: ready made, over one kept connection, and nothing is claimed or written down.
"""

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import orjson

from benchmarks.bench import Bench
from benchmarks.mail_sink import running_sink
from benchmarks.product import PROJECT, Product, database, environment
from benchmarks.results import Beside, Row, at_least, at_most

ROUNDS = 3
# Seconds in which all mails of a round have to be sent.
PATIENCE = 120.0
WORKER = "worker-notifications"


class NotSentError(Exception):
    """Some mails were not sent, or not taken once."""


async def measure_mails(bench: Bench) -> list[Row]:
    product, mails = bench.product, bench.choose(1000, 200)
    rates, bounds = [], []
    async with running_sink(product.mail_port) as sink:
        await in_a_process(product, "write", 20)  # the first connection of each thread, the first templates
        await all_sent(product)
        for _ in range(ROUNDS):
            before = sink.taken
            await in_a_process(product, "write", mails)
            await all_sent(product)
            if sink.taken != before + mails:
                raise NotSentError(f"Of {mails} mails {sink.taken - before} came.")
            rates.append(rate(product, mails))
            bounds.append((await in_a_process(product, "send", mails))["rate"])
        with frozen(product):
            ends = await in_a_process(product, "finish", bench.choose(1000, 200))
        await all_sent(product)
    return rows(median(rates), median(bounds), ends)


def rows(rate: float, bound: float, ends: dict[str, float]) -> list[Row]:
    """`ends` are the milliseconds of one end by who its owner is: `asked`, `unasked` or a `visitor`."""
    asked, unasked, visitor = ends["asked"], ends["unasked"], ends["visitor"]
    return [
        Row(
            "mails of one notifications worker", rate, "/s", Beside("smtplib alone", bound), aim=at_least(50)
        ),
        Row("end of an execution whose owner wants a mail", asked, "ms", Beside("without", visitor)),
        Row("  added by the mail", asked - visitor, "ms", aim=at_most(2)),
        Row("  added where its owner did not ask", unasked - visitor, "ms", aim=at_most(2)),
    ]


async def in_a_process(product: Product, what: str, count: int) -> dict[str, float]:
    """Have it done; this loop goes on meanwhile, because the sink is in it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.mailing", what, str(count), str(product.mail_port)),
        cwd=PROJECT,
        env=environment(product.local_dir),
        stdout=asyncio.subprocess.PIPE,
    )
    written, _ = await process.communicate()
    if process.returncode:
        raise NotSentError(f"“{what}” ended with {process.returncode}.")
    found: dict[str, float] = orjson.loads(written)
    return found


async def all_sent(product: Product) -> None:
    until = time.monotonic() + PATIENCE
    while left := count_unsent(product):
        if time.monotonic() > until:
            raise NotSentError(f"{left} mails were not sent.")
        await asyncio.sleep(0.2)


def count_unsent(product: Product) -> int:
    return int(asked(product, "SELECT count(*) FROM notifications_notification WHERE state <> 'SENT'"))


def rate(product: Product, count: int) -> float:
    """Return how many of the newest were sent in a second, by the database's clock, from the first claim."""
    seconds = asked(
        product,
        "SELECT extract(epoch FROM max(finished_at) - min(claimed_at)) FROM ("
        "SELECT * FROM notifications_notification ORDER BY created_at DESC LIMIT %s) AS newest",
        count,
    )
    return count / seconds


def asked(product: Product, sql: str, *parameters: int) -> float:
    with database(product.local_dir) as connection:
        found = connection.execute(sql.encode(), parameters).fetchone()
    assert found
    return float(found[0])


@contextmanager
def frozen(product: Product) -> Iterator[None]:
    """Let the worker do nothing meanwhile: what it sends is not part of an execution's end."""
    processes = product.processes(WORKER)
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()
