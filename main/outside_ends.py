"""Ends that no worker decides: cancelled, purged, overdue, poisonous. The web and the sweeper tell of them."""

from collections.abc import Iterable

from django.db import connection

from main.channel import OutsideEnd, announce_end, announce_ends, history, outside_end
from main.events import Snapshot
from main.models import Entry, Execution
from main.run import page_address


def announce_outside_end(execution: Execution) -> None:
    """Tell watchers how an execution ended that did not end by its own worker, and keep what they have seen."""
    execution.refresh_from_db()
    if shown := history(str(execution.id)):
        Entry.keep_shown(execution, shown.entries.values())
    stored = execution.snapshot()
    connection.close()
    announce_end(str(execution.id), execution.attempt, execution.result_event(), stored, execution.theirs)


def announce_outside_ends(executions: Iterable[Execution]) -> None:
    """Tell the watchers of many. Of those that nobody has begun Redis knows nothing that would be read first."""
    unbegun = []
    for execution in executions:
        if execution.attempt:
            announce_outside_end(execution)
        else:
            unbegun.append(_end_of_unbegun(execution))
    announce_ends(unbegun)


def _end_of_unbegun(execution: Execution) -> OutsideEnd:
    execution_id = str(execution.id)
    before = Snapshot(url=page_address(execution_id)) if execution.is_new else execution.snapshot()
    return outside_end(execution_id, execution.attempt, execution.result_event(), before, execution.theirs)
