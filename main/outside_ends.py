"""Ends that no worker decides: cancelled, overdue, poisonous. The web and the sweeper tell of them."""

from django.db import connection

from main.channel import announce_end, history
from main.models import Entry, Execution


def announce_outside_end(execution: Execution) -> None:
    """Tell watchers how an execution ended that did not end by its own worker, and keep what they have seen."""
    execution.refresh_from_db()
    if shown := history(str(execution.id)):
        Entry.keep_shown(execution, shown.entries.values())
    stored = execution.snapshot()
    connection.close()
    announce_end(str(execution.id), execution.attempt, execution.result_event(), stored)
