"""Queues as who operates the platform sees them: what waits and runs, and who works on it; and how one is emptied.

A queue is a kind of worker and a priority. It is no place where anything is kept: it is the rows that wait.
"""

import logging
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, NamedTuple, TypedDict, get_args

from django.db.models import Count, Min, Sum
from django.db.models.functions import Now

from main.channel import with_redis
from main.models import Execution, WorkerBeat
from main.outside_ends import announce_outside_ends
from main.queues import SHARES, WAITING_LIMITS
from main.registry import Kind
from main.workers import SILENCE

logger = logging.getLogger(__name__)

# How many executions one UPDATE of a purge cancels, and one round trip to Redis tells of.
PURGED_AT_ONCE = 500


class Queue(NamedTuple):
    """The executions of one kind and priority."""

    kind: str
    priority: str

    @property
    def name(self) -> str:
        return f"{self.kind}.{self.priority}"


QUEUES = {queue.name: queue for queue in (Queue(kind, name) for kind in get_args(Kind) for name in SHARES)}


class QueueState(TypedDict):
    """`oldest_seconds` since the oldest of those that wait was started, None where nothing waits."""

    name: str
    kind: str
    priority: str
    share: int
    waiting_limit: int
    depth: int
    oldest_seconds: float | None
    running: int


class KindState(TypedDict):
    """Who works on the queues of a kind; `bells` is None where Redis does not answer."""

    kind: str
    consumers: int
    places: int
    stuck: int
    bells: int | None


def queue_states() -> list[QueueState]:
    """Return every queue, also the empty ones, in two queries."""
    found = Execution.objects.order_by().values("kind", "priority").annotate(count=Count("pk"))
    waiting = _by_queue(
        found.filter(state=Execution.State.PENDING).annotate(oldest=Now() - Min("created_at"))
    )
    running = _by_queue(found.filter(state=Execution.State.RUNNING))
    return [
        {
            "name": name,
            "kind": queue.kind,
            "priority": queue.priority,
            "share": SHARES[queue.priority],
            "waiting_limit": WAITING_LIMITS[queue.priority],
            "depth": waiting[queue]["count"] if queue in waiting else 0,
            "oldest_seconds": _seconds(waiting[queue]["oldest"]) if queue in waiting else None,
            "running": running[queue]["count"] if queue in running else 0,
        }
        for name, queue in QUEUES.items()
    ]


def kind_states() -> list[KindState]:
    """Return who works, by kind: worker processes that were heard of lately, their places and their stuck threads."""
    heard = WorkerBeat.objects.filter(beat_at__gt=Now() - timedelta(seconds=SILENCE))
    sums = heard.values("kind").annotate(
        consumers=Count("pk"), places=Sum("capacity"), stuck_threads=Sum("stuck")
    )
    by_kind = {row["kind"]: row for row in sums}
    kinds = list(dict.fromkeys(queue.kind for queue in QUEUES.values()))
    rung = _bells(kinds)
    return [
        {
            "kind": kind,
            "consumers": by_kind[kind]["consumers"] if kind in by_kind else 0,
            "places": by_kind[kind]["places"] if kind in by_kind else 0,
            "stuck": by_kind[kind]["stuck_threads"] if kind in by_kind else 0,
            "bells": bells,
        }
        for kind, bells in zip(kinds, rung, strict=True)
    ]


def purge(queue: Queue, by: object) -> int:
    """Cancel all that waits in a queue, tell whoever watches, and return how many they were."""
    cancelled, more = 0, True
    while more:
        ended = Execution.purge(queue.kind, queue.priority, most=PURGED_AT_ONCE)
        announce_outside_ends(ended)
        cancelled += len(ended)
        more = len(ended) == PURGED_AT_ONCE
    logger.warning("user %s purged the queue %s: %d executions were cancelled", by, queue.name, cancelled)
    return cancelled


def _by_queue(rows: Iterable[Any]) -> dict[Queue, dict[str, Any]]:
    return {Queue(row["kind"], row["priority"]): row for row in rows}


def _seconds(waited: timedelta) -> float:
    return round(waited.total_seconds(), 1)


def _bells(kinds: list[str]) -> list[int | None]:
    """Return how many bells nobody has heard yet."""

    def count(redis: Any) -> list[int]:
        pipeline = redis.pipeline(transaction=False)
        for kind in kinds:
            pipeline.llen(kind)
        counts: list[int] = pipeline.execute()
        return counts

    found: list[int | None] = with_redis(count, [None] * len(kinds))
    return found
