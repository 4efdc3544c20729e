"""What keeps promises: a thread in every worker process.

Every 2 s it says that this process is there, and looks for work that no bell announced. One process at a time,
elected by an advisory lock, also takes back leases that ran out, ends what ran or waited past its limit, rings as
many bells as waiting rows lack, and deletes what is old. A second thread beats the heart, so that a slow sweep
costs no lease.
"""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from django.conf import settings
from django.db import connection, transaction

from main import bells
from main.channel import with_redis
from main.database import DATABASE_AWAY, with_database
from main.engine import work, workplace
from main.leases import PULSE, heart, worker_name
from main.models import LEASE, Execution, WorkerBeat
from main.outside_ends import announce_outside_ends

logger = logging.getLogger(__name__)

SWEEP = 2.0
# Seconds that a row waits before a bell is missed: the first one was rung when it was stored.
BELL_PATIENCE = 1.0
# How many old executions one sweep deletes.
PRUNED_AT_ONCE = 200
# The advisory lock of the elected sweeper; any number that nothing else in this database uses.
LOCK = 7_315_620_001

_swept_at: float | None = None
_patient_until = 0.0


def begin(give_up: Callable[[int], None], patience: float) -> None:
    """Start this process's heart and sweeper.

    `give_up` is called with a thread whose run does not stop so many seconds after it was told.
    """
    threads = (
        ("heart", heart.pulse, PULSE),
        ("fence", heart.fence_itself, 1.0),
        ("stuck", partial(give_up_stuck, give_up, patience), 0.5),
        ("sweeper", sweep, SWEEP),
    )
    for name, what, pause in threads:
        threading.Thread(target=forever, args=(what, pause), name=name, daemon=True).start()


def sweep() -> None:
    """Do everything once; a database that is away is waited for until the next time."""
    global _swept_at
    with_database(lambda: WorkerBeat.beat(worker_name(), workplace.kind, workplace.capacity, workplace.stuck))
    ended = with_database(_keep_promises)
    _swept_at = time.monotonic()  # the database was there; what follows may take its time, or stumble
    waiting = with_database(lambda: Execution.waiting(older_than=BELL_PATIENCE))
    _look_for_work(waiting)
    if ended is not None:
        _ring_for(waiting)
        announce_outside_ends(ended)
        prune()


def give_up_stuck(give_up: Callable[[int], None], patience: float) -> None:
    """Give up the threads whose runs do not stop."""
    for claim, thread in heart.stuck(patience):
        # It may still be ours, where a database that was away stopped the run: no lease shall run out for that.
        if with_database(Execution(id=claim.id, attempt=claim.attempt).hand_back):
            logger.info("execution %s: handed back", claim.id)
        if (claim, thread) in heart.stuck(patience):  # it may have ended meanwhile, and begun another
            heart.give_up(claim)
            give_up(thread)


def _keep_promises() -> list[Execution] | None:
    """Take back and end what is due, and return what was ended; None where another process is the elected one."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [LOCK])
        if cursor.fetchone() != (True,):
            return None
        ended = []
        if not _was_away():
            if taken_back := Execution.take_back():
                logger.warning("%d leases ran out; other workers shall go on", len(taken_back))
            ended = Execution.end_poisonous()
        return ended + Execution.end_overdue() + Execution.end_expired()


def prune() -> None:
    """Delete some of what ended long ago; whatever is left comes with the next sweeps."""
    with_database(WorkerBeat.prune)
    if days := settings.EXECUTION_RETENTION_DAYS:
        with_database(lambda: Execution.prune(days, most=PRUNED_AT_ONCE))


def _was_away() -> bool:
    """Say whether the database was out of reach lately: no heartbeat came through then, and no crash is in that."""
    global _patient_until
    now = time.monotonic()
    if _swept_at is not None and now - _swept_at > 3 * SWEEP:
        _patient_until = now + LEASE
    return now < _patient_until


def _ring_for(waiting: dict[str, int]) -> None:
    """Ring for rows that wait without a bell, as far as there is place: who has worked goes on by itself."""
    if not waiting:
        return
    places = with_database(WorkerBeat.places_by_kind)
    for kind, count in waiting.items():
        rung = with_redis(lambda redis, kind=kind: redis.llen(kind))  # type: ignore[misc]
        if rung is None:
            return
        for _ in range(min(count, places.get(kind, 0)) - rung):
            bells.ring(kind)


def _look_for_work(waiting: dict[str, int]) -> None:
    """Work on what waits without waiting for a bell: Redis may be away, or just have lost its queue."""
    for _ in range(min(waiting.get(workplace.kind, 0), workplace.free)):
        threading.Thread(target=work, args=(workplace.kind,), name="unrung", daemon=True).start()


def forever(what: Callable[[], None], pause: float) -> None:
    while True:
        began = time.monotonic()
        try:
            what()
        except DATABASE_AWAY as error:
            logger.warning("the database is away: %s", error)
        except MemoryError:
            pass  # a line in the log would need some as well; whoever has it is ended (main/confinement.py)
        except Exception:
            logger.exception("the %s stumbled", threading.current_thread().name)
        time.sleep(max(0.0, pause - (time.monotonic() - began)))
