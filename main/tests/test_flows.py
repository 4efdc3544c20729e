"""The flows that come with the project, run by a real Run with real clients."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from main.chat_models import chat_model
from main.errors import classify_error
from main.flows import poem, web_search
from main.markdown import render_markdown
from main.registry import InputError, get_flow
from main.run import Run
from main.search import Hit
from main.tests.memory import Channel, Journal
from main.tests.providers import (
    HIT,
    GeminiServer,
    TavilyServer,
    breaks_after,
    finds,
    has_no_quota,
    refuses_the_key,
    says,
)


@pytest.fixture
def run_flow(journal: Journal, channel: Channel) -> Callable[..., Any]:
    def run_flow(name: str, **inputs: Any) -> Any:
        flow = get_flow(name)
        run = Run("1", journal=journal, channel=channel, expected_steps=flow.steps)
        return flow.call(run, chat_model, flow.validate(inputs))

    return run_flow


@pytest.fixture(autouse=True)
def demo(settings: Any) -> None:
    settings.CHAT_MODEL = settings.GEMINI_API_KEY = settings.TAVILY_API_KEY = ""
    settings.DEMO_TOKEN_DELAY = 0.0


def test_a_poem_is_written_word_by_word_on_a_theme_from_the_list(
    run_flow: Callable[..., Any], journal: Journal, channel: Channel
) -> None:
    written = run_flow("poem_flow")
    theme, kept = (step.result for step in journal.steps)
    assert theme in poem.THEMES
    assert written == kept == channel.text
    assert written.startswith(f"**{theme[0].upper()}{theme[1:]}**")
    assert len(channel.of("token")) > 50
    assert [event["name"] for event in channel.of("step") if event["state"] == "done"] == [
        "Choose a theme",
        "Write the poem",
    ]


def test_a_poem_taken_up_again_keeps_its_theme(run_flow: Callable[..., Any], journal: Journal) -> None:
    run_flow("poem_flow")
    theme = journal.steps[0].result
    del journal.steps[1]
    for _ in range(5):
        assert theme[1:] in run_flow("poem_flow")
        del journal.steps[1]


def test_a_search_shows_its_hits_and_the_answer_names_them(
    run_flow: Callable[..., Any], channel: Channel, gemini: GeminiServer, tavily: TavilyServer
) -> None:
    tavily.script.append(finds(HIT, HIT | {"url": "https://example.org/sea", "title": "The [deep] sea"}))
    gemini.script.append(says("The moon ", "pulls the sea [1]."))
    answer = run_flow("web_search_flow", question="Why are there tides?")
    [shown] = channel.of("tool_result")
    assert shown["tool"] == "tavily_search_results_json"
    assert shown["step_name"] == "Search the web"
    assert [hit["url"] for hit in shown["data"]] == ["https://example.org/tides", "https://example.org/sea"]
    assert channel.text == "The moon pulls the sea [1]."
    assert answer == (
        "The moon pulls the sea [1].\n\n**Sources**\n\n"
        "1. [Tides](<https://example.org/tides>) – https://example.org/tides\n"
        "2. [The (deep) sea](<https://example.org/sea>) – https://example.org/sea"
    )


def test_the_model_is_given_the_question_and_the_numbered_hits(
    run_flow: Callable[..., Any], gemini: GeminiServer, tavily: TavilyServer
) -> None:
    run_flow("web_search_flow", question="Why are there {tides}?")
    [request] = gemini.requests
    [content] = request.body["contents"]
    assert content["parts"][0]["text"] == (
        "Question: Why are there {tides}?\n\nSearch results:\n\n"
        "[1] Tides\nhttps://example.org/tides\nThe moon pulls the sea; that is why there are tides."
    )


def test_a_full_quota_and_half_an_answer_are_tried_again(
    run_flow: Callable[..., Any], channel: Channel, gemini: GeminiServer
) -> None:
    gemini.script.extend([has_no_quota(0.05), breaks_after("Half a"), says("A whole ", "poem.")])
    assert run_flow("poem_flow") == "A whole poem."
    assert len(gemini.requests) == 3
    restarts = [event for event in channel.of("step") if event.get("restarted")]
    assert [event["name"] for event in restarts] == ["Write the poem"] * 2


def test_a_wrong_key_ends_the_flow_at_once(run_flow: Callable[..., Any], gemini: GeminiServer) -> None:
    gemini.script.append(refuses_the_key)
    with pytest.raises(Exception) as caught:  # noqa: PT011 which one it is, is the subject of classify_error
        run_flow("poem_flow")
    assert classify_error(caught.value).type == "bad_key"
    assert len(gemini.requests) == 1


def test_a_search_without_hits_asks_no_model(
    run_flow: Callable[..., Any], gemini: GeminiServer, tavily: TavilyServer
) -> None:
    tavily.script.append(finds())
    assert "found nothing for “Why?”" in run_flow("web_search_flow", question="Why?")
    assert gemini.requests == []


def test_the_demo_model_cites_the_hits(run_flow: Callable[..., Any], tavily: TavilyServer) -> None:
    answer = run_flow("web_search_flow", question="Why are there tides?")
    assert "tides. [[1]](<https://example.org/tides>)" in answer
    assert "demo model" in answer


@pytest.mark.django_db(transaction=True)
def test_without_keys_a_search_finds_this_project(run_flow: Callable[..., Any], channel: Channel) -> None:
    answer = run_flow("web_search_flow", question="What is a flow?")
    [shown] = channel.of("tool_result")
    assert shown["tool"] == "demo_search"
    addresses = [hit["url"] for hit in shown["data"]]
    assert addresses
    assert [each for each in addresses if not each.startswith("/docs/")] == []
    assert all(f"(<{each}>)" in answer for each in addresses)


@pytest.mark.parametrize("question", ["", "   ", "\n\t", "x" * 1001, 7, None])
def test_a_question_must_say_something(question: Any) -> None:
    with pytest.raises(InputError):
        get_flow("web_search_flow").validate({"question": question})


def test_a_question_is_taken_without_the_space_around_it() -> None:
    assert get_flow("web_search_flow").validate({"question": " Why? "}) == {"question": "Why?"}
    schema = get_flow("web_search_flow").schema["properties"]["question"]
    assert (schema["minLength"], schema["maxLength"]) == (1, 1000)


def test_a_source_is_one_link_whatever_it_is_called() -> None:
    hit = Hit(url="https://example.org/a b>(x)", title="](https://evil.example)[", content="")
    assert re.findall(r'href="([^"]*)"', render_markdown(web_search.sources([hit]))) == [
        "https://example.org/a%20b%3E(x)"
    ]
