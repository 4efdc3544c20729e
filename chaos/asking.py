"""What the flows ask the provider's stand-in (provider.py) for. Runs in the workers.

Every answer is a mark: which attempt got which value for which step. A step that is done again has another mark.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from main.errors import FlowError
from main.run import Run

# Set by the world for its workers.
PROVIDER = os.environ.get("CHAOS_PROVIDER", "")
VERSION = os.environ.get("CHAOS_VERSION", "1")
# Seconds that the provider may take beyond the work it was asked for.
PATIENCE = 8.0
# Seconds before a failed call is tried again, and how often: the longest outage of the provider is shorter.
PAUSE = 0.7
RETRIES = 40


def ask(run: Run, step: str, seconds: float) -> str:
    """Let the provider work for some seconds; return the mark of this call."""
    asked = {"execution": run.id, "step": step, "attempt": run.attempt, "seconds": seconds}
    return _post("/work", asked, seconds, {})


def ask_and_log(run: Run, step: str, seconds: float) -> str:
    """The same, and show the mark: an entry that differs where the step is done again.

    Other flows do without, because a run that was told to stop does so where it logs: a worker that wakes up
    would not come to its late write.
    """
    mark = ask(run, step, seconds)
    run.log(mark)
    return mark


def apply(run: Run, effect: str, key: str, seconds: float) -> str:
    """Ask the provider to change something; return the mark of the call that did."""
    asked = {"execution": run.id, "step": effect, "attempt": run.attempt, "seconds": seconds}
    return _post("/effects", asked, seconds, {"Idempotency-Key": key})


def told(run: Run, marks: list[str]) -> dict[str, Any]:
    """Return what a flow of ours ends with."""
    return {"attempt": run.attempt, "version": VERSION, "marks": marks}


def _post(path: str, asked: dict[str, Any], seconds: float, headers: dict[str, str]) -> str:
    import httpx

    with _trouble_is_passing():
        answer = httpx.post(f"{PROVIDER}{path}", json=asked, headers=headers, timeout=seconds + PATIENCE)
        return str(answer.raise_for_status().json()["mark"])


@contextmanager
def _trouble_is_passing() -> Iterator[None]:
    """Say of every trouble with the provider that the step is to be tried again."""
    import httpx

    try:
        yield
    except httpx.HTTPError as error:
        raise FlowError(
            "The provider has trouble.", "unavailable", retryable=True, retry_after=PAUSE
        ) from error
