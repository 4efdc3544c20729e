"""`POST /api/v1/ops/queues/<name>/purge`: all that waits is cancelled, and whoever watches is told."""

from collections.abc import Iterator
from typing import Any

import pytest
from celery.result import AsyncResult
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from config.celery import app
from main.channel import history
from main.models import Entry, Execution, Step
from main.tests.rows import KIND, at_once, claimed, step_record, waiting, without_sweepers
from ops import queues
from ops.tests.conftest import AWAY

NAME = f"{KIND}.high"
LOG: Any = {"type": "log", "step": "Ask", "n": 0, "message": "said"}


@pytest.fixture(autouse=True)
def queue(monkeypatch: pytest.MonkeyPatch) -> queues.Queue:
    """A queue that no worker of a running platform takes from."""
    queue = queues.Queue(KIND, "high")
    monkeypatch.setitem(queues.QUEUES, queue.name, queue)
    return queue


@pytest.fixture
def alone(transactional_db: None) -> Iterator[None]:
    with without_sweepers():
        yield


def address(name: str = NAME) -> str:
    return f"/api/v1/ops/queues/{name}/purge"


def purged(client: Client) -> int:
    response = client.post(address())
    assert response.status_code == 200
    count: int = response.json()["cancelled"]
    return count


def states() -> set[str]:
    return set(Execution.objects.values_list("state", flat=True))


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("role", "status"),
    [("visitor", 403), ("user", 403), ("permitted user", 403), ("inactive staff", 403), ("staff", 200)],
)
def test_staff_purge(ask: Any, role: str, status: int) -> None:
    waiting(priority="high")
    assert ask(role, "POST", address()) == status
    assert states() == {"CANCELLED" if status == 200 else "PENDING"}


@pytest.mark.django_db
def test_following_the_address_does_nothing(staff: Client) -> None:
    waiting(priority="high")
    assert staff.get(address()).status_code == 405
    assert states() == {"PENDING"}


@pytest.mark.django_db
def test_three_that_wait_are_depth_three_and_all_are_cancelled(staff: Client) -> None:
    for _ in range(3):
        waiting(kind="io", priority="high")
    assert staff.get("/api/v1/ops/queues").json()["queues"][0]["depth"] == 3
    response = staff.post(address("io.high"))
    assert (response.status_code, response.json()) == (200, {"cancelled": 3})
    assert states() == {"CANCELLED"}
    assert staff.get("/api/v1/ops/queues").json()["queues"][0]["depth"] == 0


@pytest.mark.django_db
def test_only_what_waits_in_that_queue_is_cancelled(staff: Client) -> None:
    running = claimed(priority="high")
    others = [waiting(priority="low"), waiting(kind="io", priority="high"), running]
    waiting(priority="high")
    assert purged(staff) == 1
    assert Execution.objects.get(state="CANCELLED").priority == "high"
    for other in others:
        assert Execution.objects.get(id=other.id).state in ("PENDING", "RUNNING")


@pytest.mark.django_db
def test_what_was_purged_has_ended_like_what_was_cancelled(staff: Client) -> None:
    purged_one, other = waiting(priority="high"), waiting(priority="low")
    purged(staff)
    other.cancel()
    for each in (purged_one, other):
        each.refresh_from_db()
    assert purged_one.error == other.error
    assert purged_one.snapshot().public() == other.snapshot().public()
    assert purged_one.finished_at


@pytest.mark.django_db
def test_whoever_watches_or_asks_celery_is_told(staff: Client) -> None:
    execution = waiting(priority="high")
    purged(staff)
    told = history(str(execution.id))
    assert told
    assert (told.state, told.error and told.error["type"]) == ("FAILURE", "cancelled")
    assert AsyncResult(str(execution.id), app=app).state == "FAILURE"


@pytest.mark.usefixtures("alone")
def test_what_was_handed_back_is_purged_with_what_it_has_shown(staff: Client) -> None:
    execution = claimed(priority="high")
    Step.record(execution, step_record(entries=[(1, LOG)]))
    execution.hand_back()
    assert purged(staff) == 1
    told = history(str(execution.id))
    assert told
    assert [entry["message"] for entry in told.entries.values()] == ["said"]
    assert Entry.objects.get().data["message"] == "said"
    assert told.error


@pytest.mark.django_db
def test_what_continues_another_is_purged_with_the_steps_it_kept(staff: Client) -> None:
    failed = claimed(priority="high")
    Step.record(failed, step_record(entries=[(1, LOG)]))
    failed.finish(error=AWAY)  # type: ignore[arg-type]
    started = waiting(priority="high", effect_scope=failed.id)
    Step.copy(failed, started)
    Entry.copy(failed, started)
    assert purged(staff) == 1
    told = history(str(started.id))
    assert told
    assert told.public() == Execution.objects.get(id=started.id).snapshot().public()
    assert list(told.steps) == ["Ask"]


@pytest.mark.django_db
def test_an_unknown_queue_is_a_404_that_names_the_others(staff: Client) -> None:
    response = staff.post(address("io.urgent"))
    assert response.status_code == 404
    assert "“io.urgent”; there are io.high, io.normal, io.low, cpu.high" in response.json()["error"]


@pytest.mark.django_db
def test_many_are_cancelled_in_few_statements(queue: queues.Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "PURGED_AT_ONCE", 100)
    Execution.objects.bulk_create(
        Execution(flow="count_flow", kind=KIND, priority="high", time_limit=60) for _ in range(250)
    )
    with CaptureQueriesContext(connection) as captured:
        assert queues.purge(queue, by=None) == 250
    statements = [each["sql"] for each in captured if "SAVEPOINT" not in each["sql"]]
    assert len(statements) == 3
    assert states() == {"CANCELLED"}


@pytest.mark.usefixtures("alone")
def test_of_a_claim_and_a_purge_one_gets_it(queue: queues.Queue) -> None:
    for _ in range(10):
        waiting(priority="high")
        found, count = at_once(
            lambda: Execution.claim_next(KIND, "bob/1/1"), lambda: queues.purge(queue, by=None)
        )
        assert bool(found) != bool(count)
        assert states() == {"RUNNING" if found else "CANCELLED"}
        Execution.objects.all().delete()


@pytest.mark.usefixtures("alone")
def test_two_purges_at_once_cancel_each_once(queue: queues.Queue) -> None:
    for _ in range(30):
        waiting(priority="high")
    assert sum(at_once(*[lambda: queues.purge(queue, by=None)] * 3)) == 30
