"""A deploy with 5,000 watchers: from SIGTERM to gunicorn until it and its web process are gone.

Every watcher has to be told when to come back (`retry:`), and to see its stream end.
"""

import asyncio
import signal
import time

import psutil

from benchmarks.audience import executions_of
from benchmarks.bench import Bench
from benchmarks.client import UnexpectedAnswerError
from benchmarks.product import sign_in, wait_until_ready
from benchmarks.results import Row, at_most
from benchmarks.streams import Crowd, Message, ReadingWatcher

PEOPLE = 100
PATIENCE = 30.0


class Told:
    """Whether a watcher was told at last when to come back."""

    def __init__(self) -> None:
        self.retry = 0
        self.messages = 0

    def hear(self, message: Message) -> None:
        self.messages += 1
        self.retry = message.retry


async def measure_deploy(bench: Bench) -> list[Row]:
    product, count = bench.product, bench.choose(5000, 1000)
    with executions_of(product, sign_in(product.local_dir, PEOPLE), 1) as executions:
        told = [Told() for _ in range(count)]
        watchers = [
            ReadingWatcher(executions[number % PEOPLE].door.request(), each.hear)
            for number, each in enumerate(told)
        ]
        async with Crowd(product.port, watchers):
            await asyncio.sleep(1.0)
            seconds = await stop(product.guards["web"].children()[0])
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*(watcher.ended for watcher in watchers))
        product.launch("web")
        wait_until_ready(product)
    if untold := sum(not each.retry for each in told):
        raise UnexpectedAnswerError(f"{untold} of {count} watchers were not told to come back.")
    return [Row(f"SIGTERM → gone, {count:,} watchers", seconds, "s", aim=at_most(1))]


async def stop(gunicorn: psutil.Process) -> float:
    """End gunicorn as a deploy does; return the seconds until all of it is gone."""
    everything = [gunicorn, *gunicorn.children(recursive=True)]
    began = time.perf_counter()
    gunicorn.send_signal(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE):
        while any(is_there(process) for process in everything):
            await asyncio.sleep(0.005)
    return time.perf_counter() - began


def is_there(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
