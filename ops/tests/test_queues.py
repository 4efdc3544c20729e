"""`GET /api/v1/ops/queues`: what waits and runs, and who works on it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from main import channel
from main.models import Execution, WorkerBeat
from main.tests.rows import claimed, waiting
from ops import queues

pytestmark = pytest.mark.django_db

ADDRESS = "/api/v1/ops/queues"


def asked(client: Client) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the queues by name, and the kinds by name."""
    response = client.get(ADDRESS)
    assert response.status_code == 200
    body = response.json()
    return {each["name"]: each for each in body["queues"]}, {each["kind"]: each for each in body["kinds"]}


@pytest.mark.parametrize(
    ("role", "status"),
    [("visitor", 403), ("user", 403), ("permitted user", 403), ("inactive staff", 403), ("staff", 200)],
)
@pytest.mark.parametrize("end", ["", "/"])
def test_staff_look(ask: Any, role: str, status: int, end: str) -> None:
    assert ask(role, "GET", ADDRESS + end) == status


def test_every_queue_is_there_also_where_nothing_waits(staff: Client) -> None:
    found, kinds = asked(staff)
    assert list(found) == ["io.high", "io.normal", "io.low", "cpu.high", "cpu.normal", "cpu.low"]
    assert found["cpu.low"] == {
        "name": "cpu.low",
        "kind": "cpu",
        "priority": "low",
        "share": 1,
        "waiting_limit": 7 * 24 * 3600,
        "depth": 0,
        "oldest_seconds": None,
        "running": 0,
    }
    assert kinds["cpu"] == {"kind": "cpu", "consumers": 0, "places": 0, "stuck": 0, "bells": 0}


def test_what_waits_and_what_runs_is_counted_by_kind_and_priority(staff: Client) -> None:
    claimed(kind="io", priority="high")
    claimed(kind="io", priority="high").finish()
    for _ in range(3):
        waiting(kind="io", priority="high")
    waiting(kind="cpu", priority="low")
    found, _kinds = asked(staff)
    assert (found["io.high"]["depth"], found["io.high"]["running"]) == (3, 1)
    assert (found["cpu.low"]["depth"], found["cpu.low"]["running"]) == (1, 0)
    assert found["io.normal"]["depth"] == 0


def test_the_oldest_says_for_how_long_it_has_been_there(staff: Client) -> None:
    for seconds in (10, 7200, 60):
        execution = waiting(kind="io", priority="low")
        Execution.objects.filter(id=execution.id).update(
            created_at=datetime.now(UTC) - timedelta(seconds=seconds)
        )
    found, _kinds = asked(staff)
    assert 7200 <= found["io.low"]["oldest_seconds"] < 7300


def test_workers_count_while_they_are_heard_of(staff: Client) -> None:
    WorkerBeat.beat("host/1/1", "io", capacity=32, stuck=2)
    WorkerBeat.beat("host/2/2", "io", capacity=32)
    WorkerBeat.beat("host/3/3", "cpu")
    WorkerBeat.beat("host/4/4", "io", capacity=32, stuck=7)
    WorkerBeat.objects.filter(name="host/4/4").update(beat_at=datetime.now(UTC) - timedelta(seconds=16))
    _queues, kinds = asked(staff)
    assert (kinds["io"]["consumers"], kinds["io"]["places"], kinds["io"]["stuck"]) == (2, 64, 2)
    assert (kinds["cpu"]["consumers"], kinds["cpu"]["places"], kinds["cpu"]["stuck"]) == (1, 1, 0)


def test_bells_are_what_redis_holds_or_unknown(staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    # A queue that no worker of a running platform listens to.
    monkeypatch.setattr(queues, "QUEUES", {"race.high": queues.Queue("race", "high")})
    channel.redis_client().delete("race")  # what tests rang for and nobody heard
    channel.redis_client().rpush("race", "bell", "bell")
    try:
        assert asked(staff)[1]["race"]["bells"] == 2
    finally:
        channel.redis_client().delete("race")
    monkeypatch.setattr(queues, "with_redis", lambda what, default: default)
    assert asked(staff)[1]["race"]["bells"] is None


def test_it_costs_the_same_however_much_waits(
    staff: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for count in (1, 20):
        for number in range(count):
            waiting(kind="io", priority=["high", "normal", "low"][number % 3])
            WorkerBeat.beat(f"host/{count}/{number}", "io")
        # Session, user, what waits, what runs, the workers.
        with django_assert_num_queries(5):
            staff.get(ADDRESS)
