"""The web process loses its connection to Redis every second, while four runs write and three people watch each.

Every token has a number. Each watcher has to see every number once, in order; nothing is asked for again by them.
"""

import asyncio
import time

from redis.asyncio import Redis

from benchmarks.bench import Bench
from benchmarks.client import Connection
from benchmarks.numbers import Numbers
from benchmarks.product import Product
from benchmarks.results import Row, at_least, at_most
from benchmarks.streams import Crowd, Door, ReadingWatcher
from config import embedded

RUNS, WATCHERS, PAUSE = 4, 3, 0.01
# Seconds between two kills, and after the last for what is still to come.
PERIOD, PATIENCE = 1.0, 60.0


async def measure_subscriber(bench: Bench) -> list[Row]:
    product, seconds = bench.product, bench.choose(60, 10)
    tokens = int(seconds / PAUSE)
    seen = [Numbers() for _ in range(RUNS * WATCHERS)]
    doors = await start(product, tokens)
    watchers = [ReadingWatcher(doors[number % RUNS].request(), each.hear) for number, each in enumerate(seen)]
    async with Crowd(product.port, watchers):
        killed = await kill_often(product, seconds)
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(each.done for each in seen))
    lost = sum(each.lost + tokens + 1 - each.next for each in seen)
    return [
        Row("subscriber killed every second: tokens lost", lost, "", aim=at_most(0)),
        Row("  tokens that came twice", sum(each.twice for each in seen), "", aim=at_most(0)),
        Row("  tokens written, times watchers", tokens * len(seen), ""),
        Row("  connections killed", killed, "", aim=at_least(seconds - 1)),
        Row("  snapshots instead of single tokens", sum(each.snapshots for each in seen), ""),
    ]


async def start(product: Product, tokens: int) -> list[Door]:
    person = product.signed_in
    async with await Connection.open(product.port) as connection:
        answers = [
            await connection.started("token_flow", person, tokens=tokens, pause=PAUSE) for _ in range(RUNS)
        ]
    return [Door.of_started(answer, person) for answer in answers]


async def kill_often(product: Product, seconds: float) -> int:
    """Kill every subscriber of Redis each second; return how many were killed."""
    killed, began = 0, time.monotonic()
    async with Redis.from_url(embedded.redis_url(product.local_dir)) as redis:
        while time.monotonic() < began + seconds - PERIOD:
            await asyncio.sleep(PERIOD)
            killed += int(await redis.client_kill_filter(_type="pubsub"))
    return killed
