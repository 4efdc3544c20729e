"""Executions as rows, and more than one connection to change them."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from django.db import connection

from config.tests.waiting import wait_until
from main.models import Entry, Execution, Step
from main.run import StepRecord
from main.sweeper import LOCK

Result = TypeVar("Result")

# A kind that no worker of a running platform asks for.
KIND = "race"


def waiting(flow: str = "count_flow", **fields: Any) -> Execution:
    """An execution that nobody claimed yet."""
    values = {"kind": KIND, "time_limit": 60, **fields}
    return Execution.objects.create(flow=flow, **values)


def claimed(worker: str = "alice/1/1", **fields: Any) -> Execution:
    """An execution in its first attempt."""
    execution = waiting(**fields)
    found = Execution.claim_next(execution.kind, worker)
    assert found
    assert found.id == execution.id, "something else was waiting"
    return found


def let_expire(*executions: Execution) -> None:
    """Let leases run out, as if their worker had died."""
    past = datetime.now(UTC) - timedelta(seconds=1)
    Execution.objects.filter(id__in=[execution.id for execution in executions]).update(lease_until=past)


def step_record(key: str = "Ask", result: Any = "an answer", **fields: Any) -> StepRecord:
    values = {"fingerprint": "f", "entries": [], "progress": 50, "tries": 1, **fields}
    return StepRecord(key=key, name=key, result=result, started_at=datetime.now(UTC), **values)


def everything() -> list[list[dict[str, Any]]]:
    """All that an execution's attempt could change."""
    tables: list[type[Any]] = [Execution, Step, Entry]
    return [list(table.objects.order_by("pk").values()) for table in tables]


def in_thread(what: Callable[[], Result]) -> "Future[Result]":
    """Do something in a thread and on a connection of its own."""

    def do() -> Result:
        try:
            return what()
        finally:
            connection.close()

    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(do)
    finally:
        pool.shutdown(wait=False)


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Call all of them at the same moment, each on its own connection; return what they returned or raised."""
    start = threading.Barrier(len(calls), timeout=10)

    def begun(call: Callable[[], Any]) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        start.wait()
        return call()

    futures = [in_thread(partial(begun, call)) for call in calls]
    return [future.exception(20) or future.result() for future in futures]


def wait_for_lock() -> None:
    """Return as soon as another connection waits for a row that somebody else has locked."""

    def is_somebody_waiting() -> bool:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            return bool(cursor.fetchall())

    wait_until(is_somebody_waiting)


@contextmanager
def without_sweepers() -> Iterator[None]:
    """Keep the sweepers of a running platform from being elected."""
    other = connection.copy()
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        try:
            yield
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [LOCK])
    other.close()
