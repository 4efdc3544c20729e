"""What events add up to: the same from wherever one starts, never falling back, never too large."""

import random
from typing import Any

import orjson
import pytest

from main.events import (
    LAST_SEQ,
    MAX_ENTRIES_BYTES,
    MAX_ENTRY_BYTES,
    MAX_STEPS,
    MAX_TEXT_BYTES,
    Event,
    EventId,
    Snapshot,
    fold,
    merge,
    without_large_data,
)
from main.run import MAX_MESSAGE_LENGTH, Run
from main.tests.memory import Channel, Journal

LIMIT = 128 * 1024
TEXTS = (
    "plain",
    "",
    "ünïcödé 👩‍👩‍👧",
    "語" * 50,
    '"\\\n\t',
    "\x01\x1f\x7f",
    "… ",
    "x" * 700,
    "\u2028y" * 900,
    "🙂" * 2000,
)


class Story:
    """Random events of an execution, as an engine might send them; the seed makes them again."""

    def __init__(self, seed: int, length: int = 300) -> None:
        self._random = random.Random(seed)  # noqa: S311
        self._entries: dict[str, int] = {}
        self.attempt, self.seq = 1, 0
        self.events: list[Event] = []
        for _ in range(length):
            self._tell(self._next())
        if self._random.random() < 0.5:
            self._tell(self._end())
            self._tell({"type": "log", "step": "", "n": 999, "message": "late"})

    def _tell(self, event: Event) -> None:
        self.seq += 1
        self.events.append({**event, "id": str(EventId(self.attempt, self.seq))})

    def _next(self) -> Event:
        step = self._random.choice(["", "A", "B", "A/in", *(f"Step {n}" for n in range(50))])
        match self._random.choices(range(6), weights=[1, 2, 6, 6, 12, 0.3])[0]:
            case 0:
                return {"type": "state", "state": "PROGRESS", "status": self._text()}
            case 1:
                return {"type": "progress", "progress": self._random.randint(-5, 120)}
            case 2:
                state = self._random.choice(["running", "done", "failed"])
                event: Event = {"type": "step", "step": step or "A", "name": self._text(), "state": state}
                if state == "running" and self._random.random() < 0.3:
                    event["restarted"] = True
                    self._entries.pop(event["step"], None)
                return event
            case 3:
                return self._entry(step)
            case 4:
                return {"type": "token", "step": self._random.choice(["", "A", "B"]), "text": self._text()}
            case _:
                self.attempt, self.seq = self.attempt + 1, 0
                return {"type": "state", "state": "PROGRESS", "status": "Running"}

    def _entry(self, step: str) -> Event:
        n = self._entries[step] = self._entries.get(step, -1) + 1
        if self._random.random() < 0.7:
            return {"type": "log", "step": step, "n": n, "message": self._text()}
        data = without_large_data([self._text() for _ in range(self._random.randint(0, 9))], "/entry")
        return {"type": "tool_result", "step": step, "n": n, "step_name": step, "tool": "look", "data": data}

    def _end(self) -> Event:
        if self._random.random() < 0.5:
            return {"type": "result", "state": "SUCCESS", "status": "Done", "final_result": self._text() * 5}
        error = {"type": "error", "message": self._text(), "retryable": False}
        return {"type": "result", "state": "FAILURE", "status": "No", "error": error}  # type: ignore[typeddict-item]

    def _text(self) -> str:
        return self._random.choice(TEXTS)


def folded(events: list[Event], snapshot: Snapshot | None = None) -> Snapshot:
    snapshot = snapshot or Snapshot(url="/x/")
    for event in events:
        snapshot = fold(snapshot, event)
    return snapshot


def sent(snapshot: Snapshot) -> Snapshot:
    """The snapshot as it is after a way through Redis."""
    return Snapshot.load(orjson.loads(orjson.dumps(snapshot.dump())))


def size(snapshot: Snapshot) -> int:
    return len(orjson.dumps(snapshot.public()))


def numbered(*events: Event, attempt: int = 1, first: int = 1) -> list[Event]:
    return [{**event, "id": f"{attempt}-{seq}"} for seq, event in enumerate(events, first)]


def log(step: str, n: int, message: str = "said") -> Event:
    return {"type": "log", "step": step, "n": n, "message": message}


def step(key: str, state: str = "running", **more: Any) -> Event:
    return {"type": "step", "step": key, "name": key, "state": state, **more}  # type: ignore[typeddict-item]


def token(text: str, key: str = "A") -> Event:
    return {"type": "token", "step": key, "text": text}


def messages(snapshot: Snapshot) -> list[tuple[str, str]]:
    return [(entry["step"], entry["message"]) for entry in snapshot.entries.values()]


# The same, from wherever one starts


@pytest.mark.parametrize("seed", range(8))
def test_folding_on_from_any_snapshot_gives_the_same(seed: int) -> None:
    events = Story(seed).events
    whole = folded(events)
    for at in random.Random(seed).sample(range(len(events)), 8):  # noqa: S311
        resumed = folded(events[at:], sent(folded(events[:at])))
        assert resumed.public() == whole.public(), f"from event {at}"
        assert resumed.dump() == whole.dump()
        assert resumed.entries_bytes == whole.entries_bytes


@pytest.mark.parametrize("seed", range(3))
def test_sending_a_snapshot_at_every_event_gives_the_same(seed: int) -> None:
    snapshot = Snapshot(url="/x/")
    events = Story(seed, length=150).events
    for event in events:
        snapshot = sent(fold(snapshot, event))
    assert snapshot.public() == folded(events).public()


@pytest.mark.parametrize("seed", range(8))
def test_a_snapshot_event_stands_for_all_events_before_it(seed: int) -> None:
    events = Story(seed).events
    at = len(events) // 2
    before = folded(events[:at])
    whole: Event = {"id": events[at - 1]["id"], "type": "snapshot", "snapshot": before.dump()}
    early = folded(events[: at // 2])
    assert folded(events[at:], fold(early, whole)).public() == folded(events).public()


@pytest.mark.parametrize("seed", range(8))
def test_events_that_come_again_change_nothing(seed: int) -> None:
    events = Story(seed).events
    snapshot = Snapshot(url="/x/")
    for at, event in enumerate(events):
        snapshot = fold(snapshot, event)
        before = snapshot.dump()
        for old in events[max(0, at - 1) : at + 1]:
            snapshot = fold(snapshot, old)
        assert snapshot.dump() == before


@pytest.mark.parametrize("seed", range(8))
def test_progress_never_falls_and_no_snapshot_is_too_large(seed: int) -> None:
    snapshot, progress = Snapshot(url="/x/"), 0
    for event in Story(seed).events:
        snapshot = fold(snapshot, event)
        assert progress <= snapshot.progress <= 100
        progress = snapshot.progress
        assert size(snapshot) < LIMIT


@pytest.mark.parametrize("unit", ["x", "語", "\x01", "ab🙂", "… "])
def test_a_long_text_is_cut_the_same_from_wherever_one_starts(unit: str) -> None:
    chance = random.Random(len(unit))  # noqa: S311
    events = numbered(*(token(unit * chance.randint(1, 500) + str(n)) for n in range(300)))
    whole = folded(events)
    for at in chance.sample(range(len(events)), 12):
        assert folded(events[at:], sent(folded(events[:at]))).public() == whole.public(), f"from event {at}"


def test_numbers_are_ordered_by_attempt_and_then_by_place() -> None:
    numbers = [EventId(1, 2), EventId(1, 10), EventId(1, LAST_SEQ), EventId(2, 1), EventId(10, 1)]
    assert sorted(numbers) == numbers
    assert [EventId.parse(str(number)) for number in numbers] == numbers


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "a-b", "end"])
def test_what_is_no_number_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 whichever it is
        EventId.parse(text)


def test_nothing_follows_the_end() -> None:
    events = numbered(
        {"type": "result", "state": "SUCCESS", "status": "Done", "final_result": 1},
        {"type": "state", "state": "PROGRESS", "status": "Running"},
        {
            "type": "result",
            "state": "FAILURE",
            "status": "No",
            "error": {"type": "x", "message": "", "retryable": False},
        },
    )
    snapshot = folded(events)
    assert snapshot.public()["state"] == "SUCCESS"
    assert snapshot.public()["details"]["final_result"] == 1
    assert "error" not in snapshot.public()["details"]


def test_an_older_attempt_says_nothing_any_more() -> None:
    snapshot = folded(
        numbered(log("", 0, "new"), attempt=2) + numbered(log("", 1, "old"), attempt=1, first=99)
    )
    assert messages(snapshot) == [("", "new")]


# What is shown


def test_an_entry_told_again_keeps_its_place() -> None:
    snapshot = folded(numbered(log("", 0, "one"), log("A", 0, "two"), log("", 0, "one again")))
    assert messages(snapshot) == [("", "one again"), ("A", "two")]


def test_a_step_that_begins_again_loses_its_own_entries_and_text_only() -> None:
    snapshot = folded(
        numbered(
            step("A"),
            log("A", 0, "old"),
            token("old"),
            step("A/in"),
            log("A/in", 0, "inside"),
            step("A/in", "done"),
            step("AB"),
            log("AB", 0, "other"),
            log("", 0, "top"),
            step("A", restarted=True),
            log("A", 0, "new"),
            token("new"),
        )
    )
    assert messages(snapshot) == [("A/in", "inside"), ("AB", "other"), ("", "top"), ("A", "new")]
    details = snapshot.public()["details"]
    assert details["partial_result"] == "new"
    assert [(view["step"], view["state"], view.get("restarted")) for view in details["steps"]] == [
        ("A", "running", True),
        ("A/in", "done", None),
        ("AB", "running", None),
    ]


def test_a_finished_step_has_no_partial_text() -> None:
    events = numbered(step("A"), token("Hel"), token("lo"), step("A", "done"))
    assert folded(events[:-1]).public()["details"]["partial_result"] == "Hello"
    assert "partial_result" not in folded(events).public()["details"]


def test_of_texts_that_grow_at_once_one_is_shown() -> None:
    events = numbered(
        step("A"), step("B"), token("a", "A"), token("b", "B"), token("a", "A"), token("b", "B")
    )
    shown = [folded(events[:at]).public()["details"].get("partial_result") for at in range(3, 7)]
    assert shown == ["a", "b", "b", "bb"]
    ended = folded(numbered(step("B", "done"), token("a", "A"), first=7), folded(events))
    assert ended.public()["details"]["partial_result"] == "aaa"


def test_a_failure_fails_what_was_running() -> None:
    error: Any = {"type": "cancelled", "message": "It was cancelled.", "retryable": False}
    snapshot = folded(
        numbered(
            step("A", "done"),
            step("B"),
            token("half", "B"),
            {"type": "result", "state": "FAILURE", "status": "It was cancelled.", "error": error},
        )
    )
    assert snapshot.public() == {
        "state": "FAILURE",
        "details": {
            "status": "It was cancelled.",
            "progress": 0,
            "step_results": [],
            "steps": [
                {"step": "A", "name": "A", "state": "done"},
                {"step": "B", "name": "B", "state": "failed"},
            ],
            "error": error,
        },
    }


def test_a_success_leaves_nothing_running() -> None:
    snapshot = folded(
        numbered(step("A"), {"type": "result", "state": "SUCCESS", "status": "Done", "final_result": None})
    )
    assert snapshot.public()["details"]["steps"][0]["state"] == "failed"
    assert snapshot.progress == 100
    assert snapshot.public()["details"]["final_result"] is None


# How large it may be


@pytest.mark.parametrize("unit", ["x", "é", "語", "🙂", "\x01", '"', "\u2028", "a语\x01"])
def test_a_long_text_keeps_its_end(unit: str) -> None:
    text = unit * 100_000
    for pieces in (1, 7, 5000):
        length = len(text) // pieces
        events = numbered(*(token(text[at : at + length]) for at in range(0, len(text), length)))
        shown = folded(events).public()["details"]["partial_result"]
        assert shown.startswith("… ")
        assert text.endswith(shown.removeprefix("… "))
        written = len(orjson.dumps(shown.removeprefix("… ")))
        assert MAX_TEXT_BYTES - 6 * len(unit) <= written <= MAX_TEXT_BYTES


def test_a_text_that_fits_is_whole() -> None:
    text = "x" * (MAX_TEXT_BYTES - 2)
    assert folded(numbered(token(text))).public()["details"]["partial_result"] == text


def test_old_entries_are_left_out_and_counted() -> None:
    events = numbered(*(log("", n, f"{n:04} {'x' * 500}") for n in range(1000)))
    snapshot = folded(events)
    details = snapshot.public()["details"]
    assert details["omitted"] + len(details["step_results"]) == 1000
    assert [entry["n"] for entry in details["step_results"]] == list(range(details["omitted"], 1000))
    assert MAX_ENTRIES_BYTES - 1000 < snapshot.entries_bytes <= MAX_ENTRIES_BYTES
    assert sent(snapshot).omitted == details["omitted"]


def test_nothing_is_omitted_where_there_is_room() -> None:
    assert "omitted" not in folded(numbered(*(log("", n) for n in range(100)))).public()["details"]


def test_of_many_steps_the_running_and_the_newest_are_kept() -> None:
    events = [step("Outer"), *(step(f"Step {n}", state) for n in range(100) for state in ("running", "done"))]
    snapshot = folded(numbered(*events))
    assert list(snapshot.steps) == ["Outer", *(f"Step {n}" for n in range(100 - MAX_STEPS + 1, 100))]


def test_a_large_result_is_named_by_size_and_address() -> None:
    result: Event = {
        "type": "result",
        "state": "SUCCESS",
        "status": "Done",
        "final_result": "x" * MAX_TEXT_BYTES,
    }
    assert folded(numbered(result)).public()["details"]["final_result"] == {
        "omitted_bytes": MAX_TEXT_BYTES + 2,
        "url": "/x/",
    }


def test_large_data_is_named_by_size_and_address() -> None:
    data = "x" * (MAX_ENTRY_BYTES - 2)
    assert without_large_data(data, "/entry") is data
    assert without_large_data(data + "x", "/entry") == {"omitted_bytes": MAX_ENTRY_BYTES + 1, "url": "/entry"}


@pytest.mark.parametrize("unit", ["x", "é", "🙂", "\x01", '"/%#'])
@pytest.mark.parametrize("end", ["SUCCESS", "FAILURE", None])
def test_a_flow_cannot_make_a_snapshot_too_large(unit: str, end: str | None) -> None:
    channel = Channel()
    run = Run("7" * 36, journal=Journal(), channel=channel)
    long = unit * 5000

    def talk(depth: int) -> None:
        run.status(long)
        run.log(long)
        run.tool_result(long, [long[:3000]], step_name=long)
        run.tool_result(long, {long: long * 10}, step_name=long)
        run.token(long * 10)
        if depth:
            run.step(f"{depth}{long}", talk, depth - 1)

    for n in range(8):
        run.step(f"{n}{long}", talk, 6)
        assert size(channel.snapshot) < LIMIT
    if end == "SUCCESS":
        channel.send({"type": "result", "state": end, "status": "Done", "final_result": unit * 5400})
    if end == "FAILURE":
        error: Any = {"type": "error", "message": long[:MAX_MESSAGE_LENGTH], "retryable": False}
        channel.send({"type": "result", "state": end, "status": error["message"], "error": error})
    assert LIMIT / 4 < size(channel.snapshot) < LIMIT


# What the database knows more


def test_merging_keeps_what_was_shown() -> None:
    live = folded(
        numbered(
            {"type": "state", "state": "PROGRESS", "status": "Running"},
            log("", 0, "begun"),
            step("A"),
            log("A", 0, "asking"),
            step("A", "done"),
            {"type": "progress", "progress": 60},
            step("B"),
            log("B", 0, "writing"),
            token("Once", "B"),
            attempt=2,
        )
    )
    stored = folded(
        numbered(
            {"type": "state", "state": "PROGRESS", "status": "Running"},
            log("A", 0, "asking"),
            log("A", 1, "asked"),
            step("A", "done"),
            {"type": "progress", "progress": 50},
            attempt=0,
        )
    )
    merged = merge(live, stored)
    details = merged.public()["details"]
    assert sorted(messages(merged)) == [("", "begun"), ("A", "asked"), ("A", "asking"), ("B", "writing")]
    assert (details["progress"], details["status"]) == (60, "B …")
    assert {view["step"]: view["state"] for view in details["steps"]} == {"A": "done", "B": "running"}
    assert details["partial_result"] == "Once"
    assert merged.id == EventId(2, 9)
    assert (
        fold(merged, numbered(token(" upon", "B"), attempt=2, first=10)[0]).public()["details"][
            "partial_result"
        ]
        == "Once upon"
    )


def test_a_stored_end_is_final() -> None:
    live = folded(
        numbered(step("A"), log("A", 0, "asking"), {"type": "progress", "progress": 60}, token("Once"))
    )
    error: Any = {"type": "timeout", "message": "Too long.", "retryable": False}
    stored = folded(numbered({"type": "result", "state": "FAILURE", "status": "Too long.", "error": error}))
    merged = merge(live, stored)
    details = merged.public()["details"]
    assert merged.is_final
    assert (details["status"], details["error"], details["progress"]) == ("Too long.", error, 60)
    assert messages(merged) == [("A", "asking")]
    assert details["steps"] == [{"step": "A", "name": "A", "state": "failed"}]
    assert "partial_result" not in details


def test_an_end_that_was_shown_stays() -> None:
    live = folded(numbered({"type": "result", "state": "SUCCESS", "status": "Done", "final_result": 1}))
    assert merge(live, Snapshot()) is live


@pytest.mark.parametrize("seed", range(8))
def test_merging_never_takes_back(seed: int) -> None:
    events = [event for event in Story(seed, length=60).events if event["type"] != "result"]
    live, stored = folded(events), folded(events[: seed * 3])
    before = live.public()["details"]
    room = live.omitted == stored.omitted == 0
    merged = merge(live, stored)
    assert merged.progress >= before["progress"]
    assert merged.omitted >= before.get("omitted", 0)
    assert size(merged) < LIMIT
    if room:
        keys = {(entry["step"], entry["n"]) for entry in before["step_results"]}
        assert keys <= set(merged.entries)
    assert {view["step"] for view in before["steps"]} <= set(merged.steps)


def test_a_step_that_only_the_database_knows_as_done_is_done() -> None:
    """Redis was away when it was finished, by a later attempt that had less to say."""
    live = folded(
        numbered(log("", 0, "begun"), step("A"), log("A", 0, "old"), log("A", 1, "older"), token("Once", "A"))
    )
    stored = folded(numbered(log("A", 0, "new"), step("A", "done"), {"type": "progress", "progress": 50}))
    stored.id = EventId(2, 0)
    merged = merge(live, stored)
    details = merged.public()["details"]
    assert messages(merged) == [("", "begun"), ("A", "new")]
    assert (details["steps"][0]["state"], details["progress"], "partial_result" in details) == (
        "done",
        50,
        False,
    )


def test_an_attempt_that_was_taken_over_is_not_heard_any_more() -> None:
    live = folded(numbered(step("A"), attempt=1))
    stored = folded(numbered(step("A", "done")))
    stored.id = EventId(2, 0)
    merged = merge(live, stored)
    late = numbered(step("A", "failed"), log("A", 0, "late"), attempt=1, first=2)
    assert messages(fold(fold(merged, late[0]), late[1])) == []
    assert merged.steps["A"]["state"] == "done"


def test_entries_stay_in_the_order_that_was_shown() -> None:
    live = folded(
        numbered(log("", 0, "begun"), step("A"), log("A", 0, "a"), step("A", "done"), log("", 1, "then"))
    )
    stored = folded(
        numbered(log("A", 0, "a"), step("A", "done"), log("B", 0, "b"), step("B", "done"), attempt=0)
    )
    assert [message for _, message in messages(merge(live, stored))] == ["begun", "a", "then", "b"]


def test_what_waits_for_its_next_attempt_does_not_look_unbegun() -> None:
    live = folded(numbered({"type": "state", "state": "PROGRESS", "status": "Running"}))
    assert merge(live, Snapshot()).public()["state"] == "PROGRESS"


def test_what_is_done_is_not_begun_again() -> None:
    """Such events were told before: Redis has some of those that led to what the database knows."""
    snapshot = folded(numbered(log("A", 0, "last"), step("A", "done")))
    earlier = numbered(step("A", restarted=True), log("A", 0, "first"), token("x", "A"), attempt=2)
    for event in earlier:
        snapshot = fold(snapshot, event)
    assert (messages(snapshot), snapshot.steps["A"]["state"]) == ([("A", "last")], "done")
    assert "partial_result" not in snapshot.public()["details"]
