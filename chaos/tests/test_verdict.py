"""What went wrong is counted, whatever it is; what may happen is not."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chaos.client import Asked, Client, Watching
from chaos.faults import Fault, kind_named
from chaos.mail_server import Mail
from chaos.play import Facts, Start, Started
from chaos.prepare import ADDRESS
from chaos.provider import Call, Mark, marks_in
from chaos.records import Held, Note, Outgoing, Row, StepRow
from chaos.report import summary
from chaos.schedule import Planned
from chaos.verdict import counts, judge, recovery

CALL = Call("1", "Look", 1, "0a0a0a0a")
MARK = Mark("Look", 1, "0a0a0a0a")
EFFECT = Call("1", "Pay", 1, "0b0b0b0b", key="1:Pay", applied=True)
RESULT = {"attempt": 1, "marks": [CALL.mark, EFFECT.mark]}
ROW = Row("1", "tag", "effects_flow", "SUCCESS", 1, 0, RESULT, None)
STEPS = [StepRow("1", "Look", 1, MARK), StepRow("1", "Pay", 1, Mark("Pay", 1, "0b0b0b0b"))]
NOTES = [
    Note(1.0, "execution", "1", 0, "PENDING", "", ""),
    Note(2.0, "execution", "1", 1, "RUNNING", "", ""),
    Note(3.0, "step", "1", 1, "RUNNING", "Look", ""),
    Note(4.0, "step", "1", 1, "RUNNING", "Pay", ""),
    Note(5.0, "execution", "1", 1, "SUCCESS", "", "e"),
]
DONE = [{"step": "Look", "name": "Look", "state": "done"}, {"step": "Pay", "name": "Pay", "state": "done"}]
SHOWN = {
    "state": "SUCCESS",
    "details": {"progress": 100, "step_results": [], "steps": DONE, "final_result": RESULT},
}


MAIL = Mail(6.0, ADDRESS, "<1.ended.2@chaos.example.com>", "1")
SENT = Outgoing("1", "SENT", 1, 6.0)


def started(
    shown: Any = SHOWN, later: Any = SHOWN, *, id_: str = "1", notify: bool = True, **fields: Any
) -> Started:
    watching = Watching(Client(["http://127.0.0.1:1"]), "1", Path(os.devnull))
    watching.witness.see(shown)
    return Started(
        Start(0.0, "effects_flow", "tag", 5.0, notify=notify), id_, watching, seen_later=later, **fields
    )


def facts(**changes: Any) -> Facts:
    whole = Facts(
        started=[started()],
        rows=[ROW],
        steps=STEPS,
        notes=NOTES,
        calls=[CALL, EFFECT],
        asked=[Asked(0, 0.1, 200)],
        mails=[MAIL],
        outbox=[SENT],
    )
    return replace(whole, **changes)


def counted(**changes: Any) -> dict[str, int]:
    """Count what is wrong about a run in which something was otherwise."""
    return {name: count for name, count in counts(judge(facts(**changes))).items() if count}


def test_a_run_without_fault_has_nothing_to_count() -> None:
    assert counted() == {}


FAILED = {"type": "error", "message": "Trouble.", "retryable": False}


def test_an_execution_that_is_not_there_is_lost() -> None:
    assert counted(rows=[], steps=[], notes=[], mails=[], outbox=[]) == {"lost": 1}


def test_a_failure_without_a_reason_is_a_loss() -> None:
    shown = {
        "state": "FAILURE",
        "details": {"progress": 0, "step_results": [], "steps": DONE, "error": FAILED},
    }
    row = ROW._replace(state="FAILURE", result=None, error=FAILED)
    assert counted(rows=[row], started=[started(shown, shown)]) == {"lost": 1}


def test_a_cancel_that_was_answered_holds() -> None:
    assert counted(started=[started(is_cancel_asked=True, is_cancelled=True)]) == {"lost": 1}
    assert counted(started=[started(is_cancel_asked=True)]) == {}


def test_what_does_not_end_is_stuck() -> None:
    row = ROW._replace(state="PENDING", result=None)
    ended: dict[str, Any] = {"mails": [], "outbox": []}
    assert counted(rows=[row], notes=NOTES[:-1], started=[started()], **ended) == {"stuck": 1}


def test_an_effect_is_applied_once_under_one_key() -> None:
    again = EFFECT._replace(attempt=1, value="0c0c0c0c")
    assert counted(calls=[CALL, EFFECT, again._replace(applied=False)]) == {}
    assert counted(calls=[CALL, EFFECT, again]) == {"effects twice": 1}
    assert counted(calls=[CALL, EFFECT._replace(key="another")]) == {"effects twice": 1}


def test_a_finished_step_is_not_done_again() -> None:
    assert counted(calls=[CALL, CALL._replace(value="0d0d0d0d"), EFFECT]) == {}, "a retry"
    assert counted(calls=[CALL, EFFECT, CALL._replace(attempt=2)]) == {"finished steps done again": 1}
    other = STEPS[0]._replace(mark=MARK._replace(value="0e0e0e0e"))
    assert counted(steps=[other, STEPS[1]]) == {"finished steps done again": 1}


def test_only_the_newest_attempt_writes() -> None:
    late = [*NOTES[:2], Note(2.5, "execution", "1", 2, "RUNNING", "", ""), *NOTES[2:]]
    stale = [note._replace(attempt=2) if note.at > 2.5 else note for note in late]
    row = ROW._replace(attempt=2, result={**RESULT, "attempt": 2})
    shown = {**SHOWN, "details": {**SHOWN["details"], "final_result": row.result}}  # type: ignore[dict-item]
    assert counted(notes=stale, rows=[row], started=[started(shown, shown)]) == {"stale writes": 1}


def test_nothing_is_written_after_the_end() -> None:
    assert counted(notes=[*NOTES, Note(6.0, "execution", "1", 1, "FAILURE", "", "f")]) == {"stale writes": 1}
    step = Note(6.0, "step", "1", 1, "SUCCESS", "Look", "")
    assert counted(notes=[*NOTES, step]) == {"stale writes": 1}


def test_what_watchers_are_told_is_what_the_database_has() -> None:
    other = {"state": "SUCCESS", "details": {**SHOWN["details"], "final_result": 2}}  # type: ignore[dict-item]
    assert counted(started=[started(other)]) == {"watcher contradictions": 1}
    assert counted(started=[started(later=other)]) == {"watcher contradictions": 1}
    assert counted(started=[started(later=None)]) == {"watcher contradictions": 1}


def test_what_is_stored_is_shown_as_done_at_the_end() -> None:
    other = {"state": "SUCCESS", "details": {**SHOWN["details"], "steps": DONE[:1]}}  # type: ignore[dict-item]
    assert counted(started=[started(other)]) == {"watcher contradictions": 1}


def test_one_key_starts_one_execution() -> None:
    assert counted(rows=[ROW, ROW._replace(id="2")]) == {"watcher contradictions": 1}


def test_who_asked_for_a_mail_gets_one() -> None:
    assert counted(mails=[]) == {"mails lost": 1}
    assert counted(mails=[], outbox=[]) == {"mails lost": 1}
    assert counted(outbox=[SENT._replace(state="PENDING", finished_at=0.0)]) == {"mails unfinished": 1}
    assert counted(outbox=[SENT._replace(state="FAILED")]) == {"mails unfinished": 1}


def test_nobody_else_gets_one() -> None:
    unasked = {"mails nobody asked for": 1}
    assert counted(started=[started(notify=False)]) == unasked
    assert counted(started=[started(notify=False)], mails=[], outbox=[]) == {}
    assert counted(mails=[MAIL, MAIL._replace(execution="")]) == unasked
    assert counted(mails=[MAIL, MAIL._replace(to="bob@example.com")]) == unasked


def test_a_second_mail_is_seen_to_be_the_first() -> None:
    assert counted(mails=[MAIL, MAIL]) == {}
    again = MAIL._replace(message_id="<another@chaos.example.com>")
    assert counted(mails=[MAIL, again]) == {"mails again under another Message-ID": 1}


# How fast

KILL = kind_named("kill -9 io worker")
HUNG = kind_named("redis hung")


def fault(kind: Any, began: float, until: float, **fields: Any) -> Fault:
    touched = [Held("1", 1, "host/1/1", 0)]
    return Fault(Planned(0.0, kind, 1.0), began=began, until=until, touched=touched, **fields)


def test_a_killed_worker_is_recovered_from_when_a_later_attempt_begins() -> None:
    notes = [*NOTES[:3], Note(20.0, "execution", "1", 2, "RUNNING", "", "")]
    assert recovery(fault(KILL, 2.5, 2.6), Facts(notes=notes)) == [17.5]
    assert recovery(fault(KILL, 2.5, 2.6), Facts(notes=NOTES[:3])) == [None]


def test_a_lasting_fault_is_recovered_from_when_anything_happens_after_its_end() -> None:
    assert recovery(fault(HUNG, 2.5, 3.5), Facts(notes=NOTES)) == [0.5]
    assert recovery(fault(HUNG, 2.5, 8.0), Facts(notes=NOTES)) == [0.0], "it ended meanwhile"


def test_of_mails_it_is_looked_at_when_they_were_sent() -> None:
    found = facts(outbox=[SENT._replace(finished_at=9.0)])
    assert recovery(fault(kind_named("kill -9 mailer, sending"), 2.5, 4.0, mails={"1"}), found) == [6.5]
    assert recovery(fault(kind_named("mail down"), 2.5, 4.0, mails={"1"}), found) == [5.0]
    assert recovery(fault(kind_named("mail down"), 2.5, 4.0, mails={"2"}), found) == [None]


def test_a_killed_sender_is_not_judged_by_what_the_mail_server_did_next() -> None:
    killed = fault(kind_named("kill -9 mailer, sending"), 2.5, 4.0, mails={"1"})
    down = fault(kind_named("mail down"), 15.0, 25.0)
    assert recovery(killed, facts(faults=[killed, down])) == []
    late = replace(down, began=30.0, until=40.0)
    assert recovery(killed, facts(faults=[killed, late])) == [3.5]


@pytest.mark.parametrize(
    "slow",
    [
        {
            "faults": [fault(KILL, 2.5, 2.6)],
            "notes": [*NOTES[:2], *[note._replace(at=24.0) for note in NOTES[2:]]],
        },
        {"faults": [fault(HUNG, 2.5, 3.5, stopped_in=5.1)]},
        {"faults": [fault(HUNG, 2.5, 9.5)], "asked": [Asked(3.0, 1.2, 200)]},
        {"unanswered": [Start(0.0, "steps_flow", "t", 1.0)]},
        {"faults": [fault(KILL, 2.5, 2.6, skipped="nothing to kill")]},
    ],
)
def test_what_takes_too_long_is_counted(slow: dict[str, Any]) -> None:
    assert counted(**slow) == {"limits missed": 1}


def test_the_report_names_what_was_found() -> None:
    found = facts(rows=[], steps=[], notes=[], faults=[fault(KILL, 2.5, 2.6)])
    text = summary(found, judge(found))
    assert "| kill -9 io worker | 1        | 1       |              | , 1 never |" in text
    assert "lost: 1 was answered 200 and is not there" in text
    assert "lost: 1, stuck: 0" in text


def test_marks_are_found_in_any_text() -> None:
    assert marks_in(f'["{CALL.mark} and more", "{EFFECT.mark}"]') == [MARK, Mark("Pay", 1, "0b0b0b0b")]
