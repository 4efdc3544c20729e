"""Flows for tests of the engine."""

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any

from main.chat_models import ChatModel
from main.errors import FlowError
from main.registry import flow
from main.run import Run


@flow(public=True, steps=2)
def count_flow(run: Run, to: int = 3) -> int:
    """Add numbers."""
    numbers: list[int] = run.step("List", lambda: list(range(to)))
    total: int = run.step("Sum", sum, numbers)
    return total


@flow(public=True, kind="cpu")
def cpu_count_flow(run: Run, to: int = 3) -> int:
    """Add numbers, in a process."""
    total: int = run.step("Sum", lambda: sum(range(to)))
    return total


@flow(public=True, kind="cpu", steps=2)
def cpu_slow_flow(run: Run, seconds: float = 1.0) -> int:
    """Finish a step, then compute for a while."""
    first: int = run.step("First", os.getpid)
    run.step("Slow", lambda: time.sleep(seconds))
    return first


@flow(public=True, kind="cpu")
def cpu_steps_flow(run: Run, folder: str, steps: int = 50, seconds: float = 0.3) -> int:
    """Do many short steps; each call leaves a file."""

    def compute() -> None:
        _called(Path(folder), "compute")
        time.sleep(seconds)

    for _ in range(steps):
        run.step("Compute", compute)
    return steps


@flow(public=True, steps=3)
def gate_flow(run: Run, folder: str) -> str:
    """Finish a step, then wait for a file `open` in a folder; every call of a step leaves a file there."""
    path = Path(folder)
    run.log("Begun")
    first = run.step("First", lambda: _called(path, "first"))
    run.tool_result("lookup", [{"url": "https://example.com/", "content": first}])

    def wait() -> str:
        called = _called(path, "wait")
        run.log("Waiting for the gate")
        run.token("Waiting")
        while not (path / "open").exists():
            time.sleep(0.02)
            run.check()
        return called

    second = run.step("Wait", wait)
    return f"{first} {second}"


@flow(public=True)
def stubborn_flow(run: Run, folder: str) -> str:
    """Wait for a file without ever calling the run, as a model call that hangs does."""

    def hang() -> str:
        _called(Path(folder), "hang")
        while not (Path(folder) / "open").exists():
            time.sleep(0.02)
        return "late"

    return str(run.step("Hang", hang))


@flow(public=True)
def deadly_flow(run: Run) -> None:
    """Kill the process that it runs in."""
    run.step("Die", lambda: os._exit(1))


@flow(public=True, time_limit=1)
def endless_flow(run: Run) -> None:
    """Run past the limit."""
    while True:
        run.check()
        time.sleep(0.02)


@flow(public=True, step_retries=2)
def flaky_flow(run: Run, failures: int = 1) -> str:
    """Fail a number of times with an error that is worth a retry."""
    left = [failures]

    def attempt() -> str:
        run.token("half an answer ")
        if left[0]:
            left[0] -= 1
            raise FlowError("The oracle is asleep.", type="unavailable", retryable=True, retry_after=0.05)
        return "an answer"

    return str(run.step("Ask", attempt))


@flow(public=True)
def secret_flow(run: Run) -> None:
    """Fail with a text that is for nobody's eyes."""
    raise RuntimeError("password=hunter2")


@flow(public=True)
def leaving_flow(run: Run, how: str) -> None:
    """Raise what no `except Exception` catches, in a step."""
    exits = {"cancel": asyncio.CancelledError, "exit": SystemExit, "interrupt": KeyboardInterrupt}

    def leave() -> None:
        run.log("Leaving")
        raise exits[how]

    run.step("Leave", leave)


@flow(public=True)
def odd_result_flow(run: Run) -> Any:
    """Return what nobody can keep."""
    return run.step("Odd", threading.Lock)


@flow(public=True)
def large_flow(run: Run, kilobytes: int = 200) -> str:
    """Show a large tool result and return a large answer."""
    run.tool_result("table", [{"row": "x" * 1000} for _ in range(kilobytes)])
    return "y" * 1000 * kilobytes


@flow(public=True)
def chain_flow(run: Run, llm: ChatModel, question: str) -> Any:
    """Build a chain of named parts and return it."""
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_core.runnables import RunnableLambda
    from langchain_core.tools import tool

    @tool
    def lookup(question: str) -> list[dict[str, str]]:
        """Look something up."""
        return [{"url": "https://example.com/", "content": f"All about {question}."}]

    find = (lookup | RunnableLambda(lambda hits: {"hits": hits})).with_config(run_name="Find sources")
    prompt = ChatPromptTemplate.from_template("{hits}").with_config(run_name="Build the prompt")
    return find | prompt | llm | StrOutputParser()


@flow(public=True)
def two_models_flow(run: Run, llm: ChatModel) -> str:
    """Ask the default model, and one that the flow makes itself."""
    from langchain_core.language_models import FakeListChatModel

    run.step("Ask the default", lambda: llm.invoke("Tides?").text)
    own = FakeListChatModel(responses=["The moon."], metadata={"ls_model_name": "own-1"})
    return str(run.step("Ask its own", lambda: own.invoke("Tides?").text))


@flow(public=True)
def asking_flow(run: Run, llm: ChatModel) -> str:
    """Ask the model three times in one step."""
    return run.step("Ask", lambda: " ".join(llm.invoke("Tides?").text for _ in range(3)))


@flow(public=True)
def starving_flow(run: Run) -> None:
    """Find no memory."""

    def starve() -> None:
        raise MemoryError

    run.step("Starve", starve)


@flow(title="Members only")
def members_flow(run: Run) -> str:
    """Is not open to visitors."""
    return "inside"


@flow(public=True, requires=["TAVILY_API_KEY"])
def needs_key_flow(run: Run) -> str:
    """Needs a key that tests do not have."""
    return "never"


@flow(public=True, steps=3)
def order_flow(run: Run, folder: str) -> str:
    """Draw a number, pay, and fail for as long as there is no file `repaired`; every call leaves a file."""
    path = Path(folder)
    drawn = run.step("Draw", lambda: _called(path, "drawn"))
    run.effect("Pay", lambda key: (path / f"paid-{key}").touch())

    def deliver() -> str:
        if not (path / "repaired").exists():
            raise FlowError("The van is broken.", type="broken")
        return drawn

    return str(run.step("Deliver", deliver))


def _called(folder: Path, name: str) -> str:
    """Leave a file for every call, and return how many there are."""
    count = len(list(folder.glob(f"{name}-*"))) + 1
    (folder / f"{name}-{count}").touch()
    return f"{name}-{count}"
