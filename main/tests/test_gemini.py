"""Gemini through Google's real client, against a local server that speaks its protocol."""

import asyncio
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from main.chat_models import chat_model, describe_chat_model
from main.errors import Failure, FlowError, classify_error
from main.tests.providers import (
    Behaviour,
    GeminiServer,
    breaks_after,
    ends_early_after,
    fails,
    hangs,
    hangs_up,
    has_no_quota,
    refuses_the_key,
    refuses_the_prompt,
    says,
    stalls_after,
)

PROMPT = "Say something."


def invoke() -> str:
    return chat_model().invoke(PROMPT).text


def stream() -> str:
    return "".join(chunk.text for chunk in chat_model().stream(PROMPT))


def ainvoke() -> str:
    return asyncio.run(chat_model().ainvoke(PROMPT)).text


def astream() -> str:
    async def read() -> str:
        return "".join([chunk.text async for chunk in chat_model().astream(PROMPT)])

    return asyncio.run(read())


CALLS = [invoke, stream, ainvoke, astream]
every_call = pytest.mark.parametrize("call", CALLS)


def failure_of(call: Callable[[], Any]) -> Failure:
    with pytest.raises(Exception) as caught:  # noqa: PT011 which one it is, is the subject of classify_error
        call()
    failure = classify_error(caught.value)
    assert "key-of-the-test" not in failure.message
    assert "http" not in failure.message
    return failure


@every_call
def test_an_answer_arrives_whole(gemini: GeminiServer, call: Callable[[], str]) -> None:
    assert call() == "Rain on the roof."


def test_an_answer_streams_part_by_part_and_counts_its_tokens(gemini: GeminiServer) -> None:
    chunks = list(chat_model().stream(PROMPT))
    assert [chunk.text for chunk in chunks if chunk.text] == ["Rain ", "on the ", "roof."]
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["input_tokens"] == 4
    assert whole.usage_metadata["output_tokens"] == 3


def test_the_request_names_model_and_key_and_gives_the_answer_time(gemini: GeminiServer) -> None:
    invoke()
    [request] = gemini.requests
    assert request.path == "/v1beta/models/gemini-3.8-flash:generateContent"
    assert request.headers["x-goog-api-key"] == "key-of-the-test"
    assert request.headers["x-server-timeout"] == "600"
    assert request.body["contents"][0]["parts"][0]["text"] == PROMPT


@pytest.mark.parametrize("call", [invoke, stream])
@pytest.mark.parametrize(
    ("behaviour", "expected", "retryable"),
    [
        (refuses_the_key, "bad_key", False),
        (fails(401, "UNAUTHENTICATED"), "bad_key", False),
        (fails(403, "PERMISSION_DENIED"), "bad_key", False),
        (has_no_quota(37), "quota", True),
        (has_no_quota(37, "GenerateRequestsPerDayPerProjectPerModel-FreeTier"), "quota", False),
        (fails(500, "INTERNAL"), "unavailable", True),
        (fails(503, "UNAVAILABLE", "The model is overloaded."), "unavailable", True),
        (fails(504, "DEADLINE_EXCEEDED"), "timeout", True),
        (fails(400, "INVALID_ARGUMENT", "The input exceeds the maximum number of tokens allowed (8)."),
         "invalid_request", False),
        (fails(404, "NOT_FOUND", "models/nonsense is not found."), "invalid_request", False),
        (fails(400, "INVALID_ARGUMENT"), "invalid_request", False),
        (hangs_up, "unavailable", True),
        (refuses_the_prompt, "blocked", False),
        (says("Well, ", "", finish="SAFETY"), "blocked", False),
    ],
)  # fmt: skip
def test_trouble_becomes_a_sentence(
    gemini: GeminiServer, call: Callable[[], str], behaviour: Behaviour, expected: str, retryable: bool
) -> None:
    gemini.script.append(behaviour)
    failure = failure_of(call)
    assert (failure.type, failure.retryable) == (expected, retryable)
    assert failure.message.startswith(
        ("Gemini", "The text is too long for Gemini", "The quota of this server's")
    )
    assert len(gemini.requests) == 1  # the client does not retry by itself


def test_the_wait_that_google_asks_for_is_passed_on(gemini: GeminiServer) -> None:
    gemini.script.append(has_no_quota(37.5))
    assert failure_of(stream).retry_after == 37.5


def test_after_an_error_the_next_call_is_good(gemini: GeminiServer) -> None:
    gemini.script.append(fails(500, "INTERNAL"))
    assert failure_of(stream).type == "unavailable"
    assert stream() == "Rain on the roof."


@pytest.mark.parametrize("call", [stream, astream])
@pytest.mark.parametrize("behaviour", [breaks_after("Rain "), ends_early_after("Rain "), ends_early_after()])
def test_half_an_answer_is_not_taken_for_a_whole_one(
    gemini: GeminiServer, call: Callable[[], str], behaviour: Behaviour
) -> None:
    gemini.script.append(behaviour)
    failure = failure_of(call)
    assert failure.type == "truncated"
    assert failure.retryable


@every_call
def test_a_server_that_never_answers_is_given_up(
    gemini: GeminiServer, settings: Any, call: Callable[[], str]
) -> None:
    settings.PROVIDER_TIMEOUT = 0.3
    gemini.script.append(hangs)
    begun = time.monotonic()
    assert failure_of(call).type == "timeout"
    assert 0.25 < time.monotonic() - begun < 2


@pytest.mark.parametrize("call", [stream, astream])
def test_a_stream_that_stalls_is_given_up(
    gemini: GeminiServer, settings: Any, call: Callable[[], str]
) -> None:
    settings.PROVIDER_TIMEOUT = 0.3
    gemini.script.append(stalls_after("Rain ", "on "))
    begun = time.monotonic()
    failure = failure_of(call)
    assert failure.type == "timeout"
    assert failure.retryable
    assert 0.25 < time.monotonic() - begun < 2


def test_a_refused_connection_is_a_sentence(gemini: GeminiServer, settings: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        settings.GOOGLE_GEMINI_BASE_URL = f"http://127.0.0.1:{closed.getsockname()[1]}"
    assert failure_of(stream).type == "unavailable"


def test_one_model_serves_one_event_loop_after_another(gemini: GeminiServer) -> None:
    assert [ainvoke(), astream(), ainvoke(), astream()] == ["Rain on the roof."] * 4


def test_a_spec_is_made_once_for_all_threads(gemini: GeminiServer) -> None:
    with ThreadPoolExecutor(8) as pool:
        models = list(pool.map(lambda _: chat_model("google_genai:gemini-3.5-flash"), range(16)))
    assert len({id(model) for model in models}) == 1


def test_a_missing_key_is_named(settings: Any) -> None:
    settings.GEMINI_API_KEY = ""
    with pytest.raises(FlowError, match="GEMINI_API_KEY"):
        chat_model("google_genai:gemini-3.8-flash")


def test_an_unknown_provider_is_told_the_known_ones(settings: Any) -> None:
    with pytest.raises(FlowError, match=r"“oracle:delphi” has no known provider.*“google_genai:”, “demo:”"):
        chat_model("oracle:delphi")


def test_without_settings_the_demo_model_answers_and_says_so(settings: Any) -> None:
    settings.CHAT_MODEL = settings.GEMINI_API_KEY = ""
    assert describe_chat_model().demo
    assert "demo" in describe_chat_model().name.lower()
    assert "GEMINI_API_KEY" in describe_chat_model().note


def test_with_a_key_the_model_is_named(gemini: GeminiServer, settings: Any) -> None:
    assert describe_chat_model()[:2] == ("gemini-3.8-flash", False)
    settings.CHAT_MODEL = "google_genai:gemini-3.5-flash-lite"
    assert describe_chat_model().name == "gemini-3.5-flash-lite"
    settings.CHAT_MODEL = "demo:"
    assert describe_chat_model().demo


def test_a_wrong_setting_is_described_not_raised(settings: Any) -> None:
    settings.CHAT_MODEL = "oracle:delphi"
    assert "CHAT_MODEL" in describe_chat_model().note
