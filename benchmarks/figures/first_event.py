"""From the start request to the first event that the worker wrote, beside a plain authenticated GET.

The start is POSTed on one kept-alive connection, and what is told of it is watched on another with the ticket that the
start answered, as a page does. When the event was written is taken from a subscription of our own to Redis, by our own
clock: it is the moment Redis handed the event on, so the hop to us is counted in and no other process's clock is
trusted.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from redis.asyncio import Redis

from benchmarks.bench import Bench
from benchmarks.client import Connection, Person, UnexpectedAnswerError, task_id_of
from benchmarks.results import Beside, Row, at_most, percentile
from benchmarks.streams import Door
from config import embedded

FLOW = "instant_flow"
# Starts that are not counted: the first ones load and connect.
WARM_UP = 10


class Times(NamedTuple):
    """Milliseconds of one round: from the start request to three moments, and of a GET."""

    answered: float
    written: float
    seen: float
    fetched: float


class Written:
    """When the first event of each execution was written."""

    def __init__(self) -> None:
        self._moments: dict[str, asyncio.Future[float]] = {}

    async def moment(self, task_id: str) -> float:
        async with asyncio.timeout(10):
            return await self._future(task_id)

    async def listen(self, redis: Redis, listening: asyncio.Event) -> None:
        async with redis.pubsub() as pubsub:
            await pubsub.psubscribe("execution:*")
            listening.set()
            async for message in pubsub.listen():
                moment = time.perf_counter()
                future = self._future(message["channel"].decode().removeprefix("execution:"))
                if not future.done():
                    future.set_result(moment)

    def _future(self, task_id: str) -> asyncio.Future[float]:
        return self._moments.setdefault(task_id, asyncio.get_running_loop().create_future())


async def measure_first_event(bench: Bench) -> list[Row]:
    product = bench.product
    async with (
        subscribed(embedded.redis_url(product.local_dir)) as written,
        await Connection.open(product.port) as posting,
        await Connection.open(product.port) as watching,
    ):
        rounds = [
            await one_round(posting, watching, written, product.signed_in)
            for _ in range(WARM_UP + bench.choose(240, 40))
        ]
    return rows(rounds[WARM_UP:])


def rows(rounds: list[Times]) -> list[Row]:
    columns = Times(*zip(*rounds, strict=True))  # type: ignore[arg-type]
    result = []
    for percent in (50, 95):
        answered, written, seen, fetched = (percentile(column, percent) for column in columns)  # type: ignore[arg-type]
        get = Beside("authenticated GET", fetched)
        aims = {"aim": at_most(20), "ratio_aim": at_most(3)} if percent == 50 else {}
        aim_of_seen = at_most(6) if percent == 50 else None
        result += [
            Row(f"start → first event written, p{percent}", written, "ms", beside=get, **aims),
            Row(f"start → answered, p{percent}", answered, "ms", beside=get),
            Row(f"start → first event seen by a watcher, p{percent}", seen, "ms", get, aim_of_seen),
        ]
    return result


@asynccontextmanager
async def subscribed(url: str) -> AsyncIterator[Written]:
    written, listening = Written(), asyncio.Event()
    redis = Redis.from_url(url)
    task = asyncio.create_task(written.listen(redis, listening))
    await listening.wait()
    try:
        yield written
    finally:
        task.cancel()
        await redis.aclose()


async def one_round(posting: Connection, watching: Connection, written: Written, person: Person) -> Times:
    began = time.perf_counter()
    started = await posting.started(FLOW, person)
    answered = time.perf_counter()
    seen = await watch_first(watching, Door.of_started(started, person))
    task_id = task_id_of(started)
    moment = await written.moment(task_id)
    asked = time.perf_counter()
    answer = await posting.get(f"/executions/{task_id}/", person)
    fetched = time.perf_counter()
    if answer.status != 200:
        raise UnexpectedAnswerError(f"GET /executions/{task_id}/ gave {answer.status}.")
    return Times(*(1000 * each for each in (answered - began, moment - began, seen - began, fetched - asked)))


async def watch_first(connection: Connection, door: Door) -> float:
    """Watch to the end; return when the first event of the run was seen."""
    seen = 0.0
    async for piece in connection.stream(door.path, door.person):
        if not seen and b"event: " in piece:
            seen = time.perf_counter()
    return seen
