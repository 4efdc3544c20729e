"""`Idempotency-Key` on `POST /start-task/`: a request that comes again starts nothing again."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from main.models import Execution
from main.tests.platform import Platform, Visitor

BODY = {"flow": "count_flow", "inputs": {"to": 4}}


def start(visitor: httpx.Client, key: str, body: object = BODY) -> httpx.Response:
    return visitor.post("/start-task/", json=body, headers={"Idempotency-Key": key})


def count(key: str) -> int:
    return Execution.objects.filter(idempotency_key=key).count()


@pytest.fixture
def key() -> str:
    return f"test-{uuid.uuid4()}"


def id_in(response: httpx.Response) -> str:
    """Return the task id; the answer's ticket is another one every second."""
    task_id: str = response.raise_for_status().json()["task_id"]
    return task_id


def test_the_same_request_gives_the_same_id(visitor: Visitor, key: str) -> None:
    assert len({id_in(start(visitor, key)) for _ in range(3)}) == 1
    assert count(key) == 1


def test_the_order_of_fields_does_not_matter(visitor: Visitor, key: str) -> None:
    other = {"inputs": {"to": 4}, "flow": "count_flow"}
    assert id_in(start(visitor, key)) == id_in(start(visitor, key, other))


@pytest.mark.parametrize(
    "other", [{"flow": "count_flow", "inputs": {"to": 5}}, {"flow": "count_flow"}, {"flow": "no_flow"}]
)
def test_another_request_is_a_409_with_a_sentence(visitor: Visitor, key: str, other: object) -> None:
    start(visitor, key).raise_for_status()
    refused = start(visitor, key, other)
    assert refused.status_code == 409
    assert "another request" in refused.json()["error"]
    assert count(key) == 1


def test_requests_at_the_same_moment_start_one_execution(
    platform: Platform, visitor: Visitor, key: str
) -> None:
    visitor.start("count_flow")  # so that the session is there
    gate = threading.Barrier(8)

    def ask(_: int) -> str:
        with httpx.Client(base_url=platform.url, cookies=visitor.cookies, headers=visitor.headers) as client:
            client.get("/health/")  # connected
            gate.wait(10)
            found: str = start(client, key).raise_for_status().json()["task_id"]
            return found

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(8)))) == 1
    assert count(key) == 1


def test_a_visitor_whose_first_answer_was_lost_is_known_again(visitor: Visitor, key: str) -> None:
    first = start(visitor, key).json()["task_id"]
    session = next(name for name in visitor.cookies if name.startswith("sessionid"))
    visitor.cookies.delete(session)
    assert start(visitor, key).json()["task_id"] == first
    assert visitor.details(first)["id"] == first  # the new session sees it, too


def test_two_visitors_with_the_same_key_do_not_meet(platform: Platform, key: str) -> None:
    with platform.visitor() as alice, platform.visitor() as bob:
        assert id_in(start(alice, key)) != id_in(start(bob, key))
    assert count(key) == 2


def test_after_a_day_the_key_is_free_again(visitor: Visitor, key: str) -> None:
    first = start(visitor, key).json()["task_id"]
    Execution.objects.filter(id=first).update(created_at=datetime.now(UTC) - timedelta(hours=23, minutes=59))
    assert start(visitor, key).json()["task_id"] == first
    Execution.objects.filter(id=first).update(created_at=datetime.now(UTC) - timedelta(hours=24, seconds=1))
    second = start(visitor, key, {"flow": "count_flow"}).raise_for_status().json()["task_id"]
    assert second != first
    assert count(key) == 1


def test_what_was_refused_can_be_corrected_under_the_same_key(visitor: Visitor, key: str) -> None:
    assert start(visitor, key, {"flow": "count_flow", "inputs": {"to": "x"}}).status_code == 400
    assert start(visitor, key).status_code == 200


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there"])
def test_a_key_that_cannot_be_is_a_400(visitor: Visitor, key: str) -> None:
    refused = start(visitor, key)
    assert refused.status_code == 400
    assert "Idempotency-Key" in refused.json()["error"]


def test_run_again_with_a_key_happens_once(visitor: Visitor, key: str) -> None:
    task_id = visitor.start("count_flow")
    list(visitor.watch(task_id))

    def again(way: str) -> httpx.Response:
        address = f"/api/v1/executions/{task_id}/run-again"
        return visitor.post(address, json={"from": way}, headers={"Idempotency-Key": key})

    assert id_in(again("start")) == id_in(again("start"))
    assert again("failed_step").status_code == 409
    assert Execution.objects.filter(origin__id=uuid.UUID(task_id)).count() == 1
