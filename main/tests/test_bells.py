"""Bells: each kind has a queue of its own, and one that comes twice or too late does no harm."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import transaction

from config.tests.waiting import wait_until
from main import bells
from main.channel import redis_client
from main.models import Execution
from main.registry import Flow
from main.tests.platform import Platform, Visitor
from main.tests.rows import KIND


@pytest.fixture
def busy_cpu(platform: Platform, visitor: Visitor, tmp_path: Path) -> Iterator[None]:
    """Both places of the cpu worker are taken."""
    started = [visitor.start("cpu_slow_flow", seconds=60) for _ in range(2)]
    wait_until(lambda: Execution.objects.filter(id__in=started, state="RUNNING").count() == 2)
    yield
    for task_id in started:
        visitor.post(f"/api/v1/executions/{task_id}/cancel").raise_for_status()


def test_each_kind_has_a_queue_of_its_own() -> None:
    for kind in ("nobody", "nothing"):
        assert bells.ring_now(kind)
        assert redis_client().llen(kind) == 1
        redis_client().delete(kind)


def test_with_the_cpu_worker_busy_an_io_flow_starts_at_once(busy_cpu: None, visitor: Visitor) -> None:
    waiting = visitor.start("cpu_count_flow")
    assert visitor.run("count_flow")["state"] == "SUCCESS"
    assert Execution.objects.get(id=waiting).state == "PENDING"
    visitor.post(f"/api/v1/executions/{waiting}/cancel").raise_for_status()


def test_bells_that_come_too_often_run_nothing_twice(
    platform: Platform, visitor: Visitor, tmp_path: Path
) -> None:
    task_id = visitor.start("gate_flow", folder=str(tmp_path))
    for _ in range(20):
        assert bells.ring_now("io")
    wait_until(lambda: (tmp_path / "wait-1").exists())
    (tmp_path / "open").touch()
    assert list(visitor.watch(task_id))[-1]["state"] == "SUCCESS"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["first-1", "open", "wait-1"]
    assert Execution.objects.get(id=task_id).attempt == 1


@pytest.mark.django_db(transaction=True)
def test_nothing_is_rung_for_before_it_is_stored() -> None:
    """A worker that came at once would find nothing."""
    redis_client().delete(KIND, "nobody")
    flow = Flow("race_flow", "Race", "", lambda: None, "", kind=KIND)  # type: ignore[arg-type]
    with transaction.atomic():
        Execution.start(flow, {})
        bells.ring("nobody")  # rung by the same thread, after all that was asked of it before
        wait_until(lambda: redis_client().llen("nobody") == 1)
        assert redis_client().llen(KIND) == 0
    wait_until(lambda: redis_client().llen(KIND) == 1)
    redis_client().delete(KIND, "nobody")
