"""Dead letters: what failed or expired, until somebody requeues or drops it.

They are executions whose `settled_at` is empty; the verbs are `main`'s.
"""

import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple, cast

from django.db.models import Case, F, JSONField, Q, QuerySet, TextField, When
from django.db.models.functions import Cast, Length
from django.utils.dateparse import parse_datetime
from django.utils.timezone import is_naive, make_aware
from django.utils.translation import gettext as _

from main.again import REFUSALS, Way, drop, requeue
from main.api import Conflict, Invalid
from main.events import MAX_ENTRY_BYTES
from main.models import Execution
from main.run import page_address

PAGE_LENGTH, MAX_PAGE_LENGTH = 50, 200
# How many are requeued or dropped by one request.
MAX_AT_ONCE = 1_000

# Which


def _time(name: str, value: str) -> datetime:
    try:
        time = parse_datetime(value)
    except ValueError:
        time = None
    if time is None:
        raise _invalid(
            name, _("“%(name)s” is no ISO 8601 time such as 2026-01-31T12:00:00Z.") % {"name": name}
        )
    return make_aware(time) if is_naive(time) else time


FILTERS: dict[str, Callable[[str], Q]] = {
    "flow": lambda value: Q(flow=value),
    "error": lambda value: Q(error__type=value),
    "owner": lambda value: Q(owner__email__iexact=value),
    "after": lambda value: Q(finished_at__gt=_time("after", value)),
    "before": lambda value: Q(finished_at__lt=_time("before", value)),
}


def matching(filters: Mapping[str, Any]) -> QuerySet[Execution]:
    """Return the dead letters that all of some filters fit; raises Invalid for one that is unknown or not valid."""
    found = Execution.dead_letters()
    for name, value in filters.items():
        found = found.filter(_condition(name, value))
    return found


def _condition(name: str, value: Any) -> Q:
    if name not in FILTERS:
        sentence = _("There is no filter “%(name)s”; there are %(known)s.")
        raise _invalid(name, sentence % {"name": name, "known": ", ".join(FILTERS)})
    if not isinstance(value, str) or not value or "\x00" in value:
        raise _invalid(name, _("“%(name)s” is no text to look for.") % {"name": name})
    return FILTERS[name](value)


def _invalid(name: str, sentence: str) -> Invalid:
    return Invalid(sentence, {name: [sentence]})


# A page of them


class Cursor(NamedTuple):
    """The last dead letter of a page; the next page begins after it."""

    finished_at: datetime
    id: uuid.UUID

    def __str__(self) -> str:
        return f"{self.finished_at.isoformat()}_{self.id}"

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Read what `str` wrote; raises Invalid for anything else."""
        time, _mark, last = text.partition("_")
        try:
            finished_at, last_id = datetime.fromisoformat(time), uuid.UUID(last)
        except ValueError:
            finished_at, last_id = datetime.min, uuid.UUID(int=0)
        if is_naive(finished_at):
            raise _invalid("cursor", _("“cursor” is none that this list has given."))
        return cls(finished_at, last_id)


class DeadLetterPage(NamedTuple):
    rows: list[dict[str, Any]]
    next: Cursor | None


def read_page(found: QuerySet[Execution], length: int, after: Cursor | None) -> DeadLetterPage:
    """Return some of them, the newest first, and where the next page begins; in one query."""
    if after:
        earlier = Q(finished_at__lt=after.finished_at) | Q(id__lt=after.id)
        found = found.filter(earlier, finished_at__lte=after.finished_at)
    rows = list(_light(found).order_by("-finished_at", "-id")[: length + 1])
    last = rows[length - 1] if len(rows) > length else None
    cursor = Cursor(last.finished_at, last.id) if last and last.finished_at else None
    return DeadLetterPage([describe(row) for row in rows[:length]], cursor)


def _light(found: QuerySet[Execution]) -> QuerySet[Execution]:
    """Leave in the database what is not shown: results, and inputs that are too large for a list."""
    return (
        found.select_related("owner")
        .defer("inputs", "result", "usage")
        .annotate(
            inputs_bytes=Length(Cast("inputs", TextField())),
            shown_inputs=Case(
                When(inputs_bytes__lte=MAX_ENTRY_BYTES, then=F("inputs")), output_field=JSONField()
            ),
        )
    )


def describe(row: Any) -> dict[str, Any]:
    """Return a dead letter, read as above, as the API shows it."""
    execution: Execution = row
    return {
        "id": str(execution.id),
        "flow": execution.flow,
        "title": execution.title,
        "inputs": _inputs(row),
        "owner": execution.owner.email if execution.owner else None,
        "error": execution.error,
        "attempt": execution.attempt,
        "crashes": execution.crashes,
        "kind": execution.kind,
        "priority": execution.priority,
        "created_at": execution.created_at,
        "finished_at": execution.finished_at,
        "origin": str(execution.origin_id) if execution.origin_id else None,
    }


def _inputs(row: Any) -> dict[str, Any]:
    """Return the inputs, or where they can be read that are too large for a list."""
    if row.inputs_bytes <= MAX_ENTRY_BYTES:
        return cast(dict[str, Any], row.shown_inputs)
    return {"omitted_bytes": row.inputs_bytes, "url": page_address(str(row.id))}


# Requeue and drop


class Chosen(NamedTuple):
    """Whom a request is about, the oldest first, and whether its filter fits more than these."""

    ids: list[uuid.UUID]
    more: bool


def chosen(body: Mapping[str, Any]) -> Chosen:
    """Read {"ids": […]} or {"filter": {…}}; raises Invalid for anything else."""
    match body.get("ids"), body.get("filter"):
        case list() as ids, None:
            return Chosen(_ids(ids), more=False)
        case None, dict() as filters:
            oldest = matching(filters).order_by("finished_at", "id").values_list("id", flat=True)
            found = list(oldest[: MAX_AT_ONCE + 1])
            return Chosen(found[:MAX_AT_ONCE], more=len(found) > MAX_AT_ONCE)
    sentence = _("Say which: “ids”, a list, or “filter”, an object with %(known)s.")
    raise Invalid(sentence % {"known": ", ".join(FILTERS)})


def _ids(values: list[Any]) -> list[uuid.UUID]:
    if len(values) > MAX_AT_ONCE:
        raise _invalid("ids", _("“ids” are %(most)d at most.") % {"most": MAX_AT_ONCE})
    try:
        return list(dict.fromkeys(uuid.UUID(value) for value in values))
    except (ValueError, AttributeError, TypeError):
        raise _invalid("ids", _("“ids” are the ids of executions.")) from None


class Done(NamedTuple):
    """What became of some of them: what was done, by id, and why the others were refused."""

    done: list[dict[str, str]]
    refused: list[dict[str, str]]


def requeue_all(ids: Iterable[uuid.UUID], way: Way) -> Done:
    """Run each of them again. They are read one by one: a thousand with large inputs are too many at once."""

    def requeue_one(execution_id: uuid.UUID) -> dict[str, str]:
        execution = Execution.objects.defer("result", "usage").filter(id=execution_id).first()
        if execution is None:
            raise Conflict(_("There is no such execution."))
        return {"task_id": str(requeue(execution, way).id)}

    return _each(ids, requeue_one)


def drop_all(ids: Iterable[uuid.UUID]) -> Done:
    """Drop each of them."""

    def drop_one(execution_id: uuid.UUID) -> dict[str, str]:
        drop(Execution(id=execution_id))
        return {}

    return _each(ids, drop_one)


def _each(ids: Iterable[uuid.UUID], do: Callable[[uuid.UUID], dict[str, str]]) -> Done:
    outcome = Done([], [])
    for each in ids:
        try:
            outcome.done.append({"id": str(each), **do(each)})
        except REFUSALS as error:
            outcome.refused.append({"id": str(each), "reason": str(error)})
    return outcome
