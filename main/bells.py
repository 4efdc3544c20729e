"""Bells: Celery messages that wake a worker. A bell carries a kind, never an id.

Ringing never holds up who rings: one background thread does it, and while Redis does not answer it is left out
for some seconds. What nobody rang for, the sweeper rings for; workers look by themselves as well.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from functools import cache

from kombu import Connection

from config.celery import app
from main.channel import PAUSE_AFTER_FAILURE, REDIS_TIMEOUT

logger = logging.getLogger(__name__)

TASK = "main.work"
MAX_WAITING_RINGS = 1000

_rings: "queue.SimpleQueue[tuple[str, Callable[[], None] | None]]" = queue.SimpleQueue()
_silent_until = 0.0
_tasks: dict[str, str] = {}


def answer_with(task: str, kind: str) -> None:
    """Say with which Celery task workers of a kind answer that do not run flows: those of another app."""
    _tasks[kind] = task


def task_of(kind: str) -> str:
    return _tasks.get(kind, TASK)


def ring(kind: str, before: Callable[[], None] | None = None) -> None:
    """Ask for a worker of that kind to look for work. Returns at once; raises nothing.

    `before` is called in between, such as to tell of what was started before what a worker tells of it.
    """
    if _rings.qsize() < MAX_WAITING_RINGS:
        _ringer()
        _rings.put((kind, before))


def ring_now(kind: str) -> bool:
    """Ring and say whether it worked; waits at most REDIS_TIMEOUT."""
    try:
        app.send_task(
            task_of(kind), args=[kind], queue=kind, ignore_result=True, retry=False, connection=_connection()
        )
    except Exception as error:  # noqa: BLE001 — kombu raises what the transport raises, and any of it means no bell
        logger.warning("no bell for %s: Redis does not answer (%s)", kind, type(error).__name__)
        _connection.cache_clear()
        return False
    return True


@cache
def _ringer() -> threading.Thread:
    thread = threading.Thread(target=_ring_forever, name="bells", daemon=True)
    thread.start()
    return thread


def _ring_forever() -> None:
    global _silent_until
    while True:
        kind, before = _rings.get()
        try:
            if before:
                before()
        except Exception:
            logger.exception("what was to be told before a bell could not be told")
        if time.monotonic() >= _silent_until and not ring_now(kind):
            _silent_until = time.monotonic() + PAUSE_AFTER_FAILURE


@cache
def _connection() -> Connection:
    options = {
        "socket_timeout": REDIS_TIMEOUT,
        "socket_connect_timeout": REDIS_TIMEOUT,
        "retry_on_timeout": False,
    }
    connection: Connection = app.connection_for_write(transport_options=options)
    return connection
