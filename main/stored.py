"""What PostgreSQL says of what is watched, for many at once."""

import uuid
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import cast

from django.db.models import Q
from django.utils import timezone

from main.channel import latest
from main.events import Snapshot, State
from main.models import Execution
from main.owner_events import OwnerEvent, execution_event

# How many of an owner's executions are told at once, and for how many seconds after its end an end is looked up.
MOST_OWNED = 200
JUST_ENDED = 15.0


def stored_snapshots(ids: Iterable[str]) -> dict[str, Snapshot]:
    """Return by id what is stored of executions."""
    return Execution.snapshots(Execution.objects.filter(id__in=[uuid.UUID(id_) for id_ in ids]))


def snapshots_of_ended(ids: Iterable[str]) -> dict[str, Snapshot]:
    """Return by id the snapshots of those that have ended."""
    return stored_snapshots(Execution.ended_of(ids))


def present_since(owner: str, since: float) -> list[OwnerEvent]:
    """Return how those of an owner's executions are that have not ended, or ended after a time in Unix seconds."""
    ended_since = datetime.fromtimestamp(since, UTC) if since else timezone.now()
    return _present([owner], ended_since)[owner]


def present_by_owner(owners: Iterable[str]) -> dict[str, list[OwnerEvent]]:
    """Return by owner how those of their executions are that have not ended, or have just ended."""
    return _present(owners, timezone.now() - timedelta(seconds=JUST_ENDED))


def _present(owners: Iterable[str], ended_since: datetime) -> defaultdict[str, list[OwnerEvent]]:
    unended = Q(state=Execution.State.PENDING) | Q(
        state=Execution.State.RUNNING
    )  # each has an index of its own
    found = Execution.objects.filter(
        unended | Q(finished_at__gt=ended_since), owner_key__in=[uuid.UUID(owner) for owner in owners]
    )
    newest = list(found.defer("inputs", "result", "usage").order_by("-created_at")[:MOST_OWNED])
    live = latest([str(each.id) for each in newest if not each.is_final])
    present: defaultdict[str, list[OwnerEvent]] = defaultdict(list)
    for execution in reversed(newest):
        snapshot = live.get(str(execution.id)) or _roughly(execution)
        event = execution_event(str(execution.id), execution.flow, snapshot, is_new=not execution.attempt)
        present[str(execution.owner_key)].append(event)
    return present


def _roughly(execution: Execution) -> Snapshot:
    """Return what the row alone says: states, and no steps."""
    return Snapshot(
        state=cast(State, execution.contract_state),
        status=execution.error["message"] if execution.error else str(execution.get_state_display()),
        progress=100 * (execution.state == Execution.State.SUCCESS),
        error=execution.error,
    )
