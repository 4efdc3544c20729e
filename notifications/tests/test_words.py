"""What mails say: results as text that reads well, failures in the receiver's language."""

import pytest
from django.utils.translation import override

from notifications.letters import readable
from notifications.sentences import translated


@pytest.mark.parametrize(
    ("markdown", "text"),
    [
        ("## Sources\n\n- **one**\n* two", "Sources\n\n• one\n• two"),
        ("see [[1]](</docs/readme/#start>)", "see [1]"),
        ("see [RFC 5321](https://example.com/rfc)", "see RFC 5321 (https://example.com/rfc)"),
        ("*Answered by* the demo", "Answered by the demo"),
        ("```python\n# x\n**a**\n```\n# y", "# x\n**a**\ny"),
        ("2 * 3 * 4, a_b_c, __init__, *p", "2 * 3 * 4, a_b_c, __init__, *p"),
        ("<b>&amp;</b>", "<b>&amp;</b>"),
        ("", ""),
    ],
)
def test_markdown_is_read_as_text(markdown: str, text: str) -> None:
    assert readable(markdown) == text


@pytest.mark.parametrize("text", ["[" * 8000, "*" * 8000, "[[" + "a" * 8000, "**a " * 2000, "[a](<" * 1500])
@pytest.mark.timeout(5)
def test_nothing_takes_long_to_read(text: str) -> None:
    assert readable(text)


@pytest.mark.parametrize(
    ("english", "spanish"),
    [
        ("The execution was cancelled.", "La ejecución se canceló."),
        (
            "Google Gemini did not answer in time. Try again in a moment.",
            "Google Gemini no respondió a tiempo. Inténtalo de nuevo en un momento.",
        ),
        ("100 % of the tests failed.", "100 % of the tests failed."),
        ("", ""),
    ],
)
def test_failures_are_told_in_the_language_that_is_active(english: str, spanish: str) -> None:
    with override("es"):
        assert translated(english) == spanish
    with override("en"):
        assert translated(english) == english
    with override(None):
        assert translated(english) == english


def test_what_stands_in_a_sentence_is_translated_as_well() -> None:
    with override("es"):
        told = translated("The service that this flow asked did not answer in time. Try again in a moment.")
    assert told.startswith("El servicio")
    assert "did not" not in told
