import time
from typing import TypedDict

from main.registry import flow
from main.run import Run


@flow(public=True)
def token_flow(run: Run, tokens: int, pause: float = 0.0) -> int:
    """Write numbered words, each after a pause in seconds; return how many."""
    return run.step("Write", lambda: _write(run, tokens, pause))


def _write(run: Run, tokens: int, pause: float) -> int:
    for number in range(1, tokens + 1):
        if pause:
            time.sleep(pause)
        run.token(f"{number} ")
    return tokens


class Streamed(TypedDict):
    """How many tokens a model wrote, and seconds that it takes to write as many for LangChain alone."""

    tokens: int
    alone: float


@flow(public=True)
def model_flow(run: Run, tokens: int) -> Streamed:
    """Let a model of LangChain's write numbered words as fast as it can."""
    from langchain_core.language_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage

    words = AIMessage("".join(f"{number} " for number in range(1, tokens + 1)))
    began = time.perf_counter()
    for _ in GenericFakeChatModel(messages=iter([words])).stream(""):
        pass
    alone = time.perf_counter() - began
    run.step("Write", GenericFakeChatModel(messages=iter([words])), "")
    return {"tokens": tokens, "alone": alone}
