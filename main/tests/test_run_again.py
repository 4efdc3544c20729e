"""Run again: from the start, or with the finished steps of the one that failed."""

import uuid
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from accounts.models import User
from main.again import WAYS, requeue, run_again, run_again_from_failed_step
from main.api import Conflict
from main.models import Execution, Step
from main.registry import load_flows
from main.tests.platform import Platform, Visitor
from main.tests.rows import at_once, claimed, step_record
from main.tests.streams import messages_of


def again(visitor: Visitor, task_id: str, way: str) -> dict[str, Any]:
    response = visitor.post(f"/api/v1/executions/{task_id}/run-again", json={"from": way})
    assert response.status_code == 200, response.text
    return {"id": response.json()["task_id"], "last": list(visitor.watch(response.json()["task_id"]))[-1]}


@pytest.fixture
def failed(visitor: Visitor, tmp_path: Path) -> str:
    """An execution that finished a step and paid, and failed in what came after."""
    task_id = visitor.start("order_flow", folder=str(tmp_path))
    last = list(visitor.watch(task_id))[-1]
    assert last["state"] == "FAILURE"
    (tmp_path / "repaired").touch()
    return task_id


def test_from_the_failed_step_finished_steps_are_kept(visitor: Visitor, failed: str, tmp_path: Path) -> None:
    before = {call.name for call in tmp_path.glob("drawn-*")}
    started = again(visitor, failed, "failed_step")
    assert started["last"]["state"] == "SUCCESS"
    assert {call.name for call in tmp_path.glob("drawn-*")} == before  # not drawn again
    assert [step["state"] for step in started["last"]["details"]["steps"]] == ["done", "done", "done"]
    assert messages_of(started["last"]).count("▶ Draw") == 1
    assert visitor.details(started["id"])["origin"] == failed


def test_an_effect_keeps_its_key_where_it_is_continued(visitor: Visitor, failed: str, tmp_path: Path) -> None:
    """Also where it was asked for and not written down: the receiver knows it by its key."""
    first = failed
    (tmp_path / "repaired").unlink()
    for _ in range(2):
        Step.objects.filter(execution=uuid.UUID(failed), key="Pay").delete()
        started = again(visitor, failed, "failed_step")
        assert started["last"]["state"] == "FAILURE"
        failed = started["id"]
    assert [call.name for call in tmp_path.glob("paid-*")] == [f"paid-{first}:Pay"]


def test_from_the_start_everything_is_done_again(visitor: Visitor, failed: str, tmp_path: Path) -> None:
    started = again(visitor, failed, "start")
    assert started["last"]["state"] == "SUCCESS"
    assert len(list(tmp_path.glob("drawn-*"))) == 2
    assert (tmp_path / f"paid-{started['id']}:Pay").exists()


def test_a_watcher_sees_the_kept_steps_before_a_worker_takes_it(platform: Platform, failed: str) -> None:
    with platform["worker-io"].paused():
        started = run_again_from_failed_step(Execution.objects.get(id=failed))
        snapshot = started.snapshot().public()["details"]
    assert [step["name"] for step in snapshot["steps"]] == ["Draw", "Pay"]
    assert snapshot["progress"] > 0


def test_a_success_has_no_failed_step(visitor: Visitor) -> None:
    task_id = visitor.start("count_flow")
    list(visitor.watch(task_id))
    refused = visitor.post(f"/api/v1/executions/{task_id}/run-again", json={"from": "failed_step"})
    assert (refused.status_code, "failed or was cancelled" in refused.json()["error"]) == (409, True)
    assert again(visitor, task_id, "start")["last"]["state"] == "SUCCESS"


def test_what_runs_is_not_run_again(visitor: Visitor, tmp_path: Path) -> None:
    task_id = visitor.start("gate_flow", folder=str(tmp_path))
    refused = visitor.post(f"/api/v1/executions/{task_id}/run-again", json={"from": "start"})
    assert (refused.status_code, "not ended" in refused.json()["error"]) == (409, True)
    visitor.post(f"/api/v1/executions/{task_id}/cancel")


def test_an_unknown_way_is_a_400(visitor: Visitor, failed: str) -> None:
    refused = visitor.post(f"/api/v1/executions/{failed}/run-again", json={"from": "the middle"})
    assert refused.status_code == 400
    assert refused.json()["errors"]["from"] == ["“from” is one of start, failed_step."]


def test_somebody_elses_is_not_there(platform: Any, failed: str) -> None:
    with platform.visitor() as bob:
        assert bob.post(f"/api/v1/executions/{failed}/run-again", json={"from": "start"}).status_code == 404


# Dead letters


@pytest.fixture
def dead_letter(transactional_db: None) -> Execution:
    load_flows(["main.tests.engine_flows"])
    execution = claimed(
        flow="count_flow",
        inputs={"to": 7},
        owner=User.objects.create_user("alice@example.com", "secret-1234"),
    )
    Step.record(execution, step_record("List"))
    execution.finish(error={"type": "unavailable", "message": "Away.", "retryable": True})
    return Execution.objects.get(id=execution.id)


def test_what_failed_or_expired_is_a_dead_letter(dead_letter: Execution) -> None:
    claimed().finish()
    claimed().cancel()
    assert list(Execution.dead_letters()) == [dead_letter]


@pytest.mark.parametrize("way", WAYS.values())
def test_a_dead_letter_is_requeued_once(dead_letter: Execution, way: Any) -> None:
    Execution.objects.filter(id=dead_letter.id).update(notify=True)
    outcomes = at_once(*[lambda: requeue(Execution.objects.get(id=dead_letter.id), way)] * 3)
    assert sorted(type(each).__name__ for each in outcomes) == ["Conflict", "Conflict", "Execution"]
    (started,) = dead_letter.runs_again.all()
    assert (started.owner_id, started.priority, started.inputs) == (
        dead_letter.owner_id,
        dead_letter.priority,
        dead_letter.inputs,
    )
    assert started.notify, "who asked to be told is told of this end as well"
    assert not Execution.dead_letters().exists()


def test_a_requeue_that_fails_leaves_the_dead_letter(dead_letter: Execution) -> None:
    Execution.objects.update(flow="gone_flow")
    with pytest.raises(LookupError, match="There is no flow “gone_flow”"):
        requeue(Execution.objects.get(), run_again)
    assert list(Execution.dead_letters()) == [dead_letter]


def test_a_dropped_one_is_gone_from_the_list_and_kept_in_the_history(dead_letter: Execution) -> None:
    assert dead_letter.settle()
    assert not dead_letter.settle()
    assert not Execution.dead_letters().exists()
    assert Execution.objects.get().state == "FAILURE"
    with pytest.raises(Conflict):
        requeue(dead_letter, run_again)


def test_steps_are_copied_in_their_order(dead_letter: Execution) -> None:
    started = run_again_from_failed_step(dead_letter)
    assert [(step.key, step.result) for step in started.steps.all()] == [("List", "an answer")]
    assert started.effect_scope == dead_letter.id
    assert connection.in_atomic_block is False
    assert isinstance(started.id, uuid.UUID)


def test_a_visitor_may_not_run_again_what_is_not_open_any_more(visitor: Visitor) -> None:
    task_id = visitor.start("count_flow")
    list(visitor.watch(task_id))
    Execution.objects.filter(id=task_id).update(flow="members_flow")
    refused = visitor.post(f"/api/v1/executions/{task_id}/run-again", json={"from": "start"})
    assert (refused.status_code, "Sign in" in refused.json()["error"]) == (403, True)


@pytest.mark.parametrize(
    ("body", "sentence"), [({}, "“from” is one of"), ({"form": "failed_step"}, "“form” is no field")]
)
def test_what_is_meant_has_to_be_said(visitor: Visitor, failed: str, body: Any, sentence: str) -> None:
    """From the start effects are applied again: nobody shall get there by a misspelling."""
    refused = visitor.post(f"/api/v1/executions/{failed}/run-again", json=body)
    assert (refused.status_code, sentence in refused.json()["error"]) == (400, True)
