"""Executions that wait for the benchmark: they look as if a worker had them, and none takes or ends them."""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import orjson

from benchmarks.client import Connection, Person
from benchmarks.product import Owner, Product, database
from benchmarks.streams import Door
from benchmarks.writer import Job, running_writer

# A kind that no worker asks for.
KIND = "bench"
COLUMNS = (
    "id, owner_id, owner_key, flow, kind, inputs, state, attempt, crashes, worker, lease_until, time_limit, usage, "
    "chat_model, created_at, priority, turn, request_hash"
)
ROW = (
    "(%s, %s, %s, 'instant_flow', %s, '{}', 'RUNNING', 1, 0, 'bench/1/1', now() + interval '1 day', 60, '{}', "
    "'', now(), 'normal', 0, '')"
)


class Watchable(NamedTuple):
    """An execution in its first attempt, and who may watch it."""

    id: str
    person: Person

    @property
    def door(self) -> Door:
        """Where everything is told of it, to somebody whom Django has to check."""
        return Door(f"/api/v1/executions/{self.id}/events", self.person)


async def begin(product: Product, executions: Sequence[Watchable]) -> None:
    """Write the first event of each, as a worker does that has just taken it."""
    async with running_writer(product.local_dir) as writer:
        await writer.do(Job([execution.id for execution in executions]))


async def ticketed(product: Product, executions: Iterable[Watchable]) -> list[Door]:
    """Return the doors with tickets, which a person gets who looks at an execution."""
    doors = []
    async with await Connection.open(product.port) as connection:
        for execution in executions:
            answer = await connection.get(f"/executions/{execution.id}/", execution.person)
            ticket = orjson.loads(answer.body)["ticket"]
            doors.append(Door(f"{execution.door.path}?ticket={ticket}", execution.person))
    return doors


@contextmanager
def executions_of(product: Product, owners: list[Owner], each: int) -> Iterator[list[Watchable]]:
    """Give so many executions of each owner, as if a worker had them; they are gone after the block."""
    found = [(owner, str(uuid.uuid4())) for _ in range(each) for owner in owners]
    values = [(id_, owner.user_id, owner.user_id, KIND) for owner, id_ in found]
    with database(product.local_dir) as rows:
        rows.cursor().executemany(f"INSERT INTO main_execution ({COLUMNS}) VALUES {ROW}", values)  # noqa: S608
    try:
        yield [Watchable(id_, owner.person) for owner, id_ in found]
    finally:
        with database(product.local_dir) as rows:
            rows.execute("DELETE FROM main_execution WHERE kind = %s", [KIND])
