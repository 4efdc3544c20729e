"""Dead letters: what failed or expired, or could not be delivered, until somebody requeues or drops it.

They are executions and notifications whose `settled_at` is empty, each a source of one list; the verbs are `main`'s and
`notifications`'.
"""

import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from itertools import chain
from typing import Any, NamedTuple, cast

from django.db import transaction
from django.db.models import Case, F, JSONField, OuterRef, Q, QuerySet, Subquery, TextField, When
from django.db.models.functions import Cast, Length
from django.utils.dateparse import parse_datetime
from django.utils.timezone import is_naive, make_aware
from django.utils.translation import gettext as _
from rest_framework.exceptions import NotFound

from main.again import REFUSALS, Way, drop, requeue
from main.api import Conflict, Invalid
from main.events import MAX_ENTRY_BYTES
from main.models import Execution
from main.run import page_address
from notifications.models import Delivery, Notification

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


Filters = dict[str, Callable[[str], Q]]

TIMES: Filters = {
    "after": lambda value: Q(finished_at__gt=_time("after", value)),
    "before": lambda value: Q(finished_at__lt=_time("before", value)),
}


class Source(NamedTuple):
    """One kind of dead letters. All of them know the same filters, and have `id` and `finished_at`.

    `letters` are those of the `rows` that are dead letters.
    """

    rows: Callable[[], QuerySet[Any]]
    letters: Callable[[], QuerySet[Any]]
    filters: Filters
    light: Callable[[QuerySet[Any]], QuerySet[Any]]
    describe: Callable[[Any], dict[str, Any]]
    requeue: Callable[[Any, Way], dict[str, str]]
    drop: Callable[[Any], None]


def matching(filters: Mapping[str, Any]) -> dict[str, QuerySet[Any]]:
    """Return by type the dead letters that all of some filters fit; raises Invalid for one that is none."""
    asked = dict(filters)
    wanted = asked.pop("type", None)
    if wanted is not None and wanted not in SOURCES:
        sentence = _("“type” is one of %(known)s.")
        raise _invalid("type", sentence % {"known": ", ".join(SOURCES)})
    return {
        name: source.letters().filter(*(_condition(source, *each) for each in asked.items()))
        for name, source in SOURCES.items()
        if wanted in (None, name)
    }


def _condition(source: Source, name: str, value: Any) -> Q:
    if name not in source.filters:
        sentence = _("There is no filter “%(name)s”; there are %(known)s.")
        raise _invalid(name, sentence % {"name": name, "known": ", ".join(FILTERS)})
    if not isinstance(value, str) or not value or "\x00" in value:
        raise _invalid(name, _("“%(name)s” is no text to look for.") % {"name": name})
    return source.filters[name](value)


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


def read_page(found: Mapping[str, QuerySet[Any]], length: int, after: Cursor | None) -> DeadLetterPage:
    """Return some of them, the newest first, and where the next page begins; in one query for each type."""
    rows: list[tuple[str, Any]] = []
    for name, letters in found.items():
        if after:
            earlier = Q(finished_at__lt=after.finished_at) | Q(id__lt=after.id)
            letters = letters.filter(earlier, finished_at__lte=after.finished_at)
        newest = SOURCES[name].light(letters).order_by("-finished_at", "-id")[: length + 1]
        rows += [(name, row) for row in newest]
    rows.sort(key=lambda each: (each[1].finished_at, each[1].id), reverse=True)
    last = rows[length - 1][1] if len(rows) > length else None
    cursor = Cursor(last.finished_at, last.id) if last else None
    return DeadLetterPage(
        [{"type": name, **SOURCES[name].describe(row)} for name, row in rows[:length]], cursor
    )


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
            found = [
                letters.order_by("finished_at", "id").values_list("finished_at", "id")[: MAX_AT_ONCE + 1]
                for letters in matching(filters).values()
            ]
            oldest = [letter_id for _at, letter_id in sorted(chain(*found))]
            return Chosen(oldest[:MAX_AT_ONCE], more=len(oldest) > MAX_AT_ONCE)
    sentence = _("Say which: “ids”, a list, or “filter”, an object with %(known)s.")
    raise Invalid(sentence % {"known": ", ".join(FILTERS)})


def _ids(values: list[Any]) -> list[uuid.UUID]:
    if len(values) > MAX_AT_ONCE:
        raise _invalid("ids", _("“ids” are %(most)d at most.") % {"most": MAX_AT_ONCE})
    try:
        return list(dict.fromkeys(uuid.UUID(value) for value in values))
    except (ValueError, AttributeError, TypeError):
        raise _invalid("ids", _("“ids” are the ids of dead letters.")) from None


class Done(NamedTuple):
    """What became of some of them: what was done, by id, and why the others were refused."""

    done: list[dict[str, str]]
    refused: list[dict[str, str]]


def find(letter_id: uuid.UUID) -> tuple[Source, Any]:
    """Return what has that id, and of which type it is; raises NotFound."""
    for source in SOURCES.values():
        if row := source.rows().filter(id=letter_id).first():
            return source, row
    raise NotFound(_("There is no such dead letter."))


def requeue_all(ids: Iterable[uuid.UUID], way: Way) -> Done:
    """Requeue each of them. They are read one by one: a thousand with large inputs are too many at once."""
    return _each(ids, lambda source, row: source.requeue(row, way))


def drop_all(ids: Iterable[uuid.UUID]) -> Done:
    """Drop each of them."""

    def drop_one(source: Source, row: Any) -> dict[str, str]:
        source.drop(row)
        return {}

    return _each(ids, drop_one)


def _each(ids: Iterable[uuid.UUID], do: Callable[[Source, Any], dict[str, str]]) -> Done:
    outcome = Done([], [])
    for each in ids:
        try:
            outcome.done.append({"id": str(each), **do(*find(each))})
        except (*REFUSALS, NotFound) as error:
            outcome.refused.append({"id": str(each), "reason": str(error)})
    return outcome


# Executions


def _light_executions(found: QuerySet[Execution]) -> QuerySet[Execution]:
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


def _describe_execution(row: Any) -> dict[str, Any]:
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


# Notifications

# What stands where an execution has the type of its error.
DELIVERY = "delivery"


def with_answers(found: QuerySet[Notification]) -> QuerySet[Notification]:
    """Read notifications with how the last try went, and what the other side answered."""
    last = Delivery.objects.filter(notification=OuterRef("pk")).order_by("-at", "-id")
    heavy = (f"execution__{name}" for name in ("inputs", "result", "error", "usage"))
    return (
        found.select_related("user", "execution")
        .defer(*heavy)
        .annotate(
            last_answer=Subquery(last.values("answer")[:1]), last_outcome=Subquery(last.values("outcome")[:1])
        )
    )


def _describe_notification(row: Any) -> dict[str, Any]:
    notification: Notification = row
    execution = notification.execution
    return {
        "id": str(notification.id),
        "execution": str(execution.id) if execution else None,
        "flow": execution.flow if execution else None,
        "title": execution.title if execution else notification.get_event_display(),
        "owner": notification.user.email,
        "channel": notification.channel,
        "error": {
            "type": DELIVERY,
            "message": row.last_answer or "",
            "retryable": row.last_outcome != Delivery.Outcome.REFUSED,
        },
        "attempt": notification.attempt,
        "created_at": notification.created_at,
        "finished_at": notification.finished_at,
    }


def _send_again(notification: Notification, way: Way) -> dict[str, str]:
    """There is one way to send a mail again, wherever else an execution would begin."""
    with transaction.atomic():
        _drop_notification(notification)
        notification.send_again()
    return {}


def _drop_notification(notification: Notification) -> None:
    if not notification.settle():
        raise Conflict(_("The notification is no dead letter, or not any more."))


SOURCES = {
    "execution": Source(
        rows=lambda: Execution.objects.defer("result", "usage"),
        letters=Execution.dead_letters,
        filters={
            "flow": lambda value: Q(flow=value),
            "error": lambda value: Q(error__type=value),
            "owner": lambda value: Q(owner__email__iexact=value),
            **TIMES,
        },
        light=_light_executions,
        describe=_describe_execution,
        requeue=lambda execution, way: {"task_id": str(requeue(execution, way).id)},
        drop=drop,
    ),
    "notification": Source(
        rows=Notification.objects.all,
        letters=Notification.dead_letters,
        filters={
            "flow": lambda value: Q(execution__flow=value),
            "error": lambda value: Q() if value == DELIVERY else Q(pk__in=[]),
            "owner": lambda value: Q(user__email__iexact=value),
            **TIMES,
        },
        light=with_answers,
        describe=_describe_notification,
        requeue=_send_again,
        drop=_drop_notification,
    ),
}
FILTERS = (*SOURCES["execution"].filters, "type")
