"""The database, used for moments: a process that waits for something else holds no connection."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from django.db import InterfaceError, InternalError, OperationalError, connection, models
from psycopg.errors import IdleInTransactionSessionTimeout
from psycopg_pool import PoolTimeout

from main.run import Run

Result = TypeVar("Result")

# What says that the database is away, and may be back soon.
DATABASE_AWAY = (OperationalError, InterfaceError, PoolTimeout)
# Seconds between two tries to reach a database that is away.
DATABASE_PAUSE = 0.5


def with_database(what: Callable[[], Result], run: Run | None = None, patience: float = 0.0) -> Result:
    """Do something with the database and give the connection back, so that waiting for a model holds none.

    For a database that is away it waits so many seconds; with a run until that is stopped, then it raises Stopped.
    """
    until = time.monotonic() + patience
    while True:
        try:
            return what()
        except (*DATABASE_AWAY, InternalError) as error:
            if not _is_away(error):
                raise
            if run is not None:
                run.wait(DATABASE_PAUSE)
            elif time.monotonic() < until:
                time.sleep(DATABASE_PAUSE)
            else:
                raise
        finally:
            connection.close()


def _is_away(error: Exception) -> bool:
    """Say whether a later try may succeed. This process may have been frozen in a transaction, too (see settings)."""
    return isinstance(error, DATABASE_AWAY) or isinstance(error.__cause__, IdleInTransactionSessionTimeout)


def fetch(sql: str, parameters: list[Any] | dict[str, Any]) -> list[tuple[Any, ...]]:
    """Execute a statement of our own and return its rows."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


def execute(sql: str, parameters: list[Any]) -> None:
    """Execute a statement of our own that returns nothing."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)


class clock(models.Func):
    """`clock_timestamp()`: now, also late in a long transaction."""

    function = "clock_timestamp"
    template = "%(function)s()"
    output_field = models.DateTimeField()
