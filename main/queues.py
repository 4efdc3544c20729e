"""Who is next: priorities, turns and limits. The rows that wait are the queue; nothing else is kept.

Three priorities share the workers by weight. Within a priority owners take turns: a start gets the number of the
round it belongs to, which is the round that is being served, or the one after its owner's last. Who starts a
thousand at once has a thousand rounds to wait for; somebody else's first one belongs to the very next.
"""

import uuid
from collections.abc import Iterable
from typing import Any

from django.db import models
from django.db.models.expressions import RawSQL
from django.utils.translation import gettext_lazy as _

# Of 21 claims while all three wait, 16 go to high, 4 to normal and 1 to low. What one has no use for, the highest
# of the others gets.
SHARES = {"high": 16, "normal": 4, "low": 1}
# Seconds that an execution may wait for its first claim.
WAITING_LIMITS = {"high": 3600, "normal": 24 * 3600, "low": 7 * 24 * 3600}
# How many crashes make an execution suspect of having caused them: the next one would end it.
SUSPECT = 2
# Workers of the one kind run many executions in one process, those of the other each in a process of its own. There
# suspects run, so that none is ended for what its neighbour does.
TOGETHER, ALONE = "io", "cpu"
# Whose turn it is where there is neither user nor visitor.
NOBODY = uuid.UUID(int=0)
# The advisory lock of claims while there are limits to count; any number that nothing else in this database uses.
LIMITS_LOCK = 7_315_620_002


class Priority(models.TextChoices):
    HIGH = "high", _("high")
    NORMAL = "normal", _("normal")
    LOW = "low", _("low")


def in_order(draw: float) -> list[str]:
    """Return the priorities as one claim looks through them: first the one that the draw (0 to 1) falls to."""
    rest = draw * sum(SHARES.values())
    for first, share in SHARES.items():
        if rest < share:
            return [first, *(each for each in SHARES if each != first)]
        rest -= share
    return list(SHARES)


def next_turn(kind: str, priority: str, owner_key: uuid.UUID) -> RawSQL:
    """Return the expression for the turn of a new row. What was handed back keeps its early turn and is not counted."""
    return RawSQL(
        """
        greatest(
            coalesce((
                SELECT turn FROM main_execution
                WHERE state = 'PENDING' AND kind = %s AND priority = %s AND attempt = 0 ORDER BY turn LIMIT 1
            ), 0),
            coalesce((
                SELECT turn + 1 FROM main_execution
                WHERE state = 'PENDING' AND kind = %s AND priority = %s AND owner_key = %s
                ORDER BY turn DESC LIMIT 1
            ), 0)
        )
        """,
        [kind, priority, kind, priority, owner_key],
    )


_SUSPECT = f"""(
    SELECT id FROM main_execution
    WHERE state = 'PENDING' AND kind = '{TOGETHER}' AND crashes >= {SUSPECT}
        AND flow <> ALL(%(full_flows)s) AND owner_key <> ALL(%(full_owners)s::uuid[])
    ORDER BY turn LIMIT 1 FOR UPDATE SKIP LOCKED
)"""  # noqa: S608 — our own names
_HEAD = """(
    SELECT id FROM main_execution
    WHERE state = 'PENDING' AND kind = %(kind)s AND priority = %({priority})s AND crashes < %(crashes)s
        AND (expires_at IS NULL OR expires_at > clock_timestamp())
        AND flow <> ALL(%(full_flows)s) AND owner_key <> ALL(%(full_owners)s::uuid[])
    ORDER BY turn, created_at LIMIT 1 FOR UPDATE SKIP LOCKED
)"""
_HEADS = [_HEAD.format(priority=name) for name in ("first", "second", "third")]

FULL_FLOWS = """
    SELECT flow FROM main_execution
    JOIN unnest(%s::text[], %s::int[]) AS limits(name, most) ON flow = name
    WHERE state = 'RUNNING' GROUP BY flow, most HAVING count(*) >= most
"""
FULL_OWNERS = """
    SELECT owner_key FROM main_execution WHERE state = 'RUNNING' GROUP BY owner_key HAVING count(*) >= %s
"""


_ANY = 32767  # the largest that the column holds


def next_id(kind: str) -> str:
    """Return the SQL for the id of who is next. `coalesce` looks into the second only where the first has nothing."""
    return f"coalesce({', '.join([_SUSPECT, *_HEADS] if kind == ALONE else _HEADS)})"


def parameters(
    kind: str, draw: float, full_flows: Iterable[str], full_owners: Iterable[Any]
) -> dict[str, Any]:
    """Return what `next_id` is asked with."""
    priorities = dict(zip(("first", "second", "third"), in_order(draw), strict=True))
    return {
        "kind": kind,
        **priorities,
        "crashes": SUSPECT if kind == TOGETHER else _ANY,
        "full_flows": list(full_flows),
        "full_owners": list(full_owners),
    }
