"""Flows that show what the page can meet."""

import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints

from main.errors import FlowError
from main.registry import flow
from main.run import Run

MARKUP = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


class Period(BaseModel):
    since: int
    until: int | None = None


@flow(title="Slow words", public=True, steps=2)
def slow_words_flow(run: Run, words: Annotated[int, Field(ge=1, le=1000)] = 30) -> str:
    """Write a number of words, one after the other."""
    run.step("Think", run.log, "Thinking about words")
    return run.step("Write", _writing(run, [f"**word{number}** " for number in range(words)]))


@flow(title="Markup", public=True)
def markup_flow(run: Run) -> str:
    """Say things that a page must not take for its own."""
    run.log(MARKUP)
    run.tool_result("lookup", [{"url": "javascript:document.title='owned'", "content": MARKUP}])
    return run.step(
        MARKUP, _writing(run, [MARKUP, *["so on "] * 40, f"\n\n[link](javascript:alert(1)) {MARKUP}"])
    )


@flow(title="Failing", public=True, step_retries=0)
def failing_flow(run: Run) -> str:
    """End in an error after a few words."""

    def fail() -> str:
        _writing(run, ["Once ", "upon ", "a ", "time "])()
        raise FlowError("The story has no end. Try another one.")

    return run.step("Tell", fail)


@flow(title="Figures", public=True)
def figures_flow(run: Run) -> dict[str, Any]:
    """Answer with JSON."""
    run.tool_result("table", {"rows": [[number, number**2] for number in range(50)]})
    return {"sum": 42, "rows": list(range(20))}


@flow(title="Long", public=True)
def long_flow(run: Run) -> str:
    """Say a lot, in long words."""

    def read() -> None:
        for number in range(200):
            run.log(f"Read page {number + 1} of 200")
        run.log("unbroken" * 100)
        run.tool_result("lookup", [{"url": "https://example.com/" + "path/" * 60, "content": "text " * 200}])

    run.step("Read", read)
    return "\n\n".join(
        ["long" * 100, "| a | b |\n| --- | --- |\n| " + "cell" * 80 + " | c |", *["words " * 100] * 50]
    )


@flow(title="Every field", public=True)
def every_field_flow(
    run: Run,
    name: Annotated[
        str, StringConstraints(min_length=1, max_length=80, pattern="^[A-Z]"), Field(title="Name")
    ],
    text: Annotated[str, StringConstraints(min_length=3, max_length=2000)],
    ratio: Annotated[float, Field(gt=0, le=1, description="How much of it.")],
    count: Annotated[int, Field(ge=1, le=10)] = 3,
    tone: Literal["calm", "bold"] = "calm",
    limit: int | None = None,
    tags: list[str] = [],  # noqa: B006 pydantic copies it
    period: Period | None = None,
    loud: bool = False,
) -> dict[str, Any]:
    """Answer with the inputs."""
    return {
        **{
            "name": name,
            "text": text,
            "ratio": ratio,
            "count": count,
            "tone": tone,
            "limit": limit,
            "tags": tags,
        },
        "period": period.model_dump() if period else None,
        "loud": loud,
    }


def _writing(run: Run, parts: list[str]) -> Callable[[], str]:
    def write() -> str:
        for part in parts:
            run.token(part)
            time.sleep(0.03)  # the pace of a model
        return "".join(parts)

    return write
