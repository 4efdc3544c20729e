"""From a claim to an end, in this process, with the real PostgreSQL and Redis."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from django.db import OperationalError, ProgrammingError, connection, transaction
from django.test.utils import CaptureQueriesContext

from config.tests.waiting import wait_until
from main import bells, channel, database, descendants, engine, leases, sweeper, tasks
from main.channel import history, meta_key, redis_client, stream_key
from main.database import with_database
from main.demo_model import DemoChatModel
from main.engine import Workplace, execute, work
from main.events import Entry as EntryView
from main.events import Event
from main.leases import Heart, heart, worker_name
from main.models import LEASE, Claim, Entry, Execution, Step, WorkerBeat
from main.registry import load_flows
from main.run import Run, Stopped
from main.tests import rows
from main.tests.executing import claim, executed, fresh, waiting
from main.tests.memory import Channel, Journal
from main.tests.rows import KIND, in_thread, let_expire, wait_for_lock, without_sweepers

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def alone(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep a running platform's sweepers away; this process elects its own."""
    load_flows(["main.flows", "main.tests.engine_flows"])
    monkeypatch.setattr(sweeper, "LOCK", sweeper.LOCK + 1)
    monkeypatch.setattr(sweeper, "_swept_at", None)
    monkeypatch.setattr(sweeper, "_patient_until", 0.0)
    monkeypatch.setattr(channel, "_silent_until", 0.0)
    with without_sweepers():
        yield


@pytest.fixture(autouse=True)
def workplace(monkeypatch: pytest.MonkeyPatch) -> Workplace:
    place = Workplace(KIND, capacity=2)
    monkeypatch.setattr(engine, "workplace", place)
    monkeypatch.setattr(sweeper, "workplace", place)
    return place


def streamed(execution: Execution) -> list[Event]:
    found: Any = redis_client().xrange(stream_key(str(execution.id)))
    return [orjson.loads(fields[b"e"]) for _, fields in found]


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


def calls(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class Gate:
    """An execution of `gate_flow` that waits in its second step, in a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.execution = waiting("gate_flow", folder=str(folder))
        self.thread = self.attempt()

    def attempt(self) -> "Future[None]":
        """Claim it and run it in a thread, up to its gate."""
        before = len(list(self.folder.glob("wait-*")))
        attempt = in_thread(lambda: execute(claim()))
        wait_until(lambda: len(list(self.folder.glob("wait-*"))) > before and self._is_told())
        return attempt

    def _is_told(self) -> bool:
        known = history(str(self.execution.id))
        return known is not None and ("Wait", 1) in known.entries and known.writing == "Wait"

    @property
    def run(self) -> Run:
        return next(run for run in heart.running if run.id == str(self.execution.id))

    def open(self) -> None:
        (self.folder / "open").touch()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path)
    yield gate
    gate.open()
    gate.thread.exception(20)
    wait_until(lambda: not heart.running)


# How an execution ends


def test_a_success_has_its_result_steps_and_entries() -> None:
    execution = executed("count_flow", to=4)
    assert (execution.state, execution.result, execution.attempt) == ("SUCCESS", 6, 1)
    assert [(step.key, step.result, step.progress) for step in execution.steps.all()] == [
        ("List", [0, 1, 2, 3], 50),
        ("Sum", 6, 99),
    ]
    assert [str(entry) for entry in execution.entries.all()] == ["▶ List", "▶ Sum"]


def test_watchers_and_the_database_tell_the_same(tmp_path: Path) -> None:
    (tmp_path / "open").touch()
    execution = executed("gate_flow", folder=str(tmp_path))
    known = history(str(execution.id))
    assert known
    assert known.public() == execution.snapshot().public()
    assert known.public()["details"]["final_result"] == "first-1 wait-1"
    assert [event["id"] for event in streamed(execution)] == [
        f"1-{n}" for n in range(1, len(streamed(execution)) + 1)
    ]


def test_a_failure_says_a_sentence_and_keeps_secrets() -> None:
    execution = executed("secret_flow")
    assert execution.state == "FAILURE"
    assert execution.error == {
        "type": "error",
        "message": "The flow failed because of an error in its code. The server's log has the details.",
        "retryable": False,
    }
    assert "hunter2" not in str([execution.snapshot().dump(), streamed(execution), rows.everything()])
    assert streamed(execution)[-1]["status"] == execution.error["message"]


def test_a_failure_keeps_what_was_said_before_it() -> None:
    execution = executed("flaky_flow", failures=9)
    assert execution.error
    assert (execution.error["type"], execution.error["retryable"]) == ("unavailable", True)
    assert [str(entry) for entry in execution.entries.all()] == [
        "↻ The oracle is asleep. Trying again in 1 s (1 of 2).",
        "↻ The oracle is asleep. Trying again in 1 s (2 of 2).",
    ]
    assert execution.steps.count() == 0
    known = history(str(execution.id))
    assert known
    assert known.public() == execution.snapshot().public()


def test_a_step_that_is_tried_again_succeeds() -> None:
    execution = executed("flaky_flow", failures=2)
    assert (execution.state, execution.result) == ("SUCCESS", "an answer")
    assert execution.steps.get().tries == 3


def test_a_flow_that_nobody_knows_is_a_failure() -> None:
    execution = rows.waiting("gone_flow")
    execute(claim())
    ended = fresh(execution)
    assert ended.state == "FAILURE"
    assert ended.error
    assert (ended.error["type"], ended.error["retryable"]) == ("unknown_flow", False)
    assert ended.error["message"].startswith("There is no flow “gone_flow”.")
    assert streamed(execution)[-1]["error"] == ended.error


def test_inputs_that_fit_no_more_are_a_failure() -> None:
    execution = rows.waiting("count_flow", inputs={"to": "many"})
    execute(claim())
    assert fresh(execution).state == "FAILURE"


@pytest.mark.parametrize("how", ["cancel", "exit", "interrupt"])
def test_whatever_a_flow_raises_is_how_its_execution_ends(how: str) -> None:
    execution = executed("leaving_flow", how=how)
    assert execution.error
    assert (execution.state, execution.attempt, execution.error["type"]) == ("FAILURE", 1, "error")
    assert [str(entry) for entry in execution.entries.all()] == ["▶ Leave", "Leaving"]


def test_a_result_that_cannot_be_kept_is_a_failure_that_says_why() -> None:
    execution = executed("odd_result_flow")
    assert execution.error
    assert execution.error["type"] == "result"
    assert "“Odd” returned something that cannot be kept: lock is not JSON" in execution.error["message"]
    assert [str(entry) for entry in execution.entries.all()] == ["▶ Odd"]


def test_what_models_used_is_counted(settings: Any) -> None:
    settings.CHAT_MODEL, settings.GEMINI_API_KEY, settings.DEMO_TOKEN_DELAY = "", "", 0.0
    execution = executed("chain_flow", question="tides")
    assert execution.state == "SUCCESS"
    assert execution.chat_model == "Demo model"
    assert execution.usage["output_tokens"] > 0
    assert (executed("count_flow").chat_model, executed("count_flow").usage) == ("", {})


def test_the_models_that_were_asked_are_named(settings: Any) -> None:
    settings.CHAT_MODEL, settings.GEMINI_API_KEY, settings.DEMO_TOKEN_DELAY = "", "", 0.0
    assert executed("two_models_flow").chat_model == "Demo model, own-1"


def test_a_chain_that_is_returned_is_run_as_a_step(settings: Any) -> None:
    settings.CHAT_MODEL, settings.GEMINI_API_KEY, settings.DEMO_TOKEN_DELAY = "", "", 0.0
    execution = executed("chain_flow", question="tides")
    assert execution.steps.get().name == "Chain"
    assert [str(entry) for entry in execution.entries.all()] == [
        "▶ Chain",
        "▶ Find sources",
        "lookup",
        "▶ Build the prompt",
    ]


def test_without_redis_an_execution_goes_on(settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1"
    redis_client.cache_clear()
    try:
        began = time.monotonic()
        assert executed("count_flow").result == 3
        assert time.monotonic() - began < 3
    finally:
        redis_client.cache_clear()


def test_a_cancelled_run_makes_no_further_model_call(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.CHAT_MODEL, settings.GEMINI_API_KEY, settings.DEMO_TOKEN_DELAY = "", "", 0.0
    settings.REDIS_URL = "redis://127.0.0.1:1"  # nobody tells it, and its heart does not beat
    redis_client.cache_clear()
    execution = waiting("asking_flow")
    asked: list[int] = []
    answer = DemoChatModel._stream

    def asked_once(*args: Any, **kwargs: Any) -> Any:
        asked.append(1)
        in_thread(fresh(execution).cancel).result(10)
        return answer(*args, **kwargs)

    monkeypatch.setattr(DemoChatModel, "_stream", asked_once)
    try:
        execute(claim())
    finally:
        redis_client.cache_clear()
    assert len(asked) == 1
    assert (fresh(execution).state, fresh(execution).steps.count()) == ("CANCELLED", 0)


def test_a_model_is_asked_while_the_database_is_away(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.CHAT_MODEL, settings.GEMINI_API_KEY, settings.DEMO_TOKEN_DELAY = "", "", 0.0

    def fail(claims: Any) -> None:
        raise OperationalError

    monkeypatch.setattr(Execution, "still_held", fail)
    assert executed("asking_flow").state == "SUCCESS"


def test_a_run_for_which_there_is_no_memory_fails_with_a_sentence() -> None:
    execution = executed("starving_flow")
    assert execution.error
    assert (execution.error["type"], execution.error["retryable"]) == ("memory", False)
    assert execution.error["message"] == "The flow needed more memory than there was for it."
    assert [str(entry) for entry in execution.entries.all()] == ["▶ Starve"], "no further try"


# A later attempt


def test_a_later_attempt_does_finished_steps_no_more(gate: Gate, tmp_path: Path) -> None:
    assert gate.execution.entries.count() == 1
    let_expire(gate.execution)
    assert Execution.take_back() == [KIND]
    gate.open()
    execute(claim())
    ended = fresh(gate.execution)
    assert (ended.state, ended.attempt, ended.crashes) == ("SUCCESS", 2, 1)
    assert ended.result == "first-1 wait-2"
    assert calls(tmp_path) == {"first-1", "wait-1", "wait-2", "open"}


def test_a_later_attempt_repeats_no_entry_and_says_what_begins_again(gate: Gate) -> None:
    shown = [str(entry.get("message") or entry["tool"]) for entry in known_entries(gate.execution)]
    assert shown == ["Begun", "▶ First", "lookup", "▶ Wait", "Waiting for the gate"]
    assert fresh(gate.execution).hand_back()
    gate.open()
    execute(claim())
    gate.thread.result(20)
    restarts = [event for event in streamed(gate.execution) if event.get("restarted")]
    assert [(event["id"].partition("-")[0], event["step"]) for event in restarts] == [("2", "Wait")]
    assert [str(entry) for entry in gate.execution.entries.all()] == shown
    assert [entry.get("message") or entry["tool"] for entry in known_entries(gate.execution)] == shown
    progress = [event["progress"] for event in streamed(gate.execution) if event["type"] == "progress"]
    assert progress == sorted(progress)


def test_a_later_attempt_that_redis_tells_nothing_says_that_its_steps_begin_again(gate: Gate) -> None:
    assert fresh(gate.execution).hand_back()
    id_ = str(gate.execution.id)
    redis_client().delete(meta_key(id_), stream_key(id_))
    gate.open()
    execute(claim())
    gate.thread.result(20)
    restarts = [event for event in streamed(gate.execution) if event.get("restarted")]
    assert [(event["id"].partition("-")[0], event["step"]) for event in restarts] == [("2", "Wait")]


def known_entries(execution: Execution) -> list[EntryView]:
    known = history(str(execution.id))
    assert known
    return list(known.entries.values())


def test_a_later_attempt_begins_with_a_snapshot_where_redis_forgot(gate: Gate) -> None:
    assert fresh(gate.execution).hand_back()
    redis_client().delete(stream_key(str(gate.execution.id)), channel.meta_key(str(gate.execution.id)))
    gate.open()
    gate.thread.result(20)
    redis_client().delete(stream_key(str(gate.execution.id)), channel.meta_key(str(gate.execution.id)))
    execute(claim())
    first = streamed(gate.execution)[0]
    assert first["type"] == "snapshot"
    assert [step["step"] for step in first["snapshot"]["details"]["steps"]] == ["First"]
    shown = {(entry["step"], entry["n"]) for entry in known_entries(gate.execution)}
    assert shown == set(fresh(gate.execution).snapshot().entries)
    assert len(shown) == 5


def test_a_fenced_attempt_writes_nothing_and_hands_nothing_back(gate: Gate) -> None:
    assert fresh(gate.execution).hand_back()
    second = claim()
    before = rows.everything()
    gate.open()
    gate.thread.result(20)
    assert rows.everything() == before
    assert fresh(second).state == "RUNNING"


def test_a_cancelled_attempt_stops_and_changes_nothing(gate: Gate) -> None:
    assert fresh(gate.execution).cancel()
    before = rows.everything()
    heart.beat()
    gate.thread.result(20)
    assert rows.everything() == before


def test_an_attempt_that_redis_knows_to_be_over_stops(gate: Gate) -> None:
    assert fresh(gate.execution).hand_back()
    claim()
    redis_client().xadd(stream_key(str(gate.execution.id)), {"e": b"{}"}, id="2-1")
    gate.run.log("one more")
    wait_until(gate.thread.done)
    assert fresh(gate.execution).attempt == 2


def test_a_stopping_worker_lets_the_last_step_finish(gate: Gate) -> None:
    gate.run.stop_at_step("The worker is stopping.")
    gate.open()
    gate.thread.result(20)
    assert fresh(gate.execution).state == "SUCCESS", "its last step was under way"


def test_a_run_that_stops_before_its_next_step_is_handed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    execution = waiting("count_flow")
    claimed = claim()
    record = Step.record

    def stop_after(row: Execution, step: Any) -> None:
        record(row, step)
        heart.running[0].stop_at_step("The worker is stopping.")

    monkeypatch.setattr(Step, "record", stop_after)
    execute(claimed)
    back = fresh(execution)
    assert (back.state, back.crashes, back.steps.get().key) == ("PENDING", 0, "List")
    monkeypatch.undo()
    execute(claim())
    assert (fresh(execution).state, fresh(execution).attempt, fresh(execution).result) == ("SUCCESS", 2, 3)
    assert [step.attempt for step in execution.steps.all()] == [1, 2]


@pytest.mark.parametrize("what", ["an event", "a snapshot"])
def test_a_later_attempt_makes_do_without_a_history_of_another_version(what: str) -> None:
    execution = waiting("count_flow")
    assert claim().hand_back()
    key = str(execution.id)
    if what == "an event":
        redis_client().xadd(stream_key(key), {"e": b'{"id":"1-1","type":"dance"}'}, id="1-1")
    else:
        redis_client().set(channel.meta_key(key), b'{"snapshot":{"id":"1-1"}}')
    execute(claim())
    assert (fresh(execution).state, fresh(execution).attempt) == ("SUCCESS", 2)
    assert streamed(execution)[-1]["final_result"] == 3


# A database that goes away


@pytest.mark.parametrize("where", ["the journal", "the snapshot", "the number of steps"])
def test_a_later_attempt_waits_for_a_database_that_is_away(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(database, "DATABASE_PAUSE", 0.01)
    execution = waiting("cpu_count_flow")
    assert claim().hand_back()
    owner, name = {
        "the journal": (engine.DatabaseJournal, "_load"),
        "the snapshot": (Execution, "snapshot"),
        "the number of steps": (engine, "steps_of_last_success"),
    }[where]
    fail_at_first(monkeypatch, owner, name)
    execute(claim())
    assert (fresh(execution).state, fresh(execution).attempt) == ("SUCCESS", 2)


def fail_at_first(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, late: bool = False) -> None:
    """Have the database go away in the first call of something: before it, or before its answer comes."""
    real = getattr(owner, name)
    failures = [OperationalError()]

    def fail(*args: Any, **kwargs: Any) -> Any:
        answer = real(*args, **kwargs) if late or not failures else None
        if failures:
            raise failures.pop()
        return answer

    monkeypatch.setattr(owner, name, fail)


@pytest.mark.parametrize("told", ["by the fence", "by the heart"])
def test_an_end_whose_commit_was_not_answered_is_told(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    execution = waiting("count_flow")
    claimed = claim()
    if told == "by the heart":
        monkeypatch.setattr(database, "DATABASE_PAUSE", 60)
        beating = threading.Event()
        in_thread(lambda: beat_until(beating))
    fail_at_first(monkeypatch, Execution, "finish", late=True)
    try:
        execute(claimed)
    finally:
        if told == "by the heart":
            beating.set()
    assert fresh(execution).state == "SUCCESS"
    assert streamed(execution)[-1]["final_result"] == 3
    known = history(str(execution.id))
    assert known
    assert known.public() == fresh(execution).snapshot().public()


def beat_until(end: threading.Event) -> None:
    while not end.wait(0.1):
        heart.beat()


def break_connections_that_wait() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )


@pytest.mark.parametrize("where", ["in a step's record", "at the end"])
def test_a_connection_that_breaks_is_survived(gate: Gate, where: str) -> None:
    if where == "at the end":
        Step.record(fresh(gate.execution), rows.step_record("Wait"))  # so that only the end writes
    with transaction.atomic():
        Execution.objects.select_for_update().get(id=gate.execution.id)
        gate.open()
        wait_for_lock()
        break_connections_that_wait()
    gate.thread.result(20)
    ended = fresh(gate.execution)
    assert (ended.state, ended.attempt) == ("SUCCESS", 1)
    assert ended.steps.filter(key="Wait").count() == 1


def test_without_a_run_an_error_is_told_at_once() -> None:
    def fail() -> None:
        raise OperationalError

    with pytest.raises(OperationalError):
        with_database(fail)


def test_with_a_run_the_database_is_waited_for_until_the_run_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(database, "DATABASE_PAUSE", 0.01)
    tries: list[int] = []
    run = Run("7", journal=Journal(), channel=Channel())

    def fail() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise OperationalError
        return "back"

    assert with_database(fail, run) == "back"
    run.stop("Enough.")
    tries.clear()
    with pytest.raises(Stopped):
        with_database(fail, run)
    assert len(tries) == 1


def test_with_patience_the_database_is_waited_for_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "DATABASE_PAUSE", 0.01)
    tries: list[int] = []

    def fail() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise OperationalError
        return "back"

    assert with_database(fail, patience=5) == "back"
    tries.clear()
    with pytest.raises(OperationalError):
        with_database(fail, patience=0.0)


def test_no_connection_is_held_between_two_uses() -> None:
    assert with_database(lambda: Execution.objects.count()) == 0
    assert connection.connection is None


# The heart


class OwnHeart(Heart, ExitStack):
    """A heart that holds runs until its test ends."""

    def __init__(self) -> None:
        Heart.__init__(self)
        ExitStack.__init__(self)

    def holds(self, execution: Execution) -> Run:
        run = Run(str(execution.id), journal=Journal(), channel=Channel())
        self.enter_context(self.holding(execution, run))
        return run


@pytest.fixture
def own() -> Iterator[OwnHeart]:
    with OwnHeart() as heart:
        yield heart


def test_a_heart_renews_what_it_holds_and_stops_what_it_lost(own: OwnHeart) -> None:
    kept, lost = rows.claimed(), rows.claimed()
    run, lost_run = own.holds(kept), own.holds(lost)
    let_expire(kept)
    lost.cancel()
    own.beat()
    assert Execution.objects.get(lease_until__gt=datetime.now(UTC)) == kept
    assert (run.is_stopped, lost_run.is_stopped) == (False, True)


def test_a_heart_tells_two_attempts_apart(own: OwnHeart) -> None:
    first = rows.claimed()
    old = own.holds(first)
    first.hand_back()
    new = own.holds(claim())
    own.beat()
    assert (old.is_stopped, new.is_stopped) == (True, False)


def test_a_heart_holds_a_run_for_as_long_as_it_goes_on(own: OwnHeart) -> None:
    execution = rows.claimed()
    run = Run("7", journal=Journal(), channel=Channel())
    with own.holding(execution, run):
        assert own.running == [run]
    assert own.running == []
    execution.cancel()
    own.beat()
    assert not run.is_stopped


def test_a_heart_that_cannot_beat_stops_its_runs(own: OwnHeart, monkeypatch: pytest.MonkeyPatch) -> None:
    execution = rows.claimed()
    run = own.holds(execution)
    monkeypatch.setattr(leases, "SELF_FENCE", 0.3)
    own.beat()
    own.fence_itself()
    assert not run.is_stopped
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("LOCK TABLE main_execution")  # the database hangs
        beat = in_thread(own.beat)
        wait_for_lock()
        wait_until(lambda: is_stopped_by(own, run), 5)
        break_connections_that_wait()
    with pytest.raises(OperationalError):
        beat.result(5)


def is_stopped_by(own: Heart, run: Run) -> bool:
    own.fence_itself()
    return run.is_stopped


def test_a_heart_with_nothing_to_hold_has_missed_nothing(
    own: OwnHeart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own, "_renewed_at", time.monotonic() - 1000)
    own.fence_itself()
    run = own.holds(rows.claimed())
    own.fence_itself()
    assert not run.is_stopped


def test_after_an_outage_an_execution_is_handed_back_and_is_no_crash(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "DATABASE_PAUSE", 0.01)
    let_expire(gate.execution)
    monkeypatch.setattr(sweeper, "_swept_at", time.monotonic() - LEASE)
    with transaction.atomic():
        Execution.objects.select_for_update().get(id=gate.execution.id)
        gate.run.stop("The database was away for too long.")
        wait_for_lock()
        break_connections_that_wait()
    sweeper.sweep()
    gate.thread.result(20)
    back = fresh(gate.execution)
    assert (back.state, back.crashes) == ("PENDING", 0)


# Working


def test_work_goes_on_until_nothing_waits() -> None:
    executions = [waiting("count_flow", to=n) for n in range(5)]
    assert work(KIND) == 5
    assert [fresh(execution).state for execution in executions] == ["SUCCESS"] * 5
    assert work(KIND) == 0


def test_work_takes_no_more_than_there_is_room_for(tmp_path: Path, workplace: Workplace) -> None:
    folders = [tmp_path / str(n) for n in range(5)]
    for folder in folders:
        folder.mkdir()
        waiting("gate_flow", folder=str(folder))
    workers = [in_thread(lambda: work(KIND)) for _ in range(2)]
    wait_until(lambda: len(list(tmp_path.glob("*/wait-1"))) == 2)
    assert workplace.free == 0
    assert work(KIND) == 0
    assert Execution.objects.filter(state="RUNNING").count() == 2
    for folder in folders:
        (folder / "open").touch()
    assert sum(worker.result(20) for worker in workers) == 5
    assert workplace.free == 2


def test_a_closing_workplace_takes_nothing(workplace: Workplace) -> None:
    waiting("count_flow")
    workplace.closing = True
    assert work(KIND) == 0
    assert Execution.objects.get().state == "PENDING"


def test_a_place_is_free_again_whatever_happens(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OperationalError

    monkeypatch.setattr(Execution, "claim_next", fail)
    with pytest.raises(OperationalError):
        work(KIND)
    assert workplace.free == 2


def test_a_run_that_never_stops_loses_its_place(workplace: Workplace, tmp_path: Path) -> None:
    hanging = waiting("stubborn_flow", folder=str(tmp_path))
    worker = in_thread(lambda: work(KIND))
    wait_until((tmp_path / "hang-1").exists)
    hanging.cancel()
    for _ in range(2):
        heart.beat()
    sweeper.give_up_stuck(workplace.give_up, patience=10)
    assert (workplace.free, workplace.stuck) == (1, 0), "it has some time to stop"
    wait_until(lambda: is_free(workplace), 5)
    assert workplace.stuck == 1
    waiting("count_flow")
    (tmp_path / "open").touch()
    assert worker.result(20) == 1, "it takes no more work"
    assert (workplace.free, workplace.stuck) == (2, 0)


def is_free(workplace: Workplace) -> bool:
    sweeper.give_up_stuck(workplace.give_up, patience=0.3)
    return workplace.free == 2


def test_a_run_that_an_outage_stopped_and_that_hangs_is_handed_back(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hanging = waiting("stubborn_flow", folder=str(tmp_path))
    worker = in_thread(lambda: work(KIND))
    wait_until((tmp_path / "hang-1").exists)
    monkeypatch.setattr(leases, "SELF_FENCE", 0.0)
    heart.fence_itself()
    heart.beat()
    assert fresh(hanging).state == "RUNNING", "the database is back, and the lease is renewed"
    wait_until(lambda: is_free(workplace), 5)
    assert (fresh(hanging).state, fresh(hanging).crashes) == ("PENDING", 0)
    (tmp_path / "open").touch()
    worker.result(20)
    assert fresh(hanging).state == "PENDING"


def test_a_run_whose_flow_has_ended_is_not_stuck(own: OwnHeart) -> None:
    execution = rows.claimed()
    run = own.holds(execution)
    with own.in_flow(execution):
        run.stop("Enough.")
        assert [claim for claim, _ in own.stuck(patience=0.0)] == [Claim(execution.id, 1)]
    assert own.stuck(patience=0.0) == [], "it waits for the database, to hand back"


def test_a_lost_lease_is_seen_between_two_renewals(own: OwnHeart) -> None:
    kept, lost = rows.claimed(), rows.claimed()
    run, lost_run = own.holds(kept), own.holds(lost)
    let_expire(kept)
    lost.cancel()
    own.pulse()
    assert (run.is_stopped, lost_run.is_stopped) == (False, True)
    assert not Execution.objects.filter(lease_until__gt=datetime.now(UTC)).exists(), "nothing is renewed yet"


def test_a_pulse_renews_when_that_is_due(own: OwnHeart, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = rows.claimed()
    own.holds(kept)
    let_expire(kept)
    monkeypatch.setattr(own, "_renewed_at", time.monotonic() - leases.HEARTBEAT)
    own.pulse()
    assert Execution.objects.get(lease_until__gt=datetime.now(UTC)) == kept


def test_a_heart_tells_of_a_lost_lease_once(own: OwnHeart, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "main.leases")
    lost = rows.claimed()
    own.holds(lost)
    lost.cancel()
    for _ in range(3):
        own.beat()
    assert len(caplog.records) == 1


@pytest.fixture
def rung(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds that are rung for, instead of their bells."""
    kinds: list[str] = []

    def ring_now(kind: str) -> bool:
        kinds.append(kind)
        return True

    monkeypatch.setattr(bells, "ring", kinds.append)
    monkeypatch.setattr(bells, "ring_now", ring_now)
    return kinds


def test_a_run_that_is_stopped_rings_for_those_who_take_it(workplace: Workplace, rung: list[str]) -> None:
    """A suspect runs in a worker of another kind than its own, and is taken by such a one again."""
    workplace.kind = "another"
    suspect = rows.claimed(worker_name())
    engine.close()
    execute(suspect)
    assert (fresh(suspect).state, rung) == ("PENDING", ["another"])


def test_a_worker_that_stops_rings_for_those_who_take_what_it_held(
    workplace: Workplace, rung: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workplace.kind = "another"
    suspects = [rows.claimed(worker_name()) for _ in range(2)]
    ended: list[object] = []
    monkeypatch.setattr(tasks, "GRACE", 0.0)
    monkeypatch.setattr(descendants, "kill", lambda: None)
    monkeypatch.setattr(os, "_exit", ended.append)
    tasks._hand_back_and_exit()
    assert ended == [0]
    assert {fresh(suspect).state for suspect in suspects} == {"PENDING"}
    assert rung == ["another", "another"]


def test_a_run_that_begins_while_its_worker_stops_does_no_step(workplace: Workplace) -> None:
    execution = waiting("count_flow")
    claimed = claim()
    engine.close()
    execute(claimed)
    assert (fresh(execution).state, fresh(execution).steps.count()) == ("PENDING", 0)


@pytest.mark.parametrize("leave", ["_hand_back_and_leave", "_hand_back_and_exit"])
def test_what_is_being_claimed_while_its_worker_stops_is_handed_back(
    monkeypatch: pytest.MonkeyPatch, leave: str
) -> None:
    """A claim is in the database before this process holds it."""
    ended = threading.Event()
    monkeypatch.setattr(tasks, "end_process", ended.set)
    monkeypatch.setattr(tasks, "_exit", lambda code: ended.set())
    monkeypatch.setattr(descendants, "kill", lambda: None)
    claimed, closing = threading.Event(), threading.Event()
    claim_next = Execution.claim_next

    def claim_slowly(kind: str, worker: str) -> Execution | None:
        execution = claim_next(kind, worker)
        claimed.set()
        closing.wait(10)
        return execution

    monkeypatch.setattr(Execution, "claim_next", claim_slowly)
    execution = waiting("count_flow")
    worker = in_thread(lambda: work(KIND))
    assert claimed.wait(10)
    leaving = in_thread(getattr(tasks, leave))
    wait_until(lambda: engine.workplace.closing)
    assert not ended.wait(0.2), "it waits for what it may have claimed"
    closing.set()
    leaving.result(10)
    worker.result(10)
    assert (fresh(execution).state, fresh(execution).crashes) == ("PENDING", 0)


@pytest.mark.parametrize("error", [OperationalError, ProgrammingError])
def test_a_worker_that_cannot_hand_back_ends_all_the_same(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    ended: list[object] = []

    def fail(worker: str) -> None:
        raise error

    monkeypatch.setattr(Execution, "hand_back_all", fail)
    monkeypatch.setattr(descendants, "kill", lambda: ended.append("children"))
    monkeypatch.setattr(os, "_exit", ended.append)
    tasks._hand_back_and_exit()
    assert ended == ["children", "children", 0]


def test_a_worker_ends_in_time_where_the_database_hangs(
    monkeypatch: pytest.MonkeyPatch, workplace: Workplace
) -> None:
    ended: list[float] = []
    answered = threading.Event()
    monkeypatch.setattr(tasks, "EXIT_PATIENCE", 0.2)
    monkeypatch.setattr(descendants, "kill", lambda: None)
    monkeypatch.setattr(os, "_exit", lambda code: ended.append(code))
    monkeypatch.setattr(Execution, "is_any_held_by", lambda worker: answered.wait(20) and False)
    closing = in_thread(tasks._hand_back_and_exit)
    wait_until(lambda: ended == [0], 5)
    answered.set()
    closing.result(10)


def test_more_than_half_of_the_places_stuck_are_too_many(
    monkeypatch: pytest.MonkeyPatch, workplace: Workplace
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(tasks, "_hand_back_and_exit", lambda code: ended.append(code))
    workplace.capacity = 4
    for thread in (1, 2, 3):
        workplace._busy.add(thread)
        assert ended == []
        tasks._give_up_thread(thread)
    assert (workplace.stuck, ended) == (3, [1])
    sweeper.sweep()
    beat = WorkerBeat.objects.get(name=worker_name())
    assert (beat.capacity, beat.stuck) == (4, 3)


# Sweeping


@pytest.fixture
def bells_waiting() -> Iterator[Callable[[], int]]:
    """How many bells hang in the queue."""
    redis_client().delete(KIND)

    def count() -> int:
        found: Any = redis_client().llen(KIND)
        return int(found)

    yield count
    redis_client().delete(KIND)


def test_a_sweep_rings_as_many_bells_as_waiting_rows_lack(
    bells_waiting: Callable[[], int], workplace: Workplace
) -> None:
    workplace.closing = True
    workplace.capacity = 10
    for _ in range(5):
        rows.waiting(created_at=ago(10))
    rows.waiting()  # has just been rung for
    bells.ring_now(KIND)
    bells.ring_now(KIND)
    for _ in range(3):
        sweeper.sweep()
        wait_until(lambda: bells_waiting() >= 5)
    assert_rings_are_over()
    assert bells_waiting() == 5


def assert_rings_are_over() -> None:
    """Wait for the thread that rings: a last bell for nobody comes after all others."""
    redis_client().delete("nobody")
    bells.ring("nobody")
    wait_until(lambda: redis_client().llen("nobody"))
    redis_client().delete("nobody")


def test_a_sweep_asks_for_places_only_where_something_waits(workplace: Workplace) -> None:
    workplace.closing = True

    def asked() -> bool:
        with CaptureQueriesContext(connection) as queries:
            sweeper.sweep()
        return any("sum(capacity)" in query["sql"] for query in queries)

    assert not asked()
    rows.waiting(created_at=ago(10))
    assert asked()


def test_who_is_not_elected_keeps_no_promises_and_rings_no_bells(
    bells_waiting: Callable[[], int], workplace: Workplace
) -> None:
    workplace.closing = True
    dead = rows.claimed()
    let_expire(dead)
    rows.waiting(created_at=ago(10))

    def hold(until: threading.Event, begun: threading.Event) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [sweeper.LOCK])
            begun.set()
            assert until.wait(20)

    end, begun = threading.Event(), threading.Event()
    other = in_thread(lambda: hold(end, begun))
    assert begun.wait(10)
    sweeper.sweep()
    assert fresh(dead).state == "RUNNING"
    assert_rings_are_over()
    assert bells_waiting() == 0
    assert WorkerBeat.objects.filter(name=worker_name()).exists()
    end.set()
    other.result(10)
    sweeper.sweep()
    assert (fresh(dead).state, fresh(dead).crashes) == ("PENDING", 1)


def test_a_sweep_looks_for_work_without_redis(settings: Any, workplace: Workplace) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1"
    redis_client.cache_clear()
    try:
        waiting_rows = [rows.waiting(created_at=ago(10), inputs={"to": 3}) for _ in range(6)]
        sweeper.sweep()
        wait_until(lambda: Execution.objects.filter(state="SUCCESS").count() == len(waiting_rows))
        wait_until(lambda: workplace.free == 2)
    finally:
        redis_client.cache_clear()


def test_a_sweep_ends_what_ran_too_long_and_tells_watchers(gate: Gate) -> None:
    Execution.objects.filter(id=gate.execution.id).update(deadline=ago(1))
    sweeper.sweep()
    ended = fresh(gate.execution)
    assert ended.error
    assert (ended.state, ended.error["type"]) == ("FAILURE", "timeout")
    known = history(str(gate.execution.id))
    assert known
    assert known.public()["details"]["error"] == ended.error
    assert {step["name"]: step["state"] for step in known.steps.values()} == {
        "First": "done",
        "Wait": "failed",
    }
    heart.beat()
    gate.thread.result(20)
    assert fresh(gate.execution).error == ended.error


def test_a_sweep_ends_what_is_poison_and_tells_watchers() -> None:
    execution = rows.claimed(crashes=2)
    let_expire(execution)
    sweeper.sweep()
    ended = fresh(execution)
    assert ended.error
    assert (ended.state, ended.error["type"], ended.crashes) == ("FAILURE", "poison", 3)
    assert streamed(execution)[-1]["error"] == ended.error


def test_a_sweep_after_an_outage_waits_for_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = rows.claimed()
    poisoned = rows.claimed(crashes=2)
    let_expire(dead, poisoned)
    monkeypatch.setattr(sweeper, "_swept_at", time.monotonic() - 60)
    sweeper.sweep()
    sweeper.sweep()
    assert {fresh(dead).state, fresh(poisoned).state} == {"RUNNING"}
    monkeypatch.setattr(sweeper, "_patient_until", time.monotonic() - 0.001)
    sweeper.sweep()
    assert (fresh(dead).state, fresh(poisoned).state) == ("PENDING", "FAILURE")


def test_a_row_that_is_locked_holds_up_no_sweep() -> None:
    locked, dead = rows.claimed(), rows.claimed()
    let_expire(locked, dead)
    Execution.objects.filter(id=locked.id).update(deadline=ago(1))
    with transaction.atomic():
        Execution.objects.select_for_update().get(id=locked.id)
        in_thread(sweeper.sweep).result(10)
        assert fresh(dead).state == "PENDING"
    sweeper.sweep()
    assert fresh(locked).state == "FAILURE"


def test_workers_that_are_silent_for_an_hour_are_forgotten() -> None:
    WorkerBeat.objects.create(name="old/1/1", kind="io", beat_at=ago(4000))
    WorkerBeat.objects.create(name="new/1/1", kind="io", beat_at=ago(60))
    sweeper.sweep()
    there = set(WorkerBeat.objects.values_list("name", flat=True))
    assert (there >= {"new/1/1", worker_name()}, "old/1/1" in there) == (True, False)


# What is too large


def test_a_large_entry_can_be_had_whole_while_its_step_is_under_way() -> None:
    execution = executed("large_flow", kilobytes=50)
    entry = Entry.objects.get(execution=execution)
    assert len(entry.data["data"]) == 50
    [shown] = [event for event in streamed(execution) if event["type"] == "tool_result"]
    assert shown["data"]["url"] == entry.address
    assert Claim(execution.id, 1) not in Execution.renew_leases([Claim(execution.id, 1)])


def test_a_large_result_is_kept_whole_and_not_sent_whole() -> None:
    execution = executed("large_flow", kilobytes=2000)
    assert len(str(execution.result)) == 2_000_000
    assert streamed(execution)[-1]["final_result"] == {
        "omitted_bytes": 2_000_002,
        "url": f"/executions/{execution.id}/",
    }


def test_a_result_that_is_far_too_large_is_a_failure_that_says_what_to_do() -> None:
    execution = executed("large_flow", kilobytes=9000)
    assert execution.error
    assert execution.error["type"] == "result"
    assert execution.error["message"] == (
        "The flow returned 9000002 bytes; at most 8388608 are kept. "
        "Write it to a file or a database and return where it is."
    )


def test_a_sweep_rings_for_no_more_than_there_is_place_for(
    bells_waiting: Callable[[], int], workplace: Workplace
) -> None:
    workplace.closing = True
    workplace.capacity = 3
    for _ in range(5):
        rows.waiting(created_at=ago(10))
    for _ in range(2):
        sweeper.sweep()
    assert_rings_are_over()
    assert bells_waiting() == 3


def test_what_stumbles_late_in_a_sweep_keeps_no_promise_from_being_kept(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Execution, "prune", stumble)
    monkeypatch.setattr(sweeper, "_swept_at", time.monotonic() - 1)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            sweeper.sweep()
        monkeypatch.setattr(sweeper, "_swept_at", (sweeper._swept_at or 0) - sweeper.SWEEP)
    dead = rows.claimed()
    let_expire(dead)
    with pytest.raises(ZeroDivisionError):
        sweeper.sweep()
    assert Execution.objects.get(id=dead.id).crashes == 1


def test_what_a_flow_raises_while_its_worker_stops_is_not_its_end(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter ends under its threads: nothing of that is the flow's."""
    execution = waiting("secret_flow")
    claimed = Execution.claim_next(execution.kind, worker_name())
    assert claimed
    workplace.closing = True
    monkeypatch.setattr(Run, "stop_at_step", lambda *_: None)
    engine.execute(claimed)
    assert Execution.objects.get(id=execution.id).state == "PENDING"
