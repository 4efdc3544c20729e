"""What a run comes to: everything that should not have happened, and how fast the rest recovered. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from benchmarks.results import percentile
from chaos.faults import Fault
from chaos.mail_server import Mail
from chaos.play import Facts, Started
from chaos.prepare import ADDRESS
from chaos.provider import Call, Mark, marks_in
from chaos.records import Note, Row, StepRow
from chaos.schedule import SETTLED, Kind
from chaos.witness import Snapshot

LOST = "lost"
STUCK = "stuck"
TWICE = "effects twice"
CONTRADICTION = "watcher contradictions"
AGAIN = "finished steps done again"
STALE = "stale writes"
LIMIT = "limits missed"
MAIL_LOST = "mails lost"
MAIL_STUCK = "mails unfinished"
MAIL_WRONG = "mails nobody asked for"
MAIL_AGAIN = "mails again under another Message-ID"
COUNTED = (
    *(LOST, STUCK, TWICE, CONTRADICTION, AGAIN, STALE, LIMIT),
    *(MAIL_LOST, MAIL_STUCK, MAIL_WRONG, MAIL_AGAIN),
)

# Seconds in which a process that is told to stop is gone, and in which a start is answered without Redis.
STOP_LIMIT, START_LIMIT = 5.0, 1.0
# Which share of the planned faults has to be done; now and then there is nothing to harm.
DONE_SHARE = 0.8
# Seconds after a fault of a web server in which the next one may still be starting.
BOOT = 6.0
WITHOUT_REDIS = ("redis killed", "redis hung", "redis cut off")


class Finding(NamedTuple):
    """Something that should not have happened. `counted` is one of COUNTED, `about` an execution or a fault."""

    counted: str
    about: str
    sentence: str


def judge(facts: Facts) -> list[Finding]:
    """Return everything that a run has shown to be wrong."""
    rows = {row.id: row for row in facts.rows}
    return [
        *(finding for started in facts.started for finding in judge_end(started, rows.get(started.id))),
        *(finding for started in facts.started for finding in judge_watching(started, rows.get(started.id))),
        *judge_shown_steps(facts),
        *judge_starts(facts),
        *judge_effects(facts.calls),
        *judge_steps(facts.rows, facts.steps, facts.calls),
        *judge_writes(facts),
        *judge_mails(facts),
        *judge_limits(facts),
    ]


def counts(findings: Iterable[Finding]) -> dict[str, int]:
    """Count executions and faults, not sentences: one that contradicts itself often counts once."""
    about = defaultdict(set)
    for finding in findings:
        about[finding.counted].add(finding.about)
    return {count: len(about[count]) for count in COUNTED}


# Ends


def judge_end(started: Started, row: Row | None) -> Iterator[Finding]:
    if row is None:
        yield Finding(LOST, started.id, "was answered 200 and is not there")
    elif not row.is_final:
        yield Finding(STUCK, started.id, f"{row.flow} is {row.state} in attempt {row.attempt}")
    elif row.state == "CANCELLED" and not started.is_cancel_asked:
        yield Finding(LOST, started.id, f"{row.flow} was cancelled, and nobody asked for it")
    elif row.state != "CANCELLED" and started.is_cancelled:
        yield Finding(LOST, started.id, f"{row.flow} was cancelled, and ended as {row.state}")
    elif row.flow == "memory_flow" and row.state != "CANCELLED":
        yield from judge_memory(row)
    elif row.state == "FAILURE":
        yield Finding(LOST, started.id, f"{row.flow} failed without a reason: {row.error}")


def judge_memory(row: Row) -> Iterator[Finding]:
    if (row.error or {}).get("type") != "memory":
        yield Finding(LIMIT, row.id, f"took more memory than it may, and ended as {row.state} {row.error}")


def judge_starts(facts: Facts) -> Iterator[Finding]:
    by_tag = defaultdict(list)
    for row in facts.rows:
        by_tag[row.tag].append(row.id)
    for tag, ids in by_tag.items():
        if len(ids) > 1:
            yield Finding(
                CONTRADICTION, tag, f"one start with one Idempotency-Key made {len(ids)} executions"
            )


# What watchers saw


def judge_watching(started: Started, row: Row | None) -> Iterator[Finding]:
    witness = started.watching.witness
    for sentence in witness.contradictions:
        yield Finding(CONTRADICTION, started.id, sentence)
    if row is None or not row.is_final:
        return
    if witness.final is None:
        yield Finding(CONTRADICTION, started.id, f"ended as {row.state}, and its watcher was never told")
    elif not agrees(witness.final, row):
        yield Finding(CONTRADICTION, started.id, f"was shown as {_brief(witness.final)}, and is {_told(row)}")
    if started.seen_later is None or not agrees(started.seen_later, row):
        shown = _brief(started.seen_later)
        yield Finding(CONTRADICTION, started.id, f"is shown later as {shown}, and is {_told(row)}")


def judge_shown_steps(facts: Facts) -> Iterator[Finding]:
    """Judge whether every step that is stored was shown as done at the end, at once and later."""
    stored = defaultdict(list)
    for step in facts.steps:
        stored[step.execution].append(step.key)
    for started in facts.started:
        for shown in (started.watching.witness.final, started.seen_later):
            states = {step["step"]: step["state"] for step in shown["details"]["steps"]} if shown else {}
            for key in stored[started.id] if shown else []:
                if states.get(key) != "done":
                    sentence = f"“{key}” is done, and is shown as {states.get(key, 'nothing')} at the end"
                    yield Finding(CONTRADICTION, started.id, sentence)


def agrees(shown: Snapshot, row: Row) -> bool:
    """Say whether a last snapshot tells what the database has."""
    details = shown["details"]
    state = "SUCCESS" if row.state == "SUCCESS" else "FAILURE"
    return bool(
        (shown["state"], details.get("final_result"), details.get("error")) == (state, row.result, row.error)
    )


def _told(row: Row) -> str:
    return f"{row.state} {row.error or row.result}"


def _brief(snapshot: Snapshot | None) -> str:
    if snapshot is None:
        return "nothing"
    details = snapshot["details"]
    return f"{snapshot['state']} {details.get('error') or details.get('final_result')}"


# Effects and steps


def judge_effects(calls: Iterable[Call]) -> Iterator[Finding]:
    """Judge by effect: one key, the one that is promised, and applied once."""
    by_effect = defaultdict(list)
    for call in calls:
        if call.key or call.applied:
            by_effect[call.execution, call.step].append(call)
    for (execution, effect), asked in by_effect.items():
        applied = sum(call.applied for call in asked)
        if applied > 1:
            yield Finding(TWICE, execution, f"“{effect}” was applied {applied} times")
        if keys := {call.key for call in asked} - {f"{execution}:{effect}"}:
            yield Finding(TWICE, execution, f"“{effect}” was asked for with {sorted(keys)}")


def judge_steps(rows: Iterable[Row], steps: Iterable[StepRow], calls: Iterable[Call]) -> Iterator[Finding]:
    """Judge whether a step was asked for again by an attempt that came after the one which finished it."""
    finished = {(step.execution, step.name): step.attempt for step in steps}
    results = {row.id: results_of(row) for row in rows}
    for call in calls:
        done_in = finished.get((call.execution, call.step))
        if done_in is not None and call.attempt > done_in:
            yield Finding(
                AGAIN,
                call.execution,
                f"“{call.step}” was done in attempt {done_in}, and asked for in {call.attempt}",
            )
    yield from judge_results(results, steps)


def judge_results(results: dict[str, dict[str, Mark]], steps: Iterable[StepRow]) -> Iterator[Finding]:
    """Judge whether a flow went on with what its steps have stored."""
    for step in steps:
        used = results.get(step.execution, {}).get(step.key)
        if used and step.mark and used != step.mark:
            yield Finding(AGAIN, step.execution, f"“{step.key}” returned {step.mark}, the flow used {used}")


def results_of(row: Row) -> dict[str, Mark]:
    """Return the marks in an execution's result, by step."""
    told: Any = row.result if isinstance(row.result, dict) else {}
    return {mark.step: mark for text in told.get("marks", []) for mark in marks_in(str(text))}


# Writes


def judge_writes(facts: Facts) -> Iterator[Finding]:
    """Judge whether anything was written by an attempt that was not the newest, or after the end."""
    written_by = writers(facts)
    ended: dict[str, Note] = {}
    for note in facts.notes:
        end = ended.get(note.execution)
        if end and note.what == "execution":
            yield Finding(
                STALE, note.execution, f"was {end.state}, and then {note.state} with another outcome"
            )
        elif note.what == "write":
            yield from judge_written(note)
        elif note.what == "step":
            yield from judge_stored(note, written_by.get((note.execution, note.step), note.attempt))
        elif note.is_final:
            ended[note.execution] = note
    for row in facts.rows:
        told = row.result if isinstance(row.result, dict) else {}
        if row.state == "SUCCESS" and told.get("attempt", row.attempt) != row.attempt:
            yield Finding(STALE, row.id, f"attempt {told['attempt']} ended it in attempt {row.attempt}")


def writers(facts: Facts) -> dict[tuple[str, str], int]:
    """Return by execution and step the attempt whose work is stored.

    The mark tells it, whatever the row says; only an effect's is the mark of the call that applied it.
    """
    effects = {(call.execution, call.step) for call in facts.calls if call.key}
    return {
        (step.execution, step.key): step.attempt
        if step.mark is None or (step.execution, step.key) in effects
        else step.mark.attempt
        for step in facts.steps
    }


def judge_stored(note: Note, writer: int) -> Iterator[Finding]:
    """Judge one step as it was stored: by which attempt, and whose turn it was."""
    if note.state != "RUNNING" or writer != note.attempt:
        where = f"while it was {note.state} in attempt {note.attempt}"
        yield Finding(STALE, note.execution, f"attempt {writer} stored “{note.step}” {where}")


def judge_written(note: Note) -> Iterator[Finding]:
    """Judge what a node of a graph wrote: its mark says which attempt did."""
    for mark in marks_in(note.step):
        yield from judge_stored(note._replace(step=mark.step), mark.attempt)


# Mails


def judge_mails(facts: Facts) -> Iterator[Finding]:
    """Judge whether who asked was told, and nobody else; and whether a second mail is seen to be the first."""
    arrived = defaultdict(list)
    for mail in facts.mails:
        arrived[mail.execution].append(mail)
    wanted = {started.id for started in facts.started if started.start.notify}
    ended = {row.id for row in facts.rows if row.is_final}
    for id_ in sorted(wanted & ended - set(arrived)):
        yield Finding(MAIL_LOST, id_, "has ended, and who asked for a mail got none")
    for id_, mails in arrived.items():
        yield from judge_arrived(id_, mails, is_wanted=id_ in wanted & ended)
    for each in facts.outbox:
        if not each.is_sent:
            sentence = f"its notification is {each.state} after attempt {each.attempt}"
            yield Finding(MAIL_STUCK, each.execution, sentence)


def judge_arrived(id_: str, mails: list[Mail], *, is_wanted: bool) -> Iterator[Finding]:
    if not is_wanted:
        yield Finding(MAIL_WRONG, id_, f"nobody asked for a mail about it, or it has not ended: {mails[0]}")
    if others := {mail.to for mail in mails} - {ADDRESS}:
        yield Finding(MAIL_WRONG, id_, f"mails went to {sorted(others)}")
    if len(known := {mail.message_id for mail in mails}) > 1:
        yield Finding(MAIL_AGAIN, id_, f"mails came as {sorted(known)}")


# How fast


class Figures(NamedTuple):
    """A row of the table: what became of the faults of one kind. Seconds; None for never."""

    kind: Kind
    injected: int
    touched: int
    recovered: list[float]
    never: int
    stopped_in: float | None
    skipped: str

    def percentile(self, percent: float) -> float | None:
        return percentile(self.recovered, percent) if self.recovered else None


def figures(facts: Facts) -> list[Figures]:
    """Return a row for each kind of fault, in the order in which they were planned."""
    by_kind = defaultdict(list)
    for fault in facts.faults:
        by_kind[fault.kind].append(fault)
    return [_figures(kind, faults, facts) for kind, faults in by_kind.items()]


def _figures(kind: Kind, faults: list[Fault], facts: Facts) -> Figures:
    done = [fault for fault in faults if not fault.skipped]
    recoveries = [seconds for fault in done for seconds in recovery(fault, facts)]
    return Figures(
        kind=kind,
        injected=len(done),
        touched=len(recoveries),
        recovered=[seconds for seconds in recoveries if seconds is not None],
        never=recoveries.count(None),
        stopped_in=max((fault.stopped_in for fault in done if fault.stopped_in is not None), default=None),
        skipped="; ".join(sorted({fault.skipped for fault in faults if fault.skipped})),
    )


def recovery(fault: Fault, facts: Facts) -> list[float | None]:
    """Return for each that the fault touched the seconds until it was seen to go on; None where it never was.

    A lost attempt counts from the fault, until a later one begins or the end. What only has to wait for the end
    of the fault counts from there, until anything happens; and what lost its worker at the same time is left out.
    """
    if fault.watchers:
        shown = [watching.shown_again_after(fault.began) for watching in fault.watchers]
        return [None if at is None else at - fault.began for at in shown]
    if fault.kind.is_of_mail:
        if fault.kind.costs_attempt and is_disturbed(fault, facts.faults):
            return []
        return [_sent_after(id_, fault, facts) for id_ in sorted(fault.mails)]
    since = fault.began if fault.kind.costs_attempt else fault.until
    else_lost = set() if fault.kind.costs_attempt else lost_meanwhile(fault, facts.faults)
    touched = [each for each in fault.touched if each.id not in else_lost]
    return [_went_on(each.id, each.attempt, fault, since, facts.notes) for each in touched]


def is_disturbed(fault: Fault, faults: Iterable[Fault]) -> bool:
    """Say whether mail came to another harm before what this one held could be sent: it may have waited for a mail."""
    return any(
        other.began <= fault.began + SETTLED and fault.began <= other.until
        for other in faults
        if other is not fault and other.kind.is_of_mail and not other.skipped
    )


def _sent_after(id_: str, fault: Fault, facts: Facts) -> float | None:
    """Return the seconds until a mail was sent: since its worker was harmed, or since its server was well again."""
    since = fault.began if fault.kind.costs_attempt else fault.until
    times = [each.finished_at for each in facts.outbox if each.execution == id_ and each.is_sent]
    return max(0.0, times[0] - since) if times else None


def lost_meanwhile(fault: Fault, faults: Iterable[Fault]) -> set[str]:
    """Return the executions whose worker another fault took from them while this one lasted, or shortly before."""
    return {
        each.id
        for other in faults
        if other.kind.costs_attempt and fault.began - SETTLED <= other.began <= fault.until + SETTLED
        for each in other.touched
    }


def _went_on(id_: str, attempt: int, fault: Fault, since: float, notes: list[Note]) -> float | None:
    for note in notes:
        if note.execution != id_ or (note.at < fault.began and not note.is_final):
            continue
        goes_on = note.at >= since and (note.attempt > attempt or not fault.kind.costs_attempt)
        if goes_on or note.is_final:
            return max(0.0, note.at - since)
    return None


def judge_limits(facts: Facts) -> Iterator[Finding]:
    done = sum(not fault.skipped for fault in facts.faults)
    if done < DONE_SHARE * len(facts.faults):
        yield Finding(LIMIT, "faults", f"only {done} of {len(facts.faults)} faults could be done")
    for row in figures(facts):
        slow = row.percentile(99)
        if row.kind.limit and slow is not None and slow > row.kind.limit:
            yield Finding(
                LIMIT, row.kind.name, f"recovery took {slow:.1f} s, and may take {row.kind.limit:g} s"
            )
        if row.stopped_in is not None and row.stopped_in > STOP_LIMIT:
            yield Finding(
                LIMIT, row.kind.name, f"stopping took {row.stopped_in:.1f} s, and may take {STOP_LIMIT:g} s"
            )
    slowest = slowest_start_without_redis(facts)
    if slowest is not None and slowest > START_LIMIT:
        yield Finding(LIMIT, "starts", f"one was answered after {slowest:.2f} s without Redis")
    for start in facts.unanswered:
        yield Finding(LIMIT, start.tag, "its start was never answered")


def slowest_start_without_redis(facts: Facts) -> float | None:
    """Return the most seconds that a start took while Redis was away, and the web server had no harm of its own."""
    away = [fault for fault in facts.faults if fault.kind.name in WITHOUT_REDIS]
    harmed = [fault for fault in facts.faults if fault.kind.resources & {"web", "postgres"}]
    seconds = [
        asked.seconds
        for asked in facts.asked
        if asked.status == 200
        and any(fault.began <= asked.at <= fault.until for fault in away)
        and not any(
            fault.began <= asked.at + asked.seconds and asked.at <= fault.until + BOOT for fault in harmed
        )
    ]
    return max(seconds, default=None)
