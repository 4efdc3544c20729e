"""Providers that fail, seen by a user: real workers run flows against stand-ins that speak the providers' protocols.

All executions are started at once, and each of them asks a question that says how the providers answer it.
"""

import os
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis import Redis

from config import embedded
from config.servers import Servers
from main.channel import meta_key, stream_key
from main.tests.platform import SNAPSHOT, Platform, Visitor
from main.tests.providers import (
    HIT,
    Behaviour,
    Exchange,
    GeminiServer,
    TavilyServer,
    breaks_after,
    ends_early_after,
    fails,
    finds,
    gemini_event,
    hangs,
    has_no_quota,
    refuses,
    refuses_the_key,
    refuses_the_prompt,
    says,
)

PROJECT = Path(__file__).parents[2]
DATABASE = "api_ctm"
GEMINI_KEY = "AIza-nobody-may-see-this"
TAVILY_KEY = "tvly-nobody-may-see-this"
# What only somebody who reads the code wants to know.
TRACES = ("Traceback", 'File \\"', "site-packages", "httpx", "langchain", "HTTPError", "Exception")

# Google repeats the key in this one.
SUSPENDED = "has been suspended"

CHECK = "Whoever runs it has to check"
AWAY = "could not be reached or has trouble of its own. Try again in a moment."
LATE = "did not answer in time. Try again in a moment."
USED_UP = "is used up. Try again tomorrow, or ask whoever runs this server."


WRITES = says("The moon ", "pulls.")
FINDS = finds(HIT)


@dataclass(frozen=True)
class Failing:
    """How the providers answer, and what the user is told of it."""

    type: str
    message: str
    retryable: bool
    gemini: Behaviour = WRITES
    tavily: Behaviour = FINDS


FAILING = {
    "a wrong key": Failing(
        "bad_key",
        f"Gemini refused the API key of this server. {CHECK} GEMINI_API_KEY.",
        False,
        refuses_the_key,
    ),
    "a key that is repeated": Failing(
        "bad_key",
        f"Gemini refused the API key of this server. {CHECK} GEMINI_API_KEY.",
        False,
        fails(403, "PERMISSION_DENIED", f"Consumer 'api_key:{GEMINI_KEY}' {SUSPENDED}."),
    ),
    "a full minute": Failing(
        "quota",
        "Gemini takes no more requests from this server just now. Try again in a minute.",
        True,
        has_no_quota(0.2),
    ),
    "a full day": Failing(
        "quota",
        f"The quota of this server's account with Gemini {USED_UP}",
        False,
        has_no_quota(0.2, "GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
    ),
    "500 for ever": Failing("unavailable", f"Gemini {AWAY}", True, fails(500, "INTERNAL")),
    "no word at all": Failing("timeout", f"Gemini {LATE}", True, hangs),
    "a broken line": Failing(
        "truncated",
        "The connection to Gemini broke in the middle of its answer. Try again.",
        True,
        breaks_after("The moon "),
    ),
    "half an answer": Failing(
        "truncated",
        "Gemini's answer broke off before its end. Try again.",
        True,
        ends_early_after("The moon "),
    ),
    "a forbidden word": Failing(
        "blocked",
        "Gemini would not answer: its safety rules blocked the request or the answer. Put it otherwise.",
        False,
        refuses_the_prompt,
    ),
    "a search without a key": Failing(
        "bad_key",
        f"Tavily refused the API key of this server. {CHECK} TAVILY_API_KEY.",
        False,
        tavily=refuses(401, f"Unauthorized: {TAVILY_KEY} is no API key."),
    ),
    "a search too many": Failing(
        "quota",
        f"The quota of this server's account with Tavily {USED_UP}",
        False,
        tavily=refuses(432, "This request exceeds your plan's set usage limit."),
    ),
    "a search in trouble": Failing(
        "unavailable", f"Tavily {AWAY}", True, tavily=refuses(500, "Internal error.")
    ),
    "a search in silence": Failing("timeout", f"Tavily {LATE}", True, tavily=hangs),
}
SHORT_TROUBLE = "trouble that passes"


@dataclass(frozen=True)
class Shop:
    """A platform, somebody who uses it, and its Redis."""

    platform: Platform
    visitor: Visitor
    redis: Redis


@dataclass(frozen=True)
class Told:
    """All that left the server about an execution."""

    snapshots: list[SNAPSHOT]
    stream: str
    details: str
    redis: str

    @property
    def last(self) -> SNAPSHOT:
        return self.snapshots[-1]

    @property
    def logs(self) -> list[str]:
        return [entry["message"] for entry in self.last["details"]["step_results"] if entry["type"] == "log"]


def by_question(answers: dict[str, Behaviour], otherwise: Behaviour) -> Behaviour:
    """Answer each request by the question that is in it."""

    def behave(exchange: Exchange) -> None:
        asked = orjson.dumps(exchange.request.body).decode()
        next((each for question, each in answers.items() if question in asked), otherwise)(exchange)

    return behave


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """Answer each request by the next behaviour."""
    waiting = deque(behaviours)
    return lambda exchange: waiting.popleft()(exchange)


class Pausing:
    """A model that writes on when its first words were seen."""

    def __init__(self) -> None:
        self.seen = threading.Event()

    def __call__(self, exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.send_event(gemini_event("Rain "))
        exchange.send_event(gemini_event("on the "))
        self.seen.wait(20)
        exchange.send_event(gemini_event("roof.", "STOP"))
        exchange.end_stream()


@pytest.fixture(scope="module")
def poet() -> Pausing:
    return Pausing()


@pytest.fixture(scope="module")
def gemini_server(poet: Pausing) -> Iterator[GeminiServer]:
    answers = {question: failing.gemini for question, failing in FAILING.items()}
    answers[SHORT_TROUBLE] = in_turn(fails(500, "INTERNAL"), says("The moon ", "pulls the sea [1]."))
    answers["Write a short poem"] = poet
    with GeminiServer(by_question(answers, WRITES)) as server:
        yield server


@pytest.fixture(scope="module")
def tavily_server() -> Iterator[TavilyServer]:
    answers = {question: failing.tavily for question, failing in FAILING.items()}
    with TavilyServer(by_question(answers, FINDS)) as server:
        yield server


@pytest.fixture(scope="module")
def shop(gemini_server: GeminiServer, tavily_server: TavilyServer) -> Iterator[Shop]:
    """A platform with keys, and with servers of its own: no worker without keys takes its executions."""
    with tempfile.TemporaryDirectory(prefix="ctm-", dir="/tmp") as parent:
        local_dir = Path(parent) / "local"
        settings = {
            "LOCAL_DIR": str(local_dir),
            "POSTGRES_DB": DATABASE,
            "GEMINI_API_KEY": GEMINI_KEY,
            "GOOGLE_GEMINI_BASE_URL": gemini_server.url,
            "TAVILY_API_KEY": TAVILY_KEY,
            "TAVILY_BASE_URL": tavily_server.url,
            "PROVIDER_TIMEOUT": "1",
        }
        with (
            embedded.owned(local_dir),
            Servers(local_dir, database_name=DATABASE, durable=False),
        ):
            migrate = [sys.executable, str(PROJECT / "manage.py"), "migrate", "-v", "0"]
            subprocess.run(migrate, env=os.environ | settings, check=True)
            with (
                Platform(**settings) as platform,
                platform.visitor() as visitor,
                Redis.from_url(embedded.redis_url(local_dir)) as redis,
            ):
                yield Shop(platform, visitor, redis)


@pytest.fixture(scope="module")
def told(shop: Shop) -> dict[str, Told]:
    """Run all that may fail, side by side, and return by question what was told."""
    questions = [*FAILING, SHORT_TROUBLE]
    started = [shop.visitor.start("web_search_flow", question=question) for question in questions]
    with ThreadPoolExecutor(len(questions)) as threads:
        return dict(zip(questions, threads.map(partial(all_that_is_told, shop), started), strict=True))


def all_that_is_told(shop: Shop, task_id: str) -> Told:
    visitor, redis = shop.visitor, shop.redis
    stream = visitor.get(f"/task-status/{task_id}/").text
    data = [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: ")]
    details = visitor.get(f"/executions/{task_id}/", headers={"Accept": "application/json"})
    meta, events = redis.get(meta_key(task_id)), redis.xrange(stream_key(task_id))
    assert meta
    assert events
    return Told([orjson.loads(each) for each in data], stream, details.text, f"{meta!r} {events!r}")


def steps_of(snapshot: SNAPSHOT) -> dict[str, str]:
    return {step["name"]: step["state"] for step in snapshot["details"]["steps"]}


def test_a_poem_of_gemini_is_seen_to_grow(shop: Shop, poet: Pausing) -> None:
    snapshots: list[SNAPSHOT] = []
    for snapshot in shop.visitor.watch(shop.visitor.start("poem_flow")):
        snapshots.append(snapshot)
        if snapshot["details"].get("partial_result") == "Rain on the ":
            poet.seen.set()
    assert poet.seen.is_set()
    assert snapshots[-1]["state"] == "SUCCESS"
    assert snapshots[-1]["details"]["final_result"] == "Rain on the roof."


def test_what_tavily_found_is_shown_and_answered_from(shop: Shop) -> None:
    end = shop.visitor.run("web_search_flow", question="Why are there tides?")
    assert end["state"] == "SUCCESS"
    [shown] = [entry for entry in end["details"]["step_results"] if entry["type"] == "tool_result"]
    assert (shown["tool"], shown["step_name"]) == ("tavily_search_results_json", "Search the web")
    assert [(hit["url"], hit["content"]) for hit in shown["data"]] == [(HIT["url"], HIT["content"])]
    assert end["details"]["final_result"].startswith("The moon pulls.\n\n**Sources**")


@pytest.mark.parametrize("question", FAILING)
def test_a_failure_is_told_in_a_sentence(told: dict[str, Told], question: str) -> None:
    failing, last = FAILING[question], told[question].last
    assert (last["state"], last["details"]["status"]) == ("FAILURE", failing.message)
    assert last["details"]["error"] == {
        "type": failing.type,
        "message": failing.message,
        "retryable": failing.retryable,
    }
    assert list(steps_of(last).values())[-1] == "failed"
    in_detail: dict[str, Any] = orjson.loads(told[question].details)
    assert in_detail["details"]["error"] == last["details"]["error"]


@pytest.mark.parametrize("question", FAILING)
def test_what_may_pass_is_tried_again_and_nothing_else(told: dict[str, Told], question: str) -> None:
    tried_again = [line for line in told[question].logs if line.startswith("↻")]
    assert len(tried_again) == (3 if FAILING[question].retryable else 0)
    assert all(FAILING[question].message in line for line in tried_again)


@pytest.mark.parametrize("question", [*FAILING, SHORT_TROUBLE])
def test_neither_key_nor_trace_nor_address_is_told(
    told: dict[str, Told], question: str, gemini_server: GeminiServer, tavily_server: TavilyServer
) -> None:
    addresses = [server.url.removeprefix("http://") for server in (gemini_server, tavily_server)]
    for text in (told[question].stream, told[question].details, told[question].redis):
        assert [each for each in (GEMINI_KEY, TAVILY_KEY, *addresses, *TRACES) if each in text] == []


def test_trouble_that_passes_is_shown_and_overcome(told: dict[str, Told]) -> None:
    end = told[SHORT_TROUBLE].last
    assert end["state"] == "SUCCESS"
    assert end["details"]["final_result"].startswith("The moon pulls the sea [1].")
    [tried_again] = [line for line in told[SHORT_TROUBLE].logs if line.startswith("↻")]
    assert f"Gemini {AWAY}" in tried_again
    assert "(1 of 3)" in tried_again
    assert steps_of(end) == {"Search the web": "done", "Write the answer": "done"}


def keys_in_logs(shop: Shop) -> list[str]:
    logs = [shop.platform[name].log.read_text() for name in ("web", "worker-io")]
    assert all(logs)
    return [line for log in logs for line in log.splitlines() if GEMINI_KEY in line or TAVILY_KEY in line]


def test_the_keys_go_to_the_providers_and_into_no_log(
    shop: Shop, told: dict[str, Told], gemini_server: GeminiServer, tavily_server: TavilyServer
) -> None:
    assert {each.headers["x-goog-api-key"] for each in gemini_server.requests} == {GEMINI_KEY}
    assert {each.headers["authorization"] for each in tavily_server.requests} == {f"Bearer {TAVILY_KEY}"}
    assert [line for line in keys_in_logs(shop) if SUSPENDED not in line] == []


def test_a_key_that_a_provider_repeats_is_in_no_log(shop: Shop, told: dict[str, Told]) -> None:
    assert [line for line in keys_in_logs(shop) if SUSPENDED in line] == []
