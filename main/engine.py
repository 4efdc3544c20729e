"""Execute: from a claim to an end.

A bell wakes `work(kind)`, which claims and executes until nothing waits. What a flow does in between is the
flow's; the engine gives it its run, keeps its steps, and writes down how it ended.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db.models import Max

from main import bells, values
from main.channel import Publisher, announce_end, history
from main.chat_models import chat_model, label
from main.confinement import Confinement
from main.database import DATABASE_AWAY, with_database
from main.errors import FlowError, classify_error
from main.events import Entry as EntryView
from main.events import ErrorDetail, Snapshot, merge
from main.journal import Fenced
from main.leases import heart, worker_name
from main.models import Claim, Entry, Execution, Step, steps_of_last_success
from main.registry import Flow, UnknownFlowError, get_flow
from main.run import MAX_MESSAGE_LENGTH, NODE, Recorded, Run, StepRecord, Stopped, page_address

if TYPE_CHECKING:
    from main.checkpointer import Checkpointer

logger = logging.getLogger(__name__)

# Seconds for which a database that is away is waited for with a hand-back: a lease that runs out is a crash. There
# is nothing else to do without it.
HAND_BACK_PATIENCE = 3600.0
# Why runs stop when their worker does.
CLOSING = "The worker is stopping."
# Characters of the names of the models that an execution asked.
MAX_MODELS_LENGTH = 200


class Workplace:
    """How much this process runs at once, and whether it still takes work. Who works is known by their thread."""

    def __init__(self, kind: str = "", capacity: int = 1) -> None:
        self.kind = kind
        self.capacity = capacity
        self.closing = False
        self.confinement: Confinement | None = None
        """What confines the runs of this process, where it runs one at a time."""
        self._busy: set[int] = set()
        self._stuck: set[int] = set()
        self._lock = threading.Lock()

    @property
    def free(self) -> int:
        return 0 if self.closing else self.capacity - len(self._busy)

    @property
    def is_busy(self) -> bool:
        """Whether somebody works, or is about to claim: before a claim is seen anywhere else, it is seen here."""
        return bool(self._busy)

    @property
    def stuck(self) -> int:
        """How many threads were given up and have not ended since."""
        return len(self._stuck)

    def enter(self) -> bool:
        """Take a place; say whether there was one."""
        with self._lock:
            if self.free <= 0:
                return False
            self._busy.add(threading.get_ident())
            return True

    def leave(self) -> None:
        with self._lock:
            self._busy.discard(threading.get_ident())
            self._stuck.discard(threading.get_ident())

    def give_up(self, thread: int) -> None:
        """Free the place of a thread that does not stop. It cannot be ended; it takes no more work."""
        with self._lock:
            if thread in self._busy:
                self._busy.remove(thread)
                self._stuck.add(thread)

    @property
    def may_go_on(self) -> bool:
        """Whether the thread that asks still has its place, and may take more work."""
        return not self.closing and threading.get_ident() in self._busy


workplace = Workplace()


def close() -> None:
    """Take no more work, and end every run where its next step would begin."""
    workplace.closing = True
    for run in heart.running:
        run.stop_at_step(CLOSING)


def work(kind: str) -> int:
    """Claim and execute until nothing of this kind waits; return how many were executed.

    Where all places are taken it returns at once: who has one goes on claiming.
    """
    if not workplace.enter():
        return 0
    executed = 0
    try:
        while workplace.may_go_on and (
            execution := with_database(partial(Execution.claim_next, kind, worker_name()))
        ):
            execute(execution)
            executed += 1
            if workplace.confinement:
                workplace.confinement.replace_if_worn()
    finally:
        workplace.leave()
    return executed


def execute(execution: Execution) -> None:
    """Run one attempt at an execution that was just claimed, and write down how it ended."""
    logger.info("execution %s: %s, attempt %d", execution.id, execution.flow, execution.attempt)
    try:
        flow = get_flow(execution.flow)
    except UnknownFlowError as error:
        _finish_unknown(execution, str(error))
        return
    publisher = Publisher(
        str(execution.id),
        execution.attempt,
        Snapshot(url=page_address(str(execution.id))),
        on_superseded=lambda: run.stop("Superseded."),
        theirs=execution.theirs,
    )
    journal = DatabaseJournal(execution)
    run = Run(
        str(execution.id),
        journal=journal,
        channel=publisher,
        attempt=execution.attempt,
        expected_steps=flow.steps or (lambda: with_database(partial(steps_of_last_success, flow.name), run)),
        step_retries=flow.step_retries,
        effect_scope=str(execution.effect_scope or ""),
    )
    journal.run = run
    with heart.holding(execution, run):
        if workplace.closing:  # since it was claimed: `close` may not have seen it
            run.stop_at_step(CLOSING)
        _run_to_its_end(flow, execution, journal, publisher)


class DatabaseJournal:
    """Keeps the finished steps of an execution in PostgreSQL, behind the fence of its attempt."""

    run: Run

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._known: dict[str, Recorded] = {}

    def read(self) -> None:
        """Read all that earlier attempts kept, once."""
        self._known = with_database(self._load, self.run)

    def recall(self, key: str) -> Recorded | None:
        return self._known.get(key)

    def record(self, step: StepRecord) -> None:
        with_database(partial(Step.record, self._execution, step), self.run)
        # A step whose parent is tried again is found here, as it would be by a later attempt.
        self._known[step.key] = Recorded(step.fingerprint, step.result)

    def keep_entry(self, position: int, entry: EntryView) -> None:
        def keep() -> None:
            with self._execution.fence():
                Entry.keep(self._execution, [(position, entry)])

        with_database(keep, self.run)

    def is_open(self) -> bool:
        claim = Claim(self._execution.id, self._execution.attempt)
        try:
            return bool(with_database(partial(Execution.still_held, [claim])))
        except DATABASE_AWAY:  # for how long that is borne the heart knows
            return True

    def nodes_in(self, key: str) -> dict[str, int]:
        return {
            node: recorded.position
            for node, recorded in self._known.items()
            if recorded.fingerprint == NODE and node.rpartition("/")[0] == key
        }

    def checkpointer(self, run: Run) -> "Checkpointer":
        from main.checkpointer import Checkpointer  # LangGraph is large, and most flows have no graph

        return Checkpointer(self._execution, run)

    def _load(self) -> dict[str, Recorded]:
        positions = dict(self._execution.entries.order_by().values_list("step").annotate(Max("position")))
        known, position = {}, 0
        for step in self._execution.steps.all():
            position = max(position, positions.get(step.key, 0))
            known[step.key] = Recorded(step.fingerprint, step.result, position)
        return known


def _run_to_its_end(flow: Flow, execution: Execution, journal: DatabaseJournal, publisher: Publisher) -> None:
    run = journal.run
    try:
        if execution.attempt > 1 or execution.is_continued:
            _go_on(execution, journal, publisher)
        publisher.send({"type": "state", "state": "PROGRESS", "status": "Running"})
        fail = partial(_failed, execution, run, publisher)
        with heart.in_flow(execution), _confined(run, fail):
            result = _result(flow, run, execution.inputs)
        _finish(execution, run, publisher, result=result)
    except Stopped as stop:
        _stopped(execution, publisher, str(stop))
    except BaseException as error:  # noqa: BLE001 whatever a flow raises is how its execution ended
        _failed(execution, run, publisher, error)


def _go_on(execution: Execution, journal: DatabaseJournal, publisher: Publisher) -> None:
    """Take up what earlier attempts did and showed. Redis may know less of it than PostgreSQL, or nothing.

    Then a watcher may have been shown that a step began of which nobody knows here.
    """
    journal.read()
    known = with_database(execution.snapshot, journal.run)
    shown = history(str(execution.id))
    if shown and not shown.is_final:
        known = merge(shown, known)
    begun = frozenset(key for key, step in known.steps.items() if step["state"] == "running")
    is_forgotten = shown is None and execution.attempt > 1
    journal.run.go_on(known.progress, None if is_forgotten else begun)
    publisher.snapshot = known
    publisher.resume()


def _confined(run: Run, fail: Callable[[FlowError], None]) -> AbstractContextManager[None]:
    return workplace.confinement.around(run, fail) if workplace.confinement else nullcontext()


def _result(flow: Flow, run: Run, inputs: dict[str, Any]) -> Any:
    """Call the flow; where it returns a chain, run that with the inputs. Return the result as plain JSON."""
    returned = flow.call(run, chat_model, inputs)
    if callable(getattr(returned, "invoke", None)):
        returned = run.step(flow.title, returned, flow.arguments(inputs))
    run.check()
    return values.final(returned)


def _finish(execution: Execution, run: Run, publisher: Publisher, **outcome: Any) -> None:
    finish = partial(
        execution.finish,
        **outcome,
        usage=run.usage,
        chat_model=", ".join(map(label, run.models))[:MAX_MODELS_LENGTH],
        entries=run.unfiled_entries(),
    )
    with_database(finish, run)
    ended = Execution(id=execution.id, state="FAILURE" if outcome.get("error") else "SUCCESS", **outcome)
    publisher.close(ended.result_event())


def _failed(execution: Execution, run: Run, publisher: Publisher, error: BaseException) -> None:
    if (
        workplace.closing
    ):  # the worker may end under the flow's hands; what it does itself comes again elsewhere
        _stopped(execution, publisher, CLOSING)
        return
    failure = classify_error(error)
    # The trace is for the server's log alone.
    logger.warning("execution %s failed: %s", execution.id, failure.type, exc_info=error)
    message = values.clean_text(failure.message)[:MAX_MESSAGE_LENGTH]
    detail = ErrorDetail(type=failure.type, message=message, retryable=failure.retryable)
    try:
        _finish(execution, run, publisher, error=detail)
    except Stopped as stop:
        _stopped(execution, publisher, str(stop))


def _stopped(execution: Execution, publisher: Publisher, reason: str) -> None:
    """A stop from outside: where the execution is still this attempt's, another worker shall go on with it."""
    logger.info("execution %s: attempt %d stopped: %s", execution.id, execution.attempt, reason)
    publisher.leave()
    try:
        if with_database(execution.hand_back, patience=HAND_BACK_PATIENCE):
            bells.ring(workplace.kind)  # not the execution's: workers of another kind take its suspects
        else:
            with_database(partial(_announce_end, execution))
    except DATABASE_AWAY:
        logger.info("execution %s: its lease will run out by itself", execution.id)


def _announce_end(execution: Execution) -> None:
    """Tell how this attempt ended where its worker did not learn of it: the answer to its commit was lost."""
    ended = Execution.objects.filter(
        id=execution.id, attempt=execution.attempt, state__in=Execution.FINAL
    ).first()
    if ended:
        announce_end(str(ended.id), ended.attempt, ended.result_event(), ended.snapshot(), ended.theirs)


def _finish_unknown(execution: Execution, sentence: str) -> None:
    error = ErrorDetail(type="unknown_flow", message=sentence, retryable=False)
    try:
        with_database(partial(execution.finish, error=error), patience=HAND_BACK_PATIENCE)
    except Fenced:
        return
    ended = Execution(id=execution.id, state="FAILURE", error=error)
    snapshot = Snapshot(url=page_address(str(execution.id)))
    publisher = Publisher(str(execution.id), execution.attempt, snapshot, lambda: None, execution.theirs)
    publisher.close(ended.result_event())
