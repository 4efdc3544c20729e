"""What PostgreSQL says of what is watched, for many at once."""

import uuid
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, cast

from django.db.models import F, OuterRef, Q, Subquery, Window
from django.db.models.functions import RowNumber
from django.utils import timezone

from main.channel import latest
from main.events import Snapshot, State
from main.models import Execution, Step
from main.owner_events import OwnerEvent, execution_event

# How many of an owner's executions are told at once; for how many seconds after its end an end is looked up, and
# after how many whatever happened would have been told.
MOST_OWNED = 200
JUST_ENDED = 15.0
SETTLED = 2.0


def stored_snapshots(ids: Iterable[str]) -> dict[str, Snapshot]:
    """Return by id what is stored of executions."""
    return Execution.snapshots(Execution.objects.filter(id__in=[uuid.UUID(id_) for id_ in ids]))


def snapshots_of_ended(ids: Iterable[str]) -> dict[str, Snapshot]:
    """Return by id the snapshots of those that have ended."""
    return stored_snapshots(Execution.ended_of(ids))


class Present(NamedTuple):
    """How an execution is, and when it ended in Unix seconds; 0 before that."""

    event: OwnerEvent
    ended_at: float


def present_since(owner: str, since: float) -> list[Present]:
    """Return how those of an owner's executions are that have not ended, or ended after a time in Unix seconds.

    Those that have just ended are there as well: whoever looks again in a moment shall know them.
    """
    now = timezone.now()
    earliest = now - timedelta(seconds=JUST_ENDED)
    ended_since = (
        min(datetime.fromtimestamp(since, UTC), earliest) if 0 < since < now.timestamp() else earliest
    )
    return _present([owner], Q(finished_at__gt=ended_since))[owner]


def present_by_owner(owners: Iterable[str]) -> dict[str, list[Present]]:
    """Return by owner how those of their executions are that have not ended, or have just ended.

    What happened in the last moments is left out: it is about to be told by who did it.
    """
    now = timezone.now()
    settled, earliest = now - timedelta(seconds=SETTLED), now - timedelta(seconds=JUST_ENDED)
    return _present(owners, Q(finished_at__range=(earliest, settled)), created_at__lt=settled)


def _present(owners: Iterable[str], ended: Q, **more: Any) -> defaultdict[str, list[Present]]:
    # Not `state__in`: each of the two has an index of its own.
    unended = Q(state=Execution.State.PENDING) | Q(state=Execution.State.RUNNING)
    progress = Step.objects.filter(execution=OuterRef("pk")).order_by("-progress").values("progress")[:1]
    place = Window(RowNumber(), partition_by=F("owner_key"), order_by=F("created_at").desc())
    found = (
        Execution.objects.filter(
            unended | ended, owner_key__in=[uuid.UUID(owner) for owner in owners], **more
        )
        .defer("inputs", "result", "usage")
        .annotate(done=Subquery(progress), place=place)
        .filter(place__lte=MOST_OWNED)
        .order_by("created_at")
    )
    newest = list(found)
    live = latest([str(each.id) for each in newest if not each.is_final])
    present: defaultdict[str, list[Present]] = defaultdict(list)
    for execution in newest:
        snapshot = live.get(str(execution.id)) or _roughly(execution, execution.done or 0)
        event = execution_event(str(execution.id), execution.flow, snapshot, is_new=not execution.attempt)
        ended_at = execution.finished_at.timestamp() if execution.finished_at else 0.0
        present[str(execution.owner_key)].append(Present(event, ended_at))
    return present


def _roughly(execution: Execution, done: int) -> Snapshot:
    """Return what the row says, and the progress of the last step that is stored."""
    return Snapshot(
        state=cast(State, execution.contract_state),
        status=execution.error["message"] if execution.error else str(execution.get_state_display()),
        progress=100 if execution.state == Execution.State.SUCCESS else done,
        error=execution.error,
    )
