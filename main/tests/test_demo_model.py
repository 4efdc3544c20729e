"""The demo model: LangChain's standard suite, and what it says."""

import re
import time
from typing import Any

import pytest
from langchain_core.messages import ToolMessage
from langchain_tests.unit_tests import ChatModelUnitTests
from pydantic import BaseModel

from main.chat_models import chat_model
from main.demo_model import DemoChatModel
from main.demo_verse import ENGLISH, NOUNS, SPANISH, compose

RESULTS = """Question: What makes the tides?

Search results:

[1] The sea
https://example.org/tides
The moon pulls the sea and makes the tides. Fish do not care about it.

[2] Dogs
https://example.org/dogs
A dog barks at the moon now and then. Nobody knows what for."""


class TestStandardSuite(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[DemoChatModel]:
        return DemoChatModel


def answer(prompt: Any) -> str:
    return DemoChatModel().invoke(prompt).text


def test_it_writes_a_poem_on_a_theme_and_signs_it() -> None:
    poem = answer("Write a short poem, with a title, about the sea at night.")
    title, *stanzas, signature = poem.split("\n\n")
    assert title == "**The sea at night**"
    assert [len(stanza.splitlines()) for stanza in stanzas] == [4, 4, 4]
    assert "demo model" in signature


def test_the_same_theme_gives_the_same_poem_and_another_theme_another() -> None:
    assert compose("the sea") == compose("the sea")
    assert compose("the sea").splitlines()[2:] != compose("an old boat").splitlines()[2:]


def test_every_line_of_the_stock_fits_its_group() -> None:
    for group in ENGLISH + SPANISH:
        assert len(set(group)) == 4
    for group in SPANISH:
        assert len({re.search(r"[aeiouáéíóú][^aeiouáéíóú]*[aeiou]+s?$", line)[0] for line in group}) == 1  # type: ignore[index]
    for _, nouns in NOUNS:
        assert all(noun[0] not in "aeiou" for noun in nouns)  # they follow “a”


def test_a_spanish_request_gets_spanish_verse() -> None:
    poem = answer("Escribe un poema sobre la lluvia.")
    assert poem.startswith("**La lluvia**")
    assert "modelo de demostración" in poem


def test_it_answers_with_the_sentences_that_fit_and_cites_them() -> None:
    text = answer(RESULTS)
    assert "- The moon pulls the sea and makes the tides. [[1]](<https://example.org/tides>)" in text
    assert "Fish" not in text
    assert "demo model" in text


def test_it_answers_from_results_that_stand_in_the_prompt_as_data() -> None:
    hits = [{"url": "https://example.org/tides", "content": "The moon makes the tides. Fish do not care."}]
    for text in (str(hits), ToolMessage(str(hits), tool_call_id="1")):
        messages = (
            [("human", "What makes the tides?"), text]
            if isinstance(text, ToolMessage)
            else f"{text}\nWhat makes the tides?"
        )
        assert "The moon makes the tides. [https://example.org/tides]" in answer(messages)


def test_it_answers_from_the_context_in_its_instructions_but_does_not_cite_the_instructions() -> None:
    system = "Always say what makes the tides.\n\nContext: The moon makes the tides. Dogs bark now and then."
    text = answer([("system", system), ("human", "What makes the tides?")])
    assert "The moon makes the tides." in text
    assert "Always" not in text


def test_it_says_so_when_the_texts_do_not_fit() -> None:
    assert answer(RESULTS.replace("What makes the tides?", "Who won?")).startswith(
        "The texts say nothing about this."
    )


def test_otherwise_it_says_what_it_is() -> None:
    assert answer("Hello!").startswith("This is the demo model.")
    assert answer("¿Cómo estás?").startswith("Este es el modelo de demostración.")


def test_streaming_gives_the_same_text_word_by_word() -> None:
    chunks = list(DemoChatModel().stream(RESULTS))
    assert "".join(chunk.text for chunk in chunks) == answer(RESULTS)
    assert len(chunks) > 20
    assert chunks[-1].usage_metadata is not None or chunks[-2].usage_metadata is not None


def test_usage_is_counted() -> None:
    message = DemoChatModel().invoke("one two three")
    assert message.usage_metadata is not None
    assert message.usage_metadata["input_tokens"] == 3
    assert message.usage_metadata["output_tokens"] == len(message.text.split())


def test_words_come_at_the_pace_of_the_setting(settings: Any) -> None:
    settings.DEMO_TOKEN_DELAY = 0.01
    begun = time.monotonic()
    words = list(chat_model("demo:").stream("Hello!"))
    assert time.monotonic() - begun > 0.01 * (len(words) - 2)


def test_a_stop_word_ends_the_answer() -> None:
    assert DemoChatModel().invoke("Hello!", stop=["model"]).text == "This is the demo "


def test_structured_output_fits_its_schema() -> None:
    class Person(BaseModel):
        name: str
        age: int

    assert DemoChatModel().with_structured_output(Person).invoke("Anna is 33") == Person(
        name="Anna is 33", age=33
    )


def test_a_tool_is_called_only_on_demand() -> None:
    def look_up(word: str, pages: list[str], exact: bool, limit: int) -> str:
        """Look a word up."""
        return word

    def other() -> str:
        """Do something else."""
        return ""

    model = DemoChatModel()
    assert not model.bind_tools([look_up]).invoke("tide").tool_calls
    bound = model.bind_tools([other, look_up], tool_choice="look_up")
    [call] = bound.invoke("tide").tool_calls
    assert call["name"] == "look_up"
    assert call["args"] == {"word": "tide", "pages": [], "exact": False, "limit": 0}
    streamed = sum(list(bound.stream("tide"))[1:], start=next(iter(bound.stream("tide"))))
    assert streamed.tool_calls[0]["args"] == call["args"]


STRANGE = ["", " ", "?", "[", "[{}]", "[1]", "Question:", "{'a': [}", "\x00"]
LONG = [unit * 20_000 for unit in ("a", "?", "[{", "]", "\n\n[1] ", "poem ", "a? ", "results: ")]


@pytest.mark.parametrize("prompt", STRANGE + LONG, ids=lambda prompt: repr(prompt[:9]))
def test_no_prompt_is_too_strange(prompt: str) -> None:
    begun = time.monotonic()
    assert "demo model" in answer(prompt)
    assert time.monotonic() - begun < 2
