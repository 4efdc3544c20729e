"""The verbs that change an execution's state, alone and against each other."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import orjson
import pytest
from django.db import transaction

from config.tests.waiting import wait_until
from main.database import with_database
from main.events import ErrorDetail
from main.journal import Fenced
from main.models import LEASE, MAX_CRASHES, Claim, Entry, Execution, Step
from main.registry import FLOW_REGISTRY, load_flows
from main.tests.executing import fresh
from main.tests.rows import (
    KIND,
    at_once,
    claimed,
    everything,
    in_thread,
    let_expire,
    step_record,
    wait_for_lock,
    waiting,
    without_sweepers,
)

pytestmark = pytest.mark.django_db(transaction=True)

LOG: Any = {"type": "log", "step": "", "n": 0, "message": "said"}


def said(step: str, n: int = 0, message: str = "said") -> Any:
    return {**LOG, "step": step, "n": n, "message": message}


ERROR = ErrorDetail(type="error", message="It broke.", retryable=False)


@pytest.fixture(autouse=True)
def alone(transactional_db: None) -> Iterator[None]:
    with without_sweepers():
        yield


def seconds_from_now(moment: datetime | None) -> float:
    assert moment
    return (moment - datetime.now(UTC)).total_seconds()


def claim(worker: str = "bob/1/1") -> Execution:
    found = Execution.claim_next(KIND, worker)
    assert found
    return found


# Start and claim


def test_a_start_is_stored_with_what_its_flow_says() -> None:
    load_flows(["main.tests.engine_flows"])
    execution = fresh(Execution.start(FLOW_REGISTRY["endless_flow"], {}))
    assert (execution.flow, execution.kind, execution.inputs) == ("endless_flow", "io", {})
    assert (execution.attempt, execution.time_limit) == (0, 1)
    assert abs(seconds_from_now(execution.created_at)) < 5
    assert execution.started_at is None


def test_a_claim_takes_a_lease() -> None:
    created = waiting()
    execution = claim("alice/1/2")
    assert execution.id == created.id
    assert (execution.state, execution.attempt, execution.worker) == ("RUNNING", 1, "alice/1/2")
    assert LEASE - 5 < seconds_from_now(execution.lease_until) <= LEASE
    assert 55 < seconds_from_now(execution.deadline) <= 60
    assert everything()[0] == [
        {field.attname: getattr(execution, field.attname) for field in Execution._meta.concrete_fields}
    ]


def test_the_oldest_is_claimed_first() -> None:
    now = datetime.now(UTC)
    ages = [3, 1, 5, 2, 4]
    for age in ages:
        waiting(inputs={"age": age}, created_at=now - timedelta(minutes=age))
    assert [claim().inputs["age"] for _ in ages] == sorted(ages, reverse=True)
    assert Execution.claim_next(KIND, "bob/1/1") is None


def test_each_kind_is_claimed_by_itself() -> None:
    other = waiting(kind="other")
    assert Execution.claim_next(KIND, "bob/1/1") is None
    assert Execution.claim_next("other", "bob/1/1") == other


def test_what_runs_or_has_ended_is_not_claimed() -> None:
    claimed()
    claimed().finish()
    waiting().cancel()
    assert Execution.claim_next(KIND, "bob/1/1") is None


def test_no_two_workers_get_the_same() -> None:
    ids = {waiting().id for _ in range(40)}

    def work() -> list[Execution]:
        return list(iter(lambda: Execution.claim_next(KIND, "bob/1/1"), None))

    found = [execution for claims in at_once(*[work] * 5) for execution in claims]
    assert len(found) == 40
    assert {execution.id for execution in found} == ids
    assert {execution.attempt for execution in found} == {1}


def test_one_waiting_execution_is_claimed_once() -> None:
    for _ in range(10):
        waiting()
        found = at_once(*[lambda: Execution.claim_next(KIND, "bob/1/1")] * 3)
        assert len([execution for execution in found if execution]) == 1


def test_a_claim_does_not_wait_for_another_one() -> None:
    first, second = waiting(), waiting()
    with transaction.atomic():
        assert claim() == first
        assert in_thread(claim).result(5) == second


def test_a_later_attempt_keeps_the_first_start_and_the_deadline() -> None:
    first = claimed()
    first.hand_back()
    second = claim()
    assert (second.attempt, second.crashes) == (2, 0)
    assert (second.started_at, second.deadline) == (first.started_at, first.deadline)


# Heartbeat


def test_a_heartbeat_renews_what_is_still_held() -> None:
    mine, cancelled, handed_back, taken_over = (claimed() for _ in range(4))
    other = claimed("bob/1/1")
    let_expire(mine, other)
    cancelled.cancel()
    handed_back.hand_back()
    taken_over.hand_back()
    claim(), claim()
    held = [Claim(each.id, each.attempt) for each in (mine, cancelled, handed_back, taken_over)]
    assert Execution.renew_leases(held) == {Claim(mine.id, 1)}
    assert LEASE - 5 < seconds_from_now(fresh(mine).lease_until) <= LEASE
    assert seconds_from_now(fresh(other).lease_until) < 0
    assert Execution.renew_leases([]) == set()


def test_a_lease_that_ran_out_but_was_not_taken_back_is_renewed() -> None:
    execution = claimed()
    let_expire(execution)
    assert Execution.renew_leases([Claim(execution.id, 1)]) == {Claim(execution.id, 1)}
    assert Execution.take_back() == []


def test_a_heartbeat_comes_too_late_for_what_was_taken_back() -> None:
    execution = claimed()
    let_expire(execution)
    assert Execution.take_back() == [KIND]
    assert Execution.renew_leases([Claim(execution.id, 1)]) == set()


def test_heartbeat_and_sweeper_at_once_agree() -> None:
    for _ in range(10):
        execution = claimed()
        let_expire(execution)
        renewed, taken = at_once(
            partial(Execution.renew_leases, [Claim(execution.id, 1)]),
            Execution.take_back,
        )
        assert (fresh(execution).state, fresh(execution).crashes) == (
            ("PENDING", 1) if taken else ("RUNNING", 0)
        )
        # A row that the sweeper has just locked is the worker's until its next heartbeat.
        assert renewed or taken
        assert bool(Execution.renew_leases([Claim(execution.id, 1)])) != bool(taken)
        execution.cancel()


def test_a_row_that_is_locked_holds_up_no_heartbeat() -> None:
    locked, other, lost = (claimed() for _ in range(3))
    let_expire(locked, other)
    lost.cancel()
    held = [Claim(each.id, 1) for each in (locked, other, lost)]
    with locked.fence():  # as a long record of a step does
        kept = in_thread(partial(Execution.renew_leases, held)).result(10)
        assert kept == {Claim(locked.id, 1), Claim(other.id, 1)}
        assert seconds_from_now(fresh(other).lease_until) > LEASE - 5
        assert in_thread(Execution.take_back).result(10) == [], "nobody takes back what is being written to"
    assert Execution.renew_leases(held) == kept
    assert seconds_from_now(fresh(locked).lease_until) > LEASE - 5


def test_who_hangs_in_a_transaction_loses_the_row_that_it_has_locked() -> None:
    frozen, began = claimed(), time.monotonic()
    let_expire(frozen)

    def hang() -> None:
        with frozen.fence():
            is_held.set()
            is_free.wait(20)
            frozen.entries.count()

    is_held, is_free = threading.Event(), threading.Event()
    worker = in_thread(lambda: with_database(hang, patience=20))
    assert is_held.wait(10)
    wait_until(lambda: worker.done() or Execution.take_back(), 10)
    assert 4 < time.monotonic() - began < 8
    assert (fresh(frozen).state, fresh(frozen).crashes) == ("PENDING", 1)
    is_free.set()
    with pytest.raises(Fenced):  # it tries again, as where the database was away
        worker.result(10)


def test_what_is_still_held_is_told_without_a_renewal() -> None:
    mine, cancelled, again = (claimed() for _ in range(3))
    let_expire(mine)
    cancelled.cancel()
    again.hand_back()
    claim()
    held = [Claim(each.id, 1) for each in (mine, cancelled, again)]
    assert Execution.still_held(held) == {Claim(mine.id, 1)}
    assert seconds_from_now(fresh(mine).lease_until) < 0


# The fence


def cancelled(execution: Execution) -> None:
    assert execution.cancel()


def handed_back(execution: Execution) -> None:
    assert execution.hand_back()


def taken_over(execution: Execution) -> None:
    assert execution.hand_back()
    claim()


def taken_back(execution: Execution) -> None:
    let_expire(execution)
    assert Execution.take_back() == [KIND]


def finished(execution: Execution) -> None:
    fresh(execution).finish(result="first")


def overdue(execution: Execution) -> None:
    Execution.objects.filter(id=execution.id).update(deadline=datetime.now(UTC) - timedelta(seconds=1))
    assert Execution.end_overdue() == [execution]


def keep_step(execution: Execution) -> None:
    Step.record(execution, step_record(entries=[(1, LOG)]))


def keep_entry(execution: Execution) -> None:
    with execution.fence():
        Entry.keep(execution, [(1, LOG)])


def finish(execution: Execution) -> None:
    execution.finish(result="late", usage={"words": 1}, chat_model="demo", entries=[(1, LOG)])


def fail(execution: Execution) -> None:
    execution.finish(error=ERROR)


@pytest.mark.parametrize("lose", [cancelled, handed_back, taken_over, taken_back, finished, overdue])
@pytest.mark.parametrize("write", [keep_step, keep_entry, finish, fail])
def test_an_attempt_that_lost_its_execution_changes_nothing(
    lose: Callable[[Execution], None], write: Callable[[Execution], None]
) -> None:
    execution = claimed()
    Step.record(execution, step_record("Before", entries=[(1, LOG)]))
    lose(execution)
    before = everything()
    with pytest.raises(Fenced):
        write(execution)
    assert not execution.hand_back()
    assert everything() == before


@pytest.mark.parametrize("write", [keep_step, keep_entry, finish, fail])
def test_the_newest_attempt_may_write(write: Callable[[Execution], None]) -> None:
    taken_over(claimed())
    execution = Execution.objects.get()
    before = everything()
    write(execution)
    assert everything() != before


def test_what_fails_behind_the_fence_is_undone() -> None:
    execution = claimed()

    def stumble() -> None:
        with execution.fence():
            Entry.keep(execution, [(1, LOG)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stumble()
    assert Entry.objects.count() == 0


def test_parallel_steps_of_one_attempt_do_not_wait_for_each_other() -> None:
    execution = claimed()
    with execution.fence():
        in_thread(lambda: keep_step(execution)).result(5)
    assert Step.objects.count() == 1


# Steps and entries


def test_a_step_is_kept_with_its_entries() -> None:
    execution = claimed()
    tool: Any = {
        "type": "tool_result",
        "step": "Ask",
        "n": 1,
        "step_name": "Ask",
        "tool": "look",
        "data": [1],
    }
    log: Any = {"type": "log", "step": "Ask", "n": 0, "message": "▶ Ask"}
    Step.record(execution, step_record(result={"a": 1}, entries=[(4, log), (7, tool)], tries=2))
    step = Step.objects.get()
    assert (step.key, step.result, step.attempt, step.tries, step.progress) == ("Ask", {"a": 1}, 1, 2, 50)
    assert 0 <= step.duration < 10
    assert [(entry.step, entry.n, entry.position, entry.event()) for entry in execution.entries.all()] == [
        ("Ask", 0, 4, log),
        ("Ask", 1, 7, tool),
    ]


def test_a_step_recorded_twice_is_there_once() -> None:
    execution = claimed()
    for result in ("first", "second"):
        Step.record(execution, step_record(result=result, entries=[(1, LOG)]))
    assert Step.objects.get().result == "first"
    assert Entry.objects.count() == 1


@pytest.mark.parametrize("again", ["in another try", "in another attempt"])
def test_what_an_unfinished_step_left_is_replaced(again: str) -> None:
    execution = claimed()
    with execution.fence():
        Entry.keep(execution, [(n, said("Ask", n, "old")) for n in range(3)])
        Entry.keep(execution, [(9, said("Other", 2, "old"))])
    if again == "in another attempt":
        execution.hand_back()
        execution = claim()
    tries = 2 if again == "in another try" else 1
    Step.record(execution, step_record(entries=[(1, said("Ask", 0, "new"))], tries=tries))
    assert [
        (entry.step, entry.n, entry.data["message"]) for entry in Entry.objects.order_by("step", "n")
    ] == [
        ("Ask", 0, "new"),
        ("Other", 2, "old"),
    ]


# The end


def test_a_success_has_its_result_and_what_it_used() -> None:
    execution = claimed()
    execution.finish(result={"a": [1]}, usage={"output_tokens": 3}, chat_model="demo", entries=[(1, LOG)])
    ended = fresh(execution)
    assert (ended.state, ended.result, ended.error) == ("SUCCESS", {"a": [1]}, None)
    assert (ended.usage, ended.chat_model, ended.lease_until) == ({"output_tokens": 3}, "demo", None)
    assert ended.duration is not None
    assert 0 <= ended.duration < 10
    assert ended.entries.get().data["message"] == "said"


def test_a_failure_has_its_error() -> None:
    execution = claimed()
    execution.finish(error=ERROR)
    assert (fresh(execution).state, fresh(execution).error) == ("FAILURE", ERROR)


def test_an_end_is_the_end() -> None:
    execution = claimed()
    execution.finish(result=1)
    before = everything()
    assert not execution.cancel()
    assert not execution.hand_back()
    let_expire(execution)
    assert (Execution.take_back(), Execution.end_poisonous(), Execution.end_overdue()) == ([], [], [])
    assert (fresh(execution).state, fresh(execution).result) == ("SUCCESS", 1)
    assert everything()[1:] == before[1:]


@pytest.mark.parametrize("state", ["waiting", "running"])
def test_what_has_not_ended_is_cancelled(state: str) -> None:
    execution = waiting() if state == "waiting" else claimed()
    assert execution.cancel()
    assert not execution.cancel()
    ended = fresh(execution)
    assert ended.state == "CANCELLED"
    assert ended.error == {"type": "cancelled", "message": "The execution was cancelled.", "retryable": False}
    assert ended.finished_at
    assert Execution.claim_next(KIND, "bob/1/1") is None


def test_of_finish_and_cancel_one_wins() -> None:
    wins = {"finish": 0, "cancel": 0}
    for _ in range(20):
        execution = claimed()
        lost, did_cancel = at_once(partial(execution.finish, result=1), fresh(execution).cancel)
        assert isinstance(lost, Fenced) == did_cancel
        ended = fresh(execution)
        assert (ended.state, ended.result) == (("CANCELLED", None) if did_cancel else ("SUCCESS", 1))
        wins["cancel" if did_cancel else "finish"] += 1
    assert sum(wins.values()) == 20


def test_a_cancel_that_waits_for_a_finish_comes_too_late() -> None:
    execution = claimed()
    with transaction.atomic():
        execution.finish(result=1)
        cancel = in_thread(fresh(execution).cancel)
        wait_for_lock()
    assert cancel.result(5) is False
    assert fresh(execution).state == "SUCCESS"


def test_a_finish_that_waits_for_a_cancel_comes_too_late() -> None:
    execution = claimed()
    with transaction.atomic():
        assert fresh(execution).cancel()
        late = in_thread(lambda: execution.finish(result=1))
        wait_for_lock()
    assert isinstance(late.exception(5), Fenced)
    assert (fresh(execution).state, fresh(execution).result) == ("CANCELLED", None)


@pytest.mark.parametrize("write", [keep_step, keep_entry, fail])
def test_a_write_that_waits_for_a_cancel_comes_too_late(write: Callable[[Execution], None]) -> None:
    execution = claimed()
    with transaction.atomic():
        assert fresh(execution).cancel()
        late = in_thread(lambda: write(execution))
        wait_for_lock()
    assert isinstance(late.exception(5), Fenced)
    assert Step.objects.count() == Entry.objects.count() == 0


def test_of_two_cancels_one_did_it() -> None:
    execution = waiting()
    assert sorted(at_once(fresh(execution).cancel, fresh(execution).cancel)) == [False, True]


# Hand back, take back


def test_a_hand_back_is_no_crash() -> None:
    execution = claimed()
    assert execution.hand_back()
    assert not execution.hand_back()
    back = fresh(execution)
    assert (back.state, back.crashes, back.worker, back.lease_until) == ("PENDING", 0, "", None)
    assert claim().attempt == 2


def test_a_worker_hands_back_what_it_and_its_children_hold() -> None:
    for worker in ("host/1/1", "host/1/7", "host/12/1", "host/2/1", "other/1/1", "host/1%/1", "HOST/1/1"):
        claimed(worker)
    done = claimed("host/1/9")
    done.finish()
    assert Execution.is_any_held_by("host/1/")
    assert Execution.hand_back_all("host/1/") == 2
    assert not Execution.is_any_held_by("host/1/")
    running = set(Execution.objects.filter(state="RUNNING").values_list("worker", flat=True))
    assert running == {"host/12/1", "host/2/1", "other/1/1", "host/1%/1", "HOST/1/1"}
    assert fresh(done).state == "SUCCESS"


def test_a_child_hands_back_what_it_holds_itself() -> None:
    own, sibling = claimed("host/1/7"), claimed("host/1/77")
    assert Execution.hand_back_all("host/1/7/") == 1
    assert (fresh(own).state, fresh(sibling).state) == ("PENDING", "RUNNING")


def test_a_lease_that_ran_out_is_a_crash() -> None:
    dead, alive = claimed(), claimed()
    let_expire(dead)
    assert Execution.take_back() == [KIND]
    assert Execution.take_back() == []
    back = fresh(dead)
    assert (back.state, back.crashes, back.attempt, back.worker) == ("PENDING", 1, 1, "")
    assert fresh(alive).state == "RUNNING"


def test_three_crashes_are_poison() -> None:
    execution = waiting()
    for crashes in range(1, MAX_CRASHES + 1):
        claim()
        let_expire(execution)
        ended = Execution.end_poisonous()
        assert ended == ([execution] if crashes == MAX_CRASHES else [])
        assert Execution.take_back() == ([] if crashes == MAX_CRASHES else [KIND])
    ended_for_good: Any = fresh(execution)
    assert (ended_for_good.state, ended_for_good.crashes) == ("FAILURE", MAX_CRASHES)
    assert ended_for_good.error["type"] == "poison"
    assert "died 3 times" in ended_for_good.error["message"]
    assert Execution.end_poisonous() == []


def test_hand_backs_between_crashes_do_not_count() -> None:
    execution = waiting()
    for _ in range(MAX_CRASHES - 1):
        claim()
        let_expire(execution)
        Execution.take_back()
        claim().hand_back()
    claim()
    assert Execution.end_poisonous() == []
    assert fresh(execution).crashes == MAX_CRASHES - 1


def test_two_sweepers_count_a_crash_once() -> None:
    for _ in range(5):
        execution = claimed()
        let_expire(execution)
        taken = at_once(Execution.take_back, Execution.take_back)
        assert sorted(map(len, taken)) == [0, 1]
        assert fresh(execution).crashes == 1
        execution.cancel()


def test_two_sweepers_end_an_overdue_execution_once() -> None:
    execution = claimed()
    Execution.objects.update(deadline=datetime.now(UTC) - timedelta(seconds=1))
    ended = at_once(Execution.end_overdue, Execution.end_overdue)
    assert sorted(map(len, ended)) == [0, 1]
    assert fresh(execution).error == {
        "type": "timeout",
        "message": "The execution took longer than it may and was stopped.",
        "retryable": False,
    }


def test_what_has_ended_or_has_time_is_not_overdue() -> None:
    late, early, done, handed = claimed(), claimed(), claimed(), claimed()
    done.finish()
    handed.hand_back()
    waiting()
    Execution.objects.filter(id__in=[late.id, done.id, handed.id]).update(
        deadline=datetime.now(UTC) - timedelta(seconds=1)
    )
    assert {each.id for each in Execution.end_overdue()} == {late.id, handed.id}
    assert (fresh(early).state, fresh(done).state) == ("RUNNING", "SUCCESS")


def test_what_waits_is_counted_by_kind() -> None:
    assert Execution.waiting() == {}
    for kind in (KIND, KIND, "other"):
        waiting(kind=kind)
    old = waiting(created_at=datetime.now(UTC) - timedelta(minutes=1))
    claimed(kind="third")
    assert Execution.waiting() == {KIND: 3, "other": 1}
    assert Execution.waiting(older_than=30) == {KIND: 1}
    old.cancel()
    assert Execution.waiting(older_than=30) == {}


# What is stored as a snapshot


def test_a_caught_failure_is_a_failed_step_of_a_success() -> None:
    execution = claimed()
    Step.record(execution, step_record("Good", entries=[(1, said("Good"))]))
    execution.finish(result=1, entries=[(2, said("Bad one#2")), (3, LOG)])
    details = fresh(execution).snapshot().public()["details"]
    assert {step["name"]: step["state"] for step in details["steps"]} == {"Good": "done", "Bad one": "failed"}
    assert [entry["step"] for entry in details["step_results"]] == ["Good", "Bad one#2", ""]
    assert (details["progress"], details["final_result"]) == (100, 1)


def test_a_snapshot_of_the_database_is_older_than_any_live_event() -> None:
    execution = claimed()
    assert str(execution.snapshot().id) == "1-0"
    assert waiting().snapshot().public()["state"] == "PENDING"
    assert orjson.dumps(execution.snapshot().dump())


def test_ids_that_are_not_there_are_nobodys() -> None:
    assert Execution.renew_leases([Claim(uuid.uuid4(), 1)]) == set()
