"""Executions: the rows that are the truth, and the verbs that change their state.

State moves only here, each time by one conditional UPDATE, by the database's clock:

    PENDING ──claim_next──▶ RUNNING ──finish──▶ SUCCESS | FAILURE
     │ ▲  ▲                   │  │
     │ │  └────hand_back──────┘  └──cancel, end_overdue, end_poisonous──▶ CANCELLED | FAILURE
     │ └──take_back (the lease ran out)
     └──cancel, purge, end_expired, end_overdue──▶ CANCELLED | FAILURE

Every write of an attempt happens behind its fence: it locks the row for as long as the attempt is the newest
and the state is RUNNING, or raises Fenced.
"""

import random
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar, NamedTuple, cast

import orjson
from django.conf import settings
from django.db import models, transaction
from django.db.models.functions import Now
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from main import bells, endings, queues
from main.channel import Theirs, announce_start
from main.checkpoints import Checkpoint, CheckpointBlob, CheckpointWrite
from main.database import clock, fetch
from main.events import Entry as EntryView
from main.events import ErrorDetail, Event, EventId, Snapshot, bounded, fold
from main.journal import LOST, Entry, Fenced, Step
from main.queues import Priority
from main.registry import FLOW_REGISTRY, Flow
from main.run import page_address, step_name
from main.workers import WorkerBeat

# The models of this app, wherever they are written; Django looks for them here.
__all__ = ["Checkpoint", "CheckpointBlob", "CheckpointWrite", "Entry", "Execution", "Step", "WorkerBeat"]

# Seconds a claim holds without a heartbeat.
LEASE = 15
# How many leases may run out before the execution is taken for the cause.
MAX_CRASHES = queues.SUSPECT + 1

CANCELLED = ErrorDetail(type="cancelled", message="The execution was cancelled.", retryable=False)

# How many executions a sweep ends for one reason; the next sweep ends more.
ENDED_AT_ONCE = 500
# Seconds for which an Idempotency-Key gives what it started before.
IDEMPOTENCY_PERIOD = 24 * 3600


class KeyReusedError(Exception):
    """An Idempotency-Key came again within its period, with another request."""


class Claim(NamedTuple):
    """What a worker holds: an execution in one attempt."""

    id: uuid.UUID
    attempt: int


class Execution(models.Model):
    """One run of a flow with given inputs. Its id is the `task_id` that clients know."""

    class State(models.TextChoices):
        PENDING = "PENDING", _("pending")
        RUNNING = "RUNNING", _("running")
        SUCCESS = "SUCCESS", _("succeeded")
        FAILURE = "FAILURE", _("failed")
        CANCELLED = "CANCELLED", _("cancelled")

    FINAL: ClassVar[tuple[str, ...]] = (State.SUCCESS, State.FAILURE, State.CANCELLED)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    flow = models.CharField(_("flow"), max_length=200)
    kind = models.CharField(_("kind"), max_length=20)
    inputs = models.JSONField(_("inputs"), default=dict)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("owner"),
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="executions",
    )
    # An anonymous browser session, by the random id that it keeps.
    visitor = models.UUIDField(_("visitor"), null=True, blank=True)
    # Whose turns and limits count: the user's or the visitor's id.
    owner_key = models.UUIDField(default=queues.NOBODY, db_default=queues.NOBODY, editable=False)
    priority = models.CharField(
        _("priority"),
        max_length=10,
        choices=Priority.choices,
        default=Priority.NORMAL,
        db_default=Priority.NORMAL,
    )
    # What was handed back has -1, and goes before everybody else's.
    turn = models.BigIntegerField(_("turn"), default=0, db_default=0)
    # Until when it may wait for its first claim, which clears it.
    expires_at = models.DateTimeField(_("expires"), null=True, blank=True)
    idempotency_key = models.CharField(max_length=255, null=True, editable=False)  # noqa: DJ001 unique, or none
    request_hash = models.CharField(max_length=64, blank=True, db_default="", editable=False)
    # What this one was started from again.
    origin = models.ForeignKey(
        "self",
        verbose_name=_("run again from"),
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="runs_again",
    )
    # The first of those that this one continues with their finished steps; effects are known to the world by its id.
    effect_scope = models.UUIDField(null=True, editable=False)
    # When its dead letter was requeued or dropped.
    settled_at = models.DateTimeField(_("settled"), null=True, blank=True)
    state = models.CharField(_("state"), max_length=10, choices=State.choices, default=State.PENDING)
    attempt = models.PositiveIntegerField(_("attempt"), default=0)
    crashes = models.PositiveSmallIntegerField(_("crashes"), default=0)
    worker = models.CharField(_("worker"), max_length=200, blank=True)
    lease_until = models.DateTimeField(_("lease until"), null=True, blank=True)
    time_limit = models.PositiveIntegerField(_("time limit in seconds"))
    deadline = models.DateTimeField(_("deadline"), null=True, blank=True)
    created_at = models.DateTimeField(_("created"), db_default=Now())
    started_at = models.DateTimeField(_("started"), null=True, blank=True)
    finished_at = models.DateTimeField(_("finished"), null=True, blank=True)
    result = models.JSONField(_("result"), null=True, blank=True)
    error = models.JSONField(_("error"), null=True, blank=True)
    usage = models.JSONField(_("usage"), default=dict, blank=True)
    chat_model = models.CharField(_("chat model"), max_length=200, blank=True)
    # Whether its owner asked to be told when it ends; by whom and how is not main's business.
    notify = models.BooleanField(_("notify"), default=False, db_default=False)

    class Meta:
        verbose_name = _("execution")
        verbose_name_plural = _("executions")
        ordering = ("-created_at",)
        indexes = (
            models.Index(
                fields=("kind", "priority", "turn", "created_at"),
                condition=models.Q(state="PENDING"),
                name="execution_waiting",
            ),
            models.Index(
                fields=("kind", "priority", "owner_key", "turn"),
                condition=models.Q(state="PENDING"),
                name="execution_turns",
            ),
            models.Index(
                fields=("turn",),
                condition=models.Q(state="PENDING", crashes__gte=queues.SUSPECT),
                name="execution_suspects",
            ),
            models.Index(
                fields=("expires_at",),
                condition=models.Q(state="PENDING", expires_at__isnull=False),
                name="execution_expiry",
            ),
            models.Index(
                fields=("lease_until",), condition=models.Q(state="RUNNING"), name="execution_leases"
            ),
            models.Index(
                fields=("deadline",),
                condition=models.Q(state__in=("PENDING", "RUNNING"), deadline__isnull=False),
                name="execution_deadlines",
            ),
            models.Index(
                fields=("-finished_at",),
                condition=models.Q(state="FAILURE", settled_at__isnull=True),
                name="execution_dead_letters",
            ),
            models.Index(
                fields=("finished_at",),
                condition=models.Q(finished_at__isnull=False),
                name="execution_finished",
            ),
            models.Index(
                fields=(
                    "owner",
                    "-created_at",
                ),
                name="execution_owner",
            ),
            models.Index(
                fields=(
                    "visitor",
                    "-created_at",
                ),
                name="execution_visitor",
            ),
            models.Index(
                fields=(
                    "flow",
                    "-created_at",
                ),
                name="execution_flow",
            ),
            models.Index(fields=("-created_at",), name="execution_newest"),
        )
        constraints = (
            models.UniqueConstraint(
                fields=("owner_key", "idempotency_key"),
                condition=models.Q(idempotency_key__isnull=False),
                name="execution_once_per_key",
            ),
        )

    def __str__(self) -> str:
        return f"{self.flow} {self.id}"

    def get_absolute_url(self) -> str:
        return reverse("execution", args=[self.id])

    @property
    def title(self) -> str:
        flow = FLOW_REGISTRY.get(self.flow)
        return flow.title if flow else self.flow

    @property
    def is_final(self) -> bool:
        return self.state in self.FINAL

    @property
    def is_continued(self) -> bool:
        """Whether it began with the finished steps of the one that it was run again from."""
        return self.effect_scope is not None

    @property
    def is_new(self) -> bool:
        """Whether nothing is stored of it but its row: nobody has begun it."""
        return self.attempt == 0 and not self.is_continued

    @property
    def awaits_its_beginning(self) -> bool:
        """Whether it is new and has not ended either: to whoever watches it, it is empty."""
        return self.is_new and not self.is_final

    @property
    def theirs(self) -> Theirs | None:
        """Whose stream tells of it; None where nobody is its owner."""
        return Theirs(str(self.owner_key), self.flow) if self.owner_key != queues.NOBODY else None

    @property
    def duration(self) -> float | None:
        """Seconds from the first claim to the end; None before the end, and for what never began."""
        if self.started_at is None or self.finished_at is None:
            return None
        return (self.finished_at - self.started_at).total_seconds()

    # The verbs

    @classmethod
    def start(
        cls,
        flow: Flow,
        inputs: dict[str, Any],
        *,
        owner_id: uuid.UUID | None = None,
        visitor: uuid.UUID | None = None,
        priority: str = "",
        **fields: Any,
    ) -> "Execution":
        """Store an execution of validated inputs and ring for a worker once it is committed.

        Raises IntegrityError for an `idempotency_key` that this owner's rows have already.
        """
        priority = priority or flow.priority
        owner_key = _owner_key(owner_id, visitor)
        execution = cls.objects.create(
            flow=flow.name,
            kind=flow.kind,
            inputs=inputs,
            owner_id=owner_id,
            visitor=visitor,
            owner_key=owner_key,
            priority=priority,
            turn=queues.next_turn(flow.kind, priority, owner_key),
            expires_at=clock() + timedelta(seconds=queues.WAITING_LIMITS[priority]),
            time_limit=flow.time_limit or settings.EXECUTION_TIME_LIMIT,
            **fields,
        )
        transaction.on_commit(partial(bells.ring, flow.kind, execution.announce))
        return execution

    def announce(self) -> None:
        """Tell its owner that it was started."""
        if self.theirs:
            announce_start(str(self.id), self.theirs, Snapshot())

    @classmethod
    def started_with(
        cls, owner_id: uuid.UUID | None, visitor: uuid.UUID | None, key: str, request_hash: str
    ) -> "Execution | None":
        """Return what this owner started with an Idempotency-Key within its period, and forget older ones.

        Raises KeyReusedError where that was another request.
        """
        found = cls.objects.filter(owner_key=_owner_key(owner_id, visitor), idempotency_key=key)
        found.filter(created_at__lte=clock() - timedelta(seconds=IDEMPOTENCY_PERIOD)).update(
            idempotency_key=None
        )
        execution = found.first()
        if execution and execution.request_hash != request_hash:
            raise KeyReusedError
        return execution

    @classmethod
    def claim_next(cls, kind: str, worker: str, draw: float | None = None) -> "Execution | None":
        """Take the waiting execution of a kind whose turn it is, or None. Two workers never get the same one.

        `draw` is the lot that decides between priorities, 0 to 1; by chance where it is left out.
        """
        draw = random.random() if draw is None else draw  # noqa: S311
        most_by_flow = {flow.name: flow.concurrency for flow in FLOW_REGISTRY.values() if flow.concurrency}
        if not most_by_flow and not settings.OWNER_CONCURRENCY:
            return cls._claim(kind, worker, queues.parameters(kind, draw, [], []))
        with transaction.atomic():
            full = _full(most_by_flow, settings.OWNER_CONCURRENCY)
            return cls._claim(kind, worker, queues.parameters(kind, draw, *full))

    @classmethod
    def _claim(cls, kind: str, worker: str, asked: dict[str, Any]) -> "Execution | None":
        claimed = cls.objects.raw(
            f"""
            UPDATE main_execution SET
                state = 'RUNNING', attempt = attempt + 1, worker = %(worker)s, expires_at = NULL,
                lease_until = clock_timestamp() + %(lease)s * interval '1 second',
                started_at = coalesce(started_at, clock_timestamp()),
                deadline = coalesce(deadline, clock_timestamp() + time_limit * interval '1 second')
            WHERE id = {queues.next_id(kind)}
            RETURNING *
            """,  # noqa: S608 — our own text
            {"worker": worker, "lease": LEASE, **asked},
        )
        return next(iter(claimed), None)

    @classmethod
    def renew_leases(cls, claims: Iterable[Claim]) -> set[Claim]:
        """Renew the leases of what a worker holds, in one UPDATE; return what is still its own.

        A row that is locked, such as by a long record of a step, holds up none of the others: it is still its own,
        nobody can take it back meanwhile, and its turn comes with the next heartbeat.
        """
        return _kept(
            """
            WITH held AS (
                SELECT * FROM unnest(%(ids)s::uuid[], %(attempts)s::int[]) AS held(id, attempt)
            ), free AS (
                SELECT id FROM main_execution JOIN held USING (id, attempt) WHERE state = 'RUNNING'
                FOR NO KEY UPDATE OF main_execution SKIP LOCKED
            ), renewed AS (
                UPDATE main_execution SET lease_until = clock_timestamp() + %(lease)s * interval '1 second'
                FROM free WHERE main_execution.id = free.id
            )
            SELECT id, attempt FROM main_execution JOIN held USING (id, attempt) WHERE state = 'RUNNING'
            """,
            claims,
        )

    @classmethod
    def still_held(cls, claims: Iterable[Claim]) -> set[Claim]:
        """Return what of a worker's claims is still its own."""
        return _kept(
            """
            SELECT id, attempt FROM main_execution
            JOIN unnest(%(ids)s::uuid[], %(attempts)s::int[]) AS held(id, attempt) USING (id, attempt)
            WHERE state = 'RUNNING'
            """,
            claims,
        )

    @contextmanager
    def fence(self) -> Iterator[None]:
        """A transaction in which this attempt is sure to be the one that may write; raises Fenced otherwise."""
        with transaction.atomic():
            if not fetch(
                "SELECT 1 FROM main_execution WHERE id = %s AND attempt = %s AND state = 'RUNNING' FOR SHARE",
                [self.id, self.attempt],
            ):
                raise Fenced(LOST)
            yield

    def finish(
        self,
        *,
        result: Any = None,
        error: ErrorDetail | None = None,
        usage: dict[str, int] | None = None,
        chat_model: str = "",
        entries: Iterable[tuple[int, EntryView]] = (),
    ) -> None:
        """End this attempt's execution, with its last entries, in one transaction; raises Fenced."""
        with transaction.atomic():
            # The UPDATE is its own fence: it happens only for the attempt that may still write.
            if not self._end(
                models.Q(attempt=self.attempt, state=self.State.RUNNING),
                self.State.FAILURE if error else self.State.SUCCESS,
                result=result,
                error=error,
                usage=usage or {},
                chat_model=chat_model,
            ):
                raise Fenced(LOST)
            Entry.keep(self, entries)
            endings.tell([self])

    def cancel(self) -> bool:
        """End an execution that has not ended yet; say whether this call did it."""
        with transaction.atomic():
            ended = self._end(self._unended(), self.State.CANCELLED, error=CANCELLED)
            endings.tell([self] if ended else [])
        return ended

    def ask_to_notify(self, notify: bool) -> bool:
        """Note whether its owner wants to be told of the end; False where it has ended already."""
        return bool(Execution.objects.filter(self._unended(), id=self.id).update(notify=notify))

    @classmethod
    def _unended(cls) -> models.Q:
        return ~models.Q(state__in=cls.FINAL)

    @classmethod
    def purge(cls, kind: str, priority: str, most: int) -> "list[Execution]":
        """Cancel what waits in a queue, at most so many; return what watchers of it have to be told.

        What a worker takes at the same moment is left to it.
        """
        with transaction.atomic():
            cancelled = cls._purge(kind, priority, most)
            endings.tell(cancelled)
        return cancelled

    @classmethod
    def _purge(cls, kind: str, priority: str, most: int) -> "list[Execution]":
        cancelled = cls.objects.raw(
            """
            WITH due AS (
                SELECT id FROM main_execution
                WHERE state = 'PENDING' AND kind = %(kind)s AND priority = %(priority)s
                LIMIT %(most)s FOR UPDATE SKIP LOCKED
            )
            UPDATE main_execution SET state = 'CANCELLED', finished_at = clock_timestamp(), error = %(error)s::jsonb
            FROM due WHERE main_execution.id = due.id
            RETURNING main_execution.id, flow, owner_id, owner_key, attempt, effect_scope, state, error
            """,
            {"kind": kind, "priority": priority, "most": most, "error": orjson.dumps(CANCELLED).decode()},
        )
        return list(cancelled)

    def hand_back(self) -> bool:
        """Give this attempt's execution back to the queue; say whether it was still its own."""
        return bool(_hand_back("id = %s AND attempt = %s", [self.id, self.attempt]))

    @classmethod
    def hand_back_all(cls, worker: str) -> int:
        """Give back whatever a worker process and its children hold; return how many that was.

        `worker` is the name of a process with a slash behind it, or what the names of a parent's children begin with.
        """
        return _hand_back("starts_with(worker || '/', %s)", [worker])

    @classmethod
    def is_any_held_by(cls, worker: str) -> bool:
        """Say whether a worker process or one of its children holds an execution."""
        return cls.objects.filter(state=cls.State.RUNNING, worker__startswith=worker).exists()

    @classmethod
    def take_back(cls) -> list[str]:
        """Put executions back whose lease ran out, and count the crash; return their kinds."""
        rows = fetch(
            """
            UPDATE main_execution SET
                state = 'PENDING', crashes = crashes + 1, lease_until = NULL, worker = '', turn = -1
            WHERE id IN (
                SELECT id FROM main_execution
                WHERE state = 'RUNNING' AND lease_until < clock_timestamp() AND crashes + 1 < %s
                FOR UPDATE SKIP LOCKED
            )
            RETURNING kind
            """,
            [MAX_CRASHES],
        )
        return [row[0] for row in rows]

    @classmethod
    def end_poisonous(cls) -> "list[Execution]":
        """End executions whose lease ran out once too often; return them."""
        error = ErrorDetail(
            type="poison",
            message=f"The execution was stopped: its worker died {MAX_CRASHES} times while running it.",
            retryable=False,
        )
        overdue = models.Q(state=cls.State.RUNNING, lease_until__lt=clock(), crashes__gte=MAX_CRASHES - 1)
        return cls._end_all(overdue, error, crashes=models.F("crashes") + 1)

    @classmethod
    def end_overdue(cls) -> "list[Execution]":
        """End executions that took longer than they may, also those that wait to be taken up again; return them."""
        error = ErrorDetail(
            type="timeout", message="The execution took longer than it may and was stopped.", retryable=False
        )
        unended = (cls.State.PENDING, cls.State.RUNNING)
        return cls._end_all(models.Q(state__in=unended, deadline__lt=clock()), error)

    @classmethod
    def end_expired(cls) -> "list[Execution]":
        """End executions that waited for their first claim for too long; return them."""
        error = ErrorDetail(
            type="expired",
            message="The execution waited for a worker longer than it may, and was not run.",
            retryable=True,
        )
        return cls._end_all(models.Q(state=cls.State.PENDING, expires_at__lt=clock()), error)

    def settle(self) -> bool:
        """Take a failed execution off the dead letters; say whether this call did it."""
        failed = Execution.objects.filter(id=self.id, state=self.State.FAILURE, settled_at=None)
        return bool(failed.update(settled_at=clock()))

    @classmethod
    def dead_letters(cls) -> "models.QuerySet[Execution]":
        """Return what failed or expired and was neither run again nor dropped since; the newest first."""
        return cls.objects.filter(state=cls.State.FAILURE, settled_at=None).order_by("-finished_at")

    @classmethod
    def prune(cls, days: float, most: int) -> int:
        """Delete the oldest of what ended more than some days ago, at most so many; return how many."""
        old = cls.objects.filter(finished_at__lt=clock() - timedelta(days=days)).order_by("finished_at")
        ids = list(old.values_list("id", flat=True)[:most])
        cls.objects.filter(id__in=ids).only("id").delete()  # what it holds need not be read for that
        return len(ids)

    @classmethod
    def waiting(cls, older_than: float = 0.0) -> dict[str, int]:
        """Count by the kind of worker that takes it what has waited for more than some seconds."""
        rows = fetch(
            "SELECT CASE WHEN kind = %s AND crashes >= %s THEN %s ELSE kind END AS worker_kind, count(*) "
            "FROM main_execution WHERE state = 'PENDING' "
            "AND created_at < clock_timestamp() - %s * interval '1 second' GROUP BY worker_kind",
            [queues.TOGETHER, queues.SUSPECT, queues.ALONE, older_than],
        )
        return dict(rows)

    @classmethod
    def _end_all(cls, condition: models.Q, error: ErrorDetail, **changes: Any) -> "list[Execution]":
        with transaction.atomic():
            # A row that somebody has locked is left for the next time: one sweeper waits for it, and all would.
            due = cls.objects.filter(condition).defer("inputs", "result").select_for_update(skip_locked=True)
            ended: list[Execution] = [
                each
                for each in due[:ENDED_AT_ONCE]
                if each._end(condition, cls.State.FAILURE, error=error, **changes)
            ]
            endings.tell(ended)
        return ended

    def _end(self, condition: models.Q, state: str, **changes: Any) -> bool:
        """The UPDATE behind every end of one execution: it happens where the condition still holds."""
        changed = Execution.objects.filter(condition, id=self.id).update(
            state=state, finished_at=clock(), lease_until=None, **changes
        )
        return bool(changed)

    @classmethod
    def ended_of(cls, ids: Iterable[str]) -> list[str]:
        """Return which of many executions have ended: one cheap question about thousands, asked again and again."""
        rows = fetch(
            "SELECT id::text FROM main_execution WHERE id = ANY(%s::uuid[]) AND state = ANY(%s)",
            [list(ids), list(cls.FINAL)],
        )
        return [row[0] for row in rows]

    # What it adds up to

    def snapshot(self) -> Snapshot:
        """Return what is stored as a snapshot: all of a finished execution, the finished steps of a running one."""
        steps = list(self.steps.only(*Step.SHOWN))
        return self._folded(steps, list(self.entries.all()))  # after the steps: each has its own entries

    @classmethod
    def snapshots(cls, executions: "models.QuerySet[Execution]") -> dict[str, Snapshot]:
        """Return by id the snapshots of many, with three queries in all."""
        found = list(executions.only("state", "attempt", "error", "result"))
        steps, entries = defaultdict(list), defaultdict(list)
        for step in Step.objects.filter(execution__in=found).only(*Step.SHOWN):
            steps[step.execution_id].append(step)
        for entry in Entry.objects.filter(execution__in=found):
            entries[entry.execution_id].append(entry)
        return {str(each.id): each._folded(steps[each.id], entries[each.id]) for each in found}

    def _folded(self, steps: "list[Step]", entries: "list[Entry]") -> Snapshot:
        snapshot = Snapshot(url=page_address(str(self.id)))
        for number, event in enumerate(self._events(steps, entries), start=1):
            fold(snapshot, {"id": str(EventId(0, number)), **event})
        snapshot.id = EventId(self.attempt, 0)
        return snapshot

    def _events(self, steps: "list[Step]", entries: "list[Entry]") -> Iterator[Event]:
        if self.state != self.State.PENDING:
            yield {"type": "state", "state": "PROGRESS", "status": "Running"}
        elif self.attempt:  # it waits to be taken up again
            yield {"type": "state", "state": "PROGRESS", "status": "Waiting for a worker"}
        for entry in entries:
            yield entry.event()
        for step in steps:
            yield {"type": "step", "step": step.key, "name": step.name, "state": "done"}
            yield {"type": "progress", "progress": step.progress}
        # Steps that left entries and no result failed, or were under way at the end.
        finished = {step.key for step in steps} | {""}
        for key in dict.fromkeys(entry.step for entry in entries if entry.step not in finished):
            yield {"type": "step", "step": key, "name": step_name(key), "state": "running"}
        if self.is_final:
            yield self.result_event()

    def result_event(self) -> Event:
        """Return the event that ends the execution. To the contract, CANCELLED is a FAILURE."""
        if self.state == self.State.SUCCESS:
            result = bounded(self.result, page_address(str(self.id)))
            return {"type": "result", "state": "SUCCESS", "status": "Done", "final_result": result}
        error = cast(ErrorDetail, self.error)
        return {"type": "result", "state": "FAILURE", "status": error["message"], "error": error}

    @property
    def contract_state(self) -> str:
        """PENDING, PROGRESS, SUCCESS or FAILURE, as `/task-status/` shows it: what has begun makes progress."""
        if self.state == self.State.PENDING and self.attempt:
            return "PROGRESS"
        names = {self.State.RUNNING: "PROGRESS", self.State.CANCELLED: "FAILURE"}
        return names.get(self.State(self.state), self.state)


def _owner_key(owner_id: uuid.UUID | None, visitor: uuid.UUID | None) -> uuid.UUID:
    return owner_id or visitor or queues.NOBODY


def _kept(sql: str, claims: Iterable[Claim]) -> set[Claim]:
    held = list(claims)
    ids, attempts = [claim.id for claim in held], [claim.attempt for claim in held]
    return {Claim(*row) for row in fetch(sql, {"ids": ids, "attempts": attempts, "lease": LEASE})}


def _full(most_by_flow: dict[str, int], most_by_owner: int) -> tuple[list[str], list[uuid.UUID]]:
    """Return the flows and the owners that run as much at once as they may.

    Claims that have limits to count wait for each other, or two of them could take the last place.
    """
    fetch(
        "SELECT pg_advisory_xact_lock(%s)", [queues.LIMITS_LOCK]
    )  # a statement of its own: the next sees more
    flows = (
        fetch(queues.FULL_FLOWS, [list(most_by_flow), list(most_by_flow.values())]) if most_by_flow else []
    )
    owners = fetch(queues.FULL_OWNERS, [most_by_owner]) if most_by_owner else []
    return [row[0] for row in flows], [row[0] for row in owners]


def _hand_back(condition: str, parameters: list[Any]) -> int:
    rows = fetch(
        "UPDATE main_execution SET state = 'PENDING', lease_until = NULL, worker = '', turn = -1 "  # noqa: S608 — two own texts
        f"WHERE state = 'RUNNING' AND {condition} RETURNING 1",
        parameters,
    )
    return len(rows)


def steps_of_last_success(flow: str) -> int:
    """Return how many steps the flow's last successful execution had, or 0."""
    last = Execution.objects.filter(flow=flow, state=Execution.State.SUCCESS).order_by("-created_at").first()
    return last.steps.count() if last else 0
