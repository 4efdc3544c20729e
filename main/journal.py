"""What executions leave behind: finished steps, and the lines of the timeline.

An attempt writes behind its fence: where the execution is no longer its own, it raises Fenced and changes nothing.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, cast

import orjson
from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from main.database import execute, fetch
from main.events import Entry as EntryView
from main.events import Event, without_large_data
from main.run import StepRecord, Stopped, entry_address

if TYPE_CHECKING:
    from main.models import Execution

LOST = "The execution ended or was taken over."


class Fenced(Stopped):
    """This attempt lost its execution: it ended elsewhere, or another attempt has it."""


class Step(models.Model):
    """A finished step: the journal. A later attempt gets the result from here and does not do the step again."""

    # What a snapshot shows of it.
    SHOWN: ClassVar[tuple[str, ...]] = ("execution_id", "key", "name", "progress")

    execution = models.ForeignKey("main.Execution", on_delete=models.CASCADE, related_name="steps")
    key = models.TextField(_("key"))
    name = models.CharField(_("name"), max_length=200)
    attempt = models.PositiveIntegerField(_("attempt"))
    tries = models.PositiveSmallIntegerField(_("tries"), default=1)
    fingerprint = models.CharField(_("fingerprint of the input"), max_length=64, blank=True)
    result = models.JSONField(_("result"), null=True)
    progress = models.PositiveSmallIntegerField(_("progress"), default=0)
    started_at = models.DateTimeField(_("started"))
    finished_at = models.DateTimeField(_("finished"), db_default=Now())

    class Meta:
        verbose_name = _("step")
        verbose_name_plural = _("steps")
        ordering = ("id",)
        constraints = (models.UniqueConstraint(fields=("execution", "key"), name="step_once_per_execution"),)

    def __str__(self) -> str:
        return self.name

    @property
    def duration(self) -> float:
        """Seconds it took, with its retries."""
        return (self.finished_at - self.started_at).total_seconds()

    @classmethod
    def record(cls, execution: "Execution", step: StepRecord) -> None:
        """Keep a finished step and its entries, behind the fence; raises Fenced.

        One statement, because every step of every execution waits for it. Where the commit's answer got lost, the
        same step is recorded again, and stays as it was. Entries that an earlier try left go.
        """
        recorded = fetch(
            """
            WITH held AS (
                SELECT id, attempt FROM main_execution
                WHERE id = %(execution)s AND attempt = %(attempt)s AND state = 'RUNNING' FOR SHARE
            ), step AS (
                INSERT INTO main_step
                    (execution_id, key, name, attempt, tries, fingerprint, result, progress, started_at, finished_at)
                SELECT id, %(key)s, %(name)s, attempt, %(tries)s, %(fingerprint)s, %(result)s::jsonb, %(progress)s,
                    clock_timestamp() - %(took)s, clock_timestamp()
                FROM held ON CONFLICT DO NOTHING
            ), entry AS (
                INSERT INTO main_entry (execution_id, step, n, attempt, position, data, created_at)
                SELECT held.id, shown.step, shown.n, held.attempt, shown.position, shown.data, clock_timestamp()
                FROM held, jsonb_to_recordset(%(entries)s::jsonb)
                    AS shown(step text, n integer, position integer, data jsonb)
                ON CONFLICT (execution_id, step, n) DO UPDATE SET data = excluded.data
            ), replaced AS (
                DELETE FROM main_entry USING held
                WHERE execution_id = held.id AND step = %(key)s AND n >= %(entry_count)s
            )
            SELECT 1 FROM held
            """,
            {
                "execution": execution.id,
                "attempt": execution.attempt,
                "key": step.key,
                "name": step.name,
                "tries": step.tries,
                "fingerprint": step.fingerprint,
                "result": orjson.dumps(step.result).decode(),
                "progress": step.progress,
                "took": datetime.now(UTC) - step.started_at,  # the worker's clock may be off
                "entries": Entry.encode(step.entries),
                "entry_count": len(step.entries),
            },
        )
        if not recorded:
            raise Fenced(LOST)

    @classmethod
    def copy(cls, source: "Execution", target: "Execution") -> None:
        """Give an execution the finished steps of another."""
        execute(
            """
            INSERT INTO main_step
                (execution_id, key, name, attempt, tries, fingerprint, result, progress, started_at, finished_at)
            SELECT %s, key, name, 0, tries, fingerprint, result, progress, started_at, finished_at
            FROM main_step WHERE execution_id = %s ORDER BY id
            """,
            [target.id, source.id],
        )


class Entry(models.Model):
    """A line of the timeline. `n` counts within its step, so that an attempt's repetition replaces, not repeats."""

    execution = models.ForeignKey("main.Execution", on_delete=models.CASCADE, related_name="entries")
    step = models.TextField(_("step"), blank=True)
    n = models.PositiveIntegerField(_("number in its step"))
    attempt = models.PositiveIntegerField(_("attempt"))
    position = models.PositiveIntegerField(_("position"))
    data = models.JSONField(_("data"))
    created_at = models.DateTimeField(_("created"), db_default=Now())

    class Meta:
        verbose_name = _("entry")
        verbose_name_plural = _("entries")
        ordering = ("position", "id")
        constraints = (
            models.UniqueConstraint(fields=("execution", "step", "n"), name="entry_once_per_step"),
        )

    def __str__(self) -> str:
        return str(self.data.get("message") or self.data.get("tool", ""))

    @classmethod
    def keep(cls, execution: "Execution", entries: Iterable[tuple[int, EntryView]]) -> None:
        """Store entries by position; one that is there already keeps its place and gets the new content."""
        rows = [cls._row(execution, position, entry) for position, entry in entries]
        if rows:
            Entry.objects.bulk_create(
                rows, update_conflicts=True, unique_fields=["execution", "step", "n"], update_fields=["data"]
            )

    @staticmethod
    def encode(entries: Iterable[tuple[int, EntryView]]) -> str:
        """Return entries by position as the JSON that `Step.record` takes apart."""
        rows = [
            {"step": entry["step"], "n": entry["n"], "position": position, "data": _data(entry)}
            for position, entry in entries
        ]
        return orjson.dumps(rows).decode()

    @classmethod
    def keep_shown(cls, execution: "Execution", shown: Iterable[EntryView]) -> None:
        """Store what watchers saw, in their order, of an execution that ended under its worker's hands.

        The worker is fenced out by now, with the entries of the steps that it did not finish.
        """
        stored = {(entry.step, entry.n): entry for entry in execution.entries.all()}
        finished = set(execution.steps.values_list("key", flat=True))
        position = 0
        rows = []
        for view in shown:
            if known := stored.get((view["step"], view["n"])):
                position = known.position
                continue
            if view["step"] in finished:  # of an earlier try: Redis did not hear of the last one
                continue
            position += 1  # at most its own: what follows it and is stored has a higher one
            rows.append(cls._row(execution, position, view))
        Entry.objects.bulk_create(rows, ignore_conflicts=True)

    @classmethod
    def copy(cls, source: "Execution", target: "Execution") -> None:
        """Give an execution the entries of another's finished steps."""
        execute(
            """
            INSERT INTO main_entry (execution_id, step, n, attempt, position, data, created_at)
            SELECT %s, step, n, 0, position, data, created_at FROM main_entry
            WHERE execution_id = %s AND step IN (SELECT key FROM main_step WHERE execution_id = %s) ORDER BY id
            """,
            [target.id, source.id, source.id],
        )

    @classmethod
    def _row(cls, execution: "Execution", position: int, entry: EntryView) -> "Entry":
        return cls(
            execution=execution,
            step=entry["step"],
            n=entry["n"],
            attempt=execution.attempt,
            position=position,
            data=_data(entry),
        )

    def event(self) -> Event:
        event = cast(Event, {"step": self.step, "n": self.n, **self.data})
        if "data" in event:
            event["data"] = without_large_data(event["data"], self.address)
        return event

    @property
    def address(self) -> str:
        return entry_address(str(self.execution_id), self.step, self.n)


def _data(entry: EntryView) -> dict[str, Any]:
    """Return what an entry says, without the step and number that it is found by."""
    return {key: value for key, value in entry.items() if key not in ("step", "n")}
