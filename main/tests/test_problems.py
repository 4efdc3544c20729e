"""Errors that are no view's own: what is not there, what is not allowed, and a database that leaves late."""

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from config.tests.waiting import wait_until
from main.channel import redis_client
from main.registry import load_flows
from main.tests.platform import Visitor

ANYTHING = {"Accept": "*/*"}
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def expect_problem(response: Any, status: int) -> None:
    body = response.json()
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert body["status"] == status
    assert body["error"] == body["detail"] != ""


@pytest.mark.parametrize(
    "path", ["/nothing", "/task-status/1/2/3", "/docs/nothing/", "/executions/x/answer/"]
)
def test_a_program_gets_a_problem_where_nothing_is(visitor: Visitor, path: str) -> None:
    expect_problem(visitor.get(path, headers=ANYTHING), 404)


def test_a_browser_gets_a_page_where_nothing_is(visitor: Visitor) -> None:
    response = visitor.get("/nothing", headers=BROWSER)
    assert response.status_code == 404
    assert "<h1" in response.text


@pytest.mark.parametrize(
    "path", ["/", "/executions/x/", "/executions/x/answer/", "/docs/readme/", "/health/"]
)
def test_a_page_that_is_only_read_says_so(visitor: Visitor, path: str) -> None:
    response = visitor.post(path)
    expect_problem(response, 405)
    assert response.headers["allow"] == "GET, HEAD"


def test_a_host_that_is_not_ours_is_a_problem(client: Client, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["example.com"]
    expect_problem(client.get("/flows/"), 400)


@pytest.fixture
def started(client: Client) -> Callable[[dict[str, Any]], Any]:
    """Ask this process for an execution of count_flow with some inputs."""
    load_flows(["main.tests.engine_flows"])
    return lambda inputs: client.post(
        "/start-task/", {"flow": "count_flow", "inputs": inputs}, content_type="application/json"
    )


@pytest.mark.django_db
def test_a_database_that_leaves_while_the_session_is_saved_is_a_503(
    client: Client, started: Callable[[dict[str, Any]], Any], settings: Any
) -> None:
    settings.SESSION_ENGINE = "main.tests.away_session"
    client.raise_request_exception = False
    response = started({})
    expect_problem(response, 503)
    assert int(response.headers["Retry-After"]) > 0


@pytest.mark.django_db
def test_only_what_is_started_is_counted_and_no_session_is_named(
    client: Client, started: Callable[[dict[str, Any]], Any], settings: Any
) -> None:
    settings.ANONYMOUS_STARTS_PER_MINUTE = 3
    client.defaults["REMOTE_ADDR"] = f"2001:db8::{random.getrandbits(32):x}"
    wait_until(lambda: time.time() % 60 < 55)
    assert [started({"to": "x"}).status_code for _ in range(4)] == [400] * 4
    assert [started({}).status_code for _ in range(4)] == [200, 200, 200, 429]
    keys = [key.decode() for key in redis_client().scan_iter("starts:*")]
    assert any(client.defaults["REMOTE_ADDR"] in key for key in keys)
    assert not any(client.cookies[settings.SESSION_COOKIE_NAME].value in key for key in keys)
