"""A witness notes every kind of contradiction, and nothing that is as it should be."""

from typing import Any

import pytest

from chaos.witness import Snapshot, Witness

STEP = {"step": "Ask", "name": "Ask", "state": "running"}
DONE = {**STEP, "state": "done"}


def shown(
    *entries: tuple[str, int, str],
    steps: Any = (),
    progress: int = 0,
    state: str = "PROGRESS",
    **details: Any,
) -> Snapshot:
    results = [{"type": "log", "step": step, "n": n, "message": text} for step, n, text in entries]
    known = {"progress": progress, "step_results": results, "steps": list(steps)}
    return {"state": state, "details": {**known, **details}}


def contradictions(*snapshots: Snapshot) -> list[str]:
    witness = Witness()
    for snapshot in snapshots:
        witness.see(snapshot)
    return witness.contradictions


def test_an_execution_that_goes_on_contradicts_nothing() -> None:
    assert not contradictions(
        shown(state="PENDING"),
        shown(("Ask", 0, "▶ Ask"), steps=[STEP]),
        shown(("Ask", 0, "▶ Ask"), ("Ask", 1, "yes"), steps=[STEP], progress=10),
        shown(("Ask", 0, "▶ Ask"), steps=[{**STEP, "restarted": True}], progress=10),
        shown(("Ask", 0, "▶ Ask"), ("Ask", 1, "no"), steps=[DONE], progress=50),
        shown(("Ask", 1, "no"), steps=[DONE], progress=50, omitted=1),
        shown(
            ("Ask", 0, "▶ Ask"), ("Ask", 1, "no"), steps=[DONE], progress=100, state="SUCCESS", final_result=1
        ),
    )


SAID = ("Ask", 0, "yes")


@pytest.mark.parametrize(
    ("snapshots", "sentence"),
    [
        ([shown(progress=50), shown(progress=49)], "progress fell from 50 to 49"),
        ([shown(SAID, SAID, steps=[STEP])], "entry 0 of “Ask” was shown twice"),
        ([shown(SAID, steps=[DONE]), shown(steps=[DONE])], "the entries of “Ask” were ['yes'], and then []"),
        (
            [shown(SAID, steps=[DONE]), shown(("Ask", 0, "no"), steps=[DONE])],
            "the entries of “Ask” were ['yes'], and then ['no']",
        ),
        ([shown(steps=[DONE]), shown()], "“Ask” was done, and then was not there"),
        ([shown(steps=[DONE]), shown(steps=[STEP])], "“Ask” was done, and then running"),
        ([shown(SAID, steps=[STEP]), shown(steps=[STEP])], "“Ask” began again, and did not say so"),
        (
            [shown(state="SUCCESS", final_result=1), shown(state="FAILURE", error="no")],
            "the end was SUCCESS 1, and then FAILURE no",
        ),
        (
            [shown(state="SUCCESS", final_result=1), shown(state="SUCCESS", final_result=2)],
            "the end was SUCCESS 1, and then SUCCESS 2",
        ),
        ([shown(state="SUCCESS", final_result=1), shown()], "the end was SUCCESS 1, and then PROGRESS None"),
    ],
)
def test_what_is_shown_holds(snapshots: list[Snapshot], sentence: str) -> None:
    assert contradictions(*snapshots) == [sentence]
