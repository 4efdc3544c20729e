"""Tavily through its real client, against a local server that speaks its protocol."""

import json
import socket
import time
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda

from main.errors import Failure, classify_error
from main.search import describe_search, search
from main.tests.memory import ToolWatcher
from main.tests.providers import HIT, Behaviour, TavilyServer, answers, finds, hangs, hangs_up, refuses


def failure() -> Failure:
    with pytest.raises(Exception) as caught:  # noqa: PT011 which one it is, is the subject of classify_error
        search("tides")
    failure = classify_error(caught.value)
    assert "key-of-the-test" not in failure.message
    assert "http" not in failure.message
    return failure


def test_hits_have_address_title_and_content(tavily: TavilyServer) -> None:
    hits = search("Why are there tides?")
    assert hits == [{"url": HIT["url"], "title": HIT["title"], "content": HIT["content"]}]
    assert json.loads(json.dumps(hits)) == hits


def test_the_request_carries_the_key_the_question_and_a_limit(tavily: TavilyServer) -> None:
    search("Why are there tides?")
    [request] = tavily.requests
    assert request.path == "/search"
    assert request.headers["authorization"] == "Bearer tvly-key-of-the-test"
    assert request.body == {"query": "Why are there tides?", "max_results": 5}


def test_a_long_question_is_cut_at_a_word_to_what_tavily_takes(tavily: TavilyServer) -> None:
    search("tide " * 200)
    query = tavily.requests[0].body["query"]
    assert len(query) <= 400
    assert query.endswith("tide…")


def test_no_results_are_an_answer(tavily: TavilyServer) -> None:
    tavily.script.append(finds())
    assert search("tides") == []


def test_a_result_without_title_or_content_is_no_error(tavily: TavilyServer) -> None:
    tavily.script.append(finds({"url": "https://example.org", "title": None}))
    assert search("tides") == [{"url": "https://example.org", "title": "", "content": ""}]


def test_callbacks_see_the_tool(tavily: TavilyServer) -> None:
    watcher = ToolWatcher()
    hits = RunnableLambda(search).invoke("tides", {"callbacks": [watcher]})
    assert watcher.seen == ["tavily_search_results_json", hits]


@pytest.mark.parametrize(
    ("behaviour", "expected", "retryable"),
    [
        (refuses(401, "Unauthorized: missing or invalid API key."), "bad_key", False),
        (refuses(403, "Forbidden."), "bad_key", False),
        (refuses(429, "Your request has been blocked due to excessive requests."), "quota", True),
        (refuses(432, "This request exceeds your plan's set usage limit."), "quota", False),
        (refuses(433, "This request exceeds the pay-as-you-go limit."), "quota", False),
        (refuses(400, "Invalid request."), "invalid_request", False),
        (refuses(500, "Internal error."), "unavailable", True),
        (answers(502, "no JSON"), "unavailable", True),
        (hangs_up, "unavailable", True),
    ],
)
def test_trouble_becomes_a_sentence(
    tavily: TavilyServer, behaviour: Behaviour, expected: str, retryable: bool
) -> None:
    tavily.script.append(behaviour)
    told = failure()
    assert (told.type, told.retryable) == (expected, retryable)
    assert "Tavily" in told.message
    assert len(tavily.requests) == 1


def test_the_wait_that_tavily_asks_for_is_passed_on(tavily: TavilyServer) -> None:
    tavily.script.append(refuses(429, "Too many requests.", {"Retry-After": "7"}))
    assert failure().retry_after == 7


def test_after_an_error_the_next_search_is_good(tavily: TavilyServer) -> None:
    tavily.script.append(refuses(500, "Internal error."))
    assert failure().type == "unavailable"
    assert search("tides")


def test_a_server_that_never_answers_is_given_up(tavily: TavilyServer, settings: Any) -> None:
    settings.PROVIDER_TIMEOUT = 0.3
    tavily.script.append(hangs)
    begun = time.monotonic()
    assert failure().type == "timeout"
    assert 0.25 < time.monotonic() - begun < 2


def test_a_refused_connection_is_a_sentence(tavily: TavilyServer, settings: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        settings.TAVILY_BASE_URL = f"http://127.0.0.1:{closed.getsockname()[1]}"
    assert failure().type == "unavailable"


def test_the_search_is_described(tavily: TavilyServer) -> None:
    assert describe_search()[:2] == ("Tavily", False)
