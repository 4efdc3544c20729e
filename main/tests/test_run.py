"""What a flow can do with its run: steps that are done once, entries, progress, tokens, stops."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda
from pydantic import BaseModel

from main import run as run_module
from main.errors import FlowError, classify_error
from main.events import MAX_ENTRY_BYTES, Entry
from main.run import MAX_KEY_BYTES, MAX_MESSAGE_LENGTH, Run, StepRecord, Stopped, entry_address, step_name
from main.tests.memory import Channel, Journal, busy, shown
from main.values import ResultError

pytestmark = pytest.mark.usefixtures("quick_retries")


class Answer(BaseModel):
    words: tuple[str, ...]


class Calls(list[Any]):
    """A callable that notes what it is given and raises or returns what it was told to."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)

    def __call__(self, given: Any = None) -> Any:
        self.append(given)
        outcome = self.outcomes.pop(0) if self.outcomes else given
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


# Steps


def test_a_step_returns_what_was_done_and_keeps_it(run: Run, journal: Journal) -> None:
    assert run.step("Add", sum, [1, 2]) == 3
    [step] = journal.steps
    assert (step.key, step.name, step.result, step.tries) == ("Add", "Add", 3, 1)


def test_a_step_without_input_is_called_with_nothing(run: Run) -> None:
    assert run.step("Make", dict) == {}
    assert run.step("None", Calls(), None) is None


def test_a_runnable_is_a_step_too(run: Run) -> None:
    assert run.step("Double", RunnableLambda(lambda n: n * 2), 4) == 8
    assert run.step("Nothing", RunnableLambda(lambda given: given)) == {}


def test_a_finished_step_is_not_done_again(new_run: Callable[..., Run], journal: Journal) -> None:
    ask = Calls(Answer(words=("yes", "no")))
    first = new_run().step("Ask", ask, "Well?")
    again = new_run(attempt=2).step("Ask", ask, "Well?")
    assert again == first == Answer(words=("yes", "no"))
    assert ask == ["Well?"]
    assert len(journal.steps) == 1


def test_a_finished_step_says_nothing_again(new_run: Callable[..., Run], channel: Channel) -> None:
    for attempt in (1, 2):
        run = new_run(attempt=attempt)
        run.step("Ask", lambda run=run: run.log("asked"))
        assert run.unfiled_entries() == []
    assert channel.logs == ["▶ Ask", "asked"]


def test_a_step_with_the_result_none_is_not_done_again(new_run: Callable[..., Run]) -> None:
    ask = Calls()
    for attempt in (1, 2):
        assert new_run(attempt=attempt).step("Ask", ask) is None
    assert len(ask) == 1


def test_steps_of_one_name_are_told_apart_by_their_order(
    new_run: Callable[..., Run], journal: Journal
) -> None:
    ask = Calls()
    for attempt in (1, 2):
        run = new_run(attempt=attempt)
        assert [run.step("Ask", ask, n) for n in (1, 2, 3)] == [1, 2, 3]
    assert ask == [1, 2, 3]
    assert journal.keys == ["Ask", "Ask#2", "Ask#3"]


def test_a_step_inside_a_step_belongs_to_it(run: Run, journal: Journal, channel: Channel) -> None:
    def outer() -> list[int]:
        run.log("before")
        inner = [run.step("In", Calls(), n) for n in (1, 2)]
        run.log("after")
        return inner

    assert run.step("Out", outer) == [1, 2]
    run.log("outside")
    assert journal.keys == ["Out/In", "Out/In#2", "Out"]
    assert shown(run, journal) == [
        ("Out", "▶ Out"),
        ("Out", "before"),
        ("Out/In", "▶ In"),
        ("Out/In#2", "▶ In"),
        ("Out", "after"),
        ("", "outside"),
    ]
    assert [(entry["step"], entry["n"]) for entry in channel.of("log")][-2:] == [("Out", 2), ("", 0)]


def test_finished_steps_inside_an_unfinished_one_are_kept(new_run: Callable[..., Run]) -> None:
    ask, fail = Calls(), Calls(ValueError("down"), "up")
    for attempt in (1, 2):
        run = new_run(attempt=attempt)

        def outer(run: Run = run) -> Any:
            run.step("In", ask)
            return run.step("Fail", fail)

        if attempt == 1:
            with pytest.raises(ValueError, match="down"):
                run.step("Out", outer)
        else:
            assert run.step("Out", outer) == "up"
    assert len(ask) == 1


@pytest.mark.parametrize("name", ["a/b", "a#2", "100 %", "%2F", "über 👋", "a b", "x" * 100])
def test_any_name_is_a_key_of_its_own(run: Run, journal: Journal, name: str) -> None:
    run.step(name, lambda: run.step(name, int))
    run.step(name, int)
    inner, outer, second = journal.keys
    assert len({inner, outer, second}) == 3
    assert "/" not in outer
    assert inner.startswith(f"{outer}/")
    assert step_name(inner) == step_name(outer) == step_name(second) == name
    assert {step.name for step in journal.steps} == {name}


def test_names_cannot_be_made_to_collide(run: Run, journal: Journal) -> None:
    run.step("a", lambda: run.step("b", int))
    run.step("a/b", int)
    run.step("a", int)
    run.step("a#2", int)
    assert len(set(journal.keys)) == 5


def test_a_name_is_cut_and_cleaned(run: Run, journal: Journal) -> None:
    for name in ("y" * 300, "nul\x00\ud800"):
        run.step(name, int)
    assert [step.name for step in journal.steps] == ["y" * 100, "nul?"]


@pytest.mark.parametrize("name", ["", "  ", "\x00"])
def test_a_step_needs_a_name(run: Run, name: str) -> None:
    with pytest.raises(FlowError, match="without a name"):
        run.step(name, int)


def test_keys_stay_short_however_deep_steps_are(run: Run, journal: Journal) -> None:
    def deeper(depth: int) -> Any:
        return run.step("語" * 99 + str(depth), deeper, depth - 1) if depth else 0

    deeper(9)
    deeper(9)
    assert len(set(journal.keys)) == 18
    assert max(len(key.encode()) for key in journal.keys) <= MAX_KEY_BYTES
    assert step_name(journal.keys[0]) == "語" * 99 + "1"


def test_another_input_on_replay_is_an_error(new_run: Callable[..., Run]) -> None:
    ask = Calls()
    new_run().step("Ask", ask, "Well?")
    with pytest.raises(FlowError, match="“Ask” was done before with another input") as caught:
        new_run(attempt=2).step("Ask", ask, "What?")
    assert (caught.value.failure.type, caught.value.failure.retryable) == ("flow", False)
    assert ask == ["Well?"]


def test_an_input_that_cannot_be_kept_is_given_all_the_same(new_run: Callable[..., Run]) -> None:
    for attempt in (1, 2):
        assert new_run(attempt=attempt).step("Look", lambda lock: lock.locked(), threading.Lock()) is False


def test_a_result_of_changed_code_is_an_error_with_a_sentence(
    new_run: Callable[..., Run], journal: Journal
) -> None:
    new_run().step("Ask", lambda: Answer(words=()))
    journal.steps[0].result["__kept__"] = "model:main.tests.test_run:Gone"
    with pytest.raises(FlowError, match="“Ask” returned before cannot be read back"):
        new_run(attempt=2).step("Ask", Calls())


@pytest.mark.parametrize("odd", [threading.Lock, lambda: "x" * 2_000_000])
def test_a_result_that_cannot_be_kept_fails_its_step(
    run: Run, journal: Journal, channel: Channel, odd: Callable[[], Any]
) -> None:
    with pytest.raises(ResultError, match="The step “Odd” returned"):
        run.step("Odd", odd)
    assert journal.steps == []
    assert channel.of("step")[-1]["state"] == "failed"
    assert shown(run, journal) == [("Odd", "▶ Odd")]


# In parallel


def test_parallel_steps_with_names_of_their_own(new_run: Callable[..., Run], journal: Journal) -> None:
    meet = threading.Barrier(4, timeout=10)

    def branch(run: Run, n: int) -> Any:
        meet.wait()
        run.log(f"branch {n}")
        return run.step("Inside", Calls(), n)

    def fan_out(run: Run) -> list[int]:
        with ThreadPoolExecutor() as pool:
            futures = [
                pool.submit(copy_context().run, run.step, f"Branch {n}", lambda n=n: branch(run, n))
                for n in range(4)
            ]
            return [future.result() for future in futures]

    run = new_run()
    assert run.step("All", lambda: fan_out(run)) == [0, 1, 2, 3]
    assert set(journal.keys) == {"All"} | {
        key for n in range(4) for key in (f"All/Branch {n}", f"All/Branch {n}/Inside")
    }
    for n in range(4):
        assert [entry.get("message") for _, entry in journal[f"All/Branch {n}"].entries] == [
            f"▶ Branch {n}",
            f"branch {n}",
        ]


def test_two_steps_of_one_name_at_once_are_an_error(run: Run) -> None:
    begun, end = threading.Event(), threading.Event()

    def wait() -> str:
        begun.set()
        assert end.wait(10)
        return "first"

    with ThreadPoolExecutor() as pool:
        first = pool.submit(run.step, "Same", wait)
        assert begun.wait(10)
        with pytest.raises(FlowError, match="“Same” was begun while another step of that name is running"):
            run.step("Same", Calls())
        end.set()
        assert first.result() == "first"
    assert run.step("Same", Calls("third")) == "third"


def test_logs_and_tokens_from_many_threads_are_all_there(
    run: Run, journal: Journal, channel: Channel
) -> None:
    def talk(n: int) -> None:
        for word in range(50):
            run.log(f"{n} {word}")
            run.token(f"[{n} {word}]")
            run.count_usage({"words": 1})

    def all_talk() -> None:
        with ThreadPoolExecutor(8) as pool:
            for future in [pool.submit(copy_context().run, talk, n) for n in range(8)]:
                future.result()

    run.step("Talk", all_talk)
    said = {f"{n} {word}" for n in range(8) for word in range(50)}
    entries = journal["Talk"].entries
    assert {entry["message"] for _, entry in entries[1:]} == said
    assert [entry["n"] for _, entry in entries] == list(range(401))
    assert len({position for position, _ in entries}) == 401
    assert set(channel.text[1:-1].split("][")) == said
    assert run.usage == {"words": 400}


# Retries


def test_a_failure_worth_a_retry_is_tried_again(run: Run, journal: Journal, channel: Channel) -> None:
    ask = Calls(busy(), busy(), "awake")
    assert run.step("Ask", ask) == "awake"
    assert journal["Ask"].tries == 3
    assert [(event["state"], event.get("restarted", False)) for event in channel.of("step")] == [
        ("running", False),
        ("running", True),
        ("running", True),
        ("done", False),
    ]
    assert shown(run, journal) == [
        ("Ask", "↻ The oracle is asleep. Trying again in 1 s (1 of 3)."),
        ("Ask", "↻ The oracle is asleep. Trying again in 1 s (2 of 3)."),
    ]
    assert [entry["message"] for entry in channel.snapshot.entries.values()] == channel.logs[-2:]


def test_a_step_is_not_tried_for_ever(new_run: Callable[..., Run], channel: Channel) -> None:
    ask = Calls(*(busy(f"No. {n}") for n in range(9)))
    with pytest.raises(FlowError, match=r"No\. 2"):
        new_run(step_retries=2).step("Ask", ask)
    assert len(ask) == 3
    assert channel.of("step")[-1]["state"] == "failed"


def test_without_retries_there_is_one_try(new_run: Callable[..., Run]) -> None:
    ask = Calls(busy())
    with pytest.raises(FlowError):
        new_run(step_retries=0).step("Ask", ask)
    assert len(ask) == 1


def test_a_failure_that_is_not_worth_it_is_final_at_once(
    run: Run, journal: Journal, channel: Channel
) -> None:
    ask = Calls(FlowError("No such invoice.", type="not_found"))
    with pytest.raises(FlowError):
        run.step("Ask", ask)
    assert len(ask) == 1
    assert channel.of("step")[-1]["state"] == "failed"
    assert shown(run, journal) == [("Ask", "▶ Ask")]


def test_a_provider_that_names_a_time_is_given_it(run: Run) -> None:
    times: list[float] = []

    def ask() -> None:
        times.append(time.monotonic())
        if len(times) == 1:
            raise busy(retry_after=0.3)

    run.step("Ask", ask)
    assert 0.3 <= times[1] - times[0] < 2


def test_pauses_grow_and_vary(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(run_module, "FIRST_PAUSE", 10.0)
    monkeypatch.setattr(Run, "wait", lambda self, seconds: pauses.append(seconds))
    for _ in range(20):
        run.step("Ask", Calls(busy(), busy(), busy(), "awake"))
    for n, longest in enumerate((10, 20, 40)):
        of_try = pauses[n::3]
        assert all(longest / 2 <= pause <= longest for pause in of_try)
        assert len(set(of_try)) > 1
    pauses.clear()
    run.step("Ask", Calls(busy(retry_after=590), "awake"))
    assert pauses == [590], "never earlier than the provider said"


def test_a_provider_that_asks_for_too_long_a_pause_fails_the_step_at_once(run: Run, channel: Channel) -> None:
    ask = Calls(busy(retry_after=4000))
    with pytest.raises(FlowError) as raised:
        run.step("Outer", lambda: run.step("Ask", ask))
    failure = classify_error(raised.value)
    assert (len(ask), failure.type, failure.retryable) == (1, "unavailable", False)
    assert failure.message == (
        "The oracle is asleep. It asked for a pause of 67 minutes, which is too long to wait."
    )
    assert [event["state"] for event in channel.of("step")] == ["running", "running", "failed", "failed"]


def test_entries_and_text_of_a_failed_try_are_replaced(run: Run, journal: Journal, channel: Channel) -> None:
    tries = iter([busy(), None])

    def ask() -> str:
        run.token("half an")
        run.tool_result("look", ["old"])
        run.log("more")
        if error := next(tries):
            raise error
        return "an answer"

    run.step("Ask", ask)
    texts = ["↻ The oracle is asleep. Trying again in 1 s (1 of 3).", "look", "more"]
    assert shown(run, journal) == [("Ask", text) for text in texts]
    entries = channel.snapshot.entries.values()
    assert [entry.get("message") or entry["tool"] for entry in entries] == texts
    [restart] = [event for event in channel.of("step") if event.get("restarted")]
    after = channel.events[channel.events.index(restart) :]
    assert [event["text"] for event in after if event["type"] == "token"] == ["half an"]


def test_a_finished_step_inside_a_failed_try_is_not_done_again(run: Run, journal: Journal) -> None:
    inside, after = Calls(1), Calls(busy(), "awake")

    def outer() -> Any:
        run.step("In", inside)
        return after()

    assert run.step("Out", outer) == "awake"
    assert len(inside) == 1
    assert journal.keys == ["Out/In", "Out"]


def test_a_failed_step_inside_a_try_is_begun_again(
    new_run: Callable[..., Run], journal: Journal, channel: Channel
) -> None:
    run = new_run(step_retries=1)
    inside = Calls(busy(), busy(), busy(), "awake")

    def ask() -> Any:
        run.log("asking")
        return inside()

    assert run.step("Out", lambda: run.step("In", ask)) == "awake"
    assert len(inside) == 4
    entries = shown(run, journal)
    assert len(set(entries)) == len(entries) == 3
    assert ("Out/In", "asking") in entries
    assert {(entry["step"], entry["n"]) for entry in channel.snapshot.entries.values()} == {
        ("Out", 0),
        ("Out/In", 0),
        ("Out/In", 1),
    }


def test_a_step_that_fails_again_and_again_leaves_each_entry_once(new_run: Callable[..., Run]) -> None:
    run = new_run(step_retries=2)

    def ask() -> None:
        run.log("asking")
        raise busy()

    with pytest.raises(FlowError):
        run.step("Out", lambda: run.step("In", ask))
    left = [(entry["step"], entry["n"]) for _, entry in run.unfiled_entries()]
    assert len(set(left)) == len(left) == 5


def test_a_flow_may_go_on_after_a_failed_step(run: Run, journal: Journal, channel: Channel) -> None:
    with pytest.raises(ValueError, match="no"):
        run.step("Try", Calls(ValueError("no")))
    assert run.step("Instead", Calls("yes")) == "yes"
    assert {view["name"]: view["state"] for view in channel.snapshot.steps.values()} == {
        "Try": "failed",
        "Instead": "done",
    }
    assert shown(run, journal) == [("Try", "▶ Try"), ("Instead", "▶ Instead")]


# A later attempt


def test_a_step_that_an_earlier_attempt_began_says_that_it_begins_again(
    new_run: Callable[..., Run], channel: Channel
) -> None:
    run = new_run(attempt=2)
    run.go_on(progress=0, begun_steps={"Two"})
    run.step("One", int)
    run.step("Two", int)
    restarted = [event["step"] for event in channel.of("step") if event.get("restarted")]
    assert restarted == ["Two"]


def test_every_step_says_so_where_nobody_knows_what_an_earlier_attempt_began(
    new_run: Callable[..., Run], channel: Channel
) -> None:
    run = new_run(attempt=2)
    run.go_on(progress=0, begun_steps=None)
    run.step("One", int)
    assert [event.get("restarted", False) for event in channel.of("step")] == [True, False]


# Progress


def test_progress_comes_from_the_expected_steps(new_run: Callable[..., Run], channel: Channel) -> None:
    run = new_run(expected_steps=4)
    for n in range(4):
        run.step(f"Step {n}", int)
    assert [event["progress"] for event in channel.of("progress")] == [25, 50, 75, 99]


def test_more_steps_than_expected_stay_below_a_hundred(new_run: Callable[..., Run], channel: Channel) -> None:
    run = new_run(expected_steps=1)
    for n in range(3):
        run.step(f"Step {n}", int)
    assert [event["progress"] for event in channel.of("progress")] == [99]


def test_without_an_expectation_progress_comes_nearer_and_nearer(run: Run, channel: Channel) -> None:
    for n in range(5):
        run.step(f"Step {n}", int)
    assert [event["progress"] for event in channel.of("progress")] == [50, 66, 75, 80, 83]


def test_progress_never_falls(run: Run, channel: Channel) -> None:
    run.progress(70)
    run.progress(30)
    run.step("One", int)
    run.progress(70.9)
    run.progress(-5)
    run.progress(71)
    run.progress(400)
    assert [event["progress"] for event in channel.of("progress")] == [70, 71, 100]


def test_a_later_attempt_goes_on_from_where_progress_was(
    new_run: Callable[..., Run], channel: Channel
) -> None:
    new_run(expected_steps=4).step("One", int)
    run = new_run(expected_steps=4, attempt=2)
    run.go_on(progress=25, begun_steps=())
    run.step("One", int)
    run.step("Two", int)
    assert [event["progress"] for event in channel.of("progress")] == [25, 50]


def test_a_step_counts_once_however_often_the_one_around_it_is_tried(
    new_run: Callable[..., Run], channel: Channel
) -> None:
    run = new_run(expected_steps=10)
    after = Calls(busy(), busy(), "awake")
    run.step("Out", lambda: [run.step("In", int), after()])
    assert [event["progress"] for event in channel.of("progress")] == [10, 20]


# Entries


def test_a_log_line_is_cut_and_cleaned(run: Run, channel: Channel) -> None:
    run.log("z" * 10_000)
    run.log("nul\x00 \ud800")
    assert channel.logs == ["z" * MAX_MESSAGE_LENGTH, "nul ?"]


def test_a_tool_result_is_shown_under_its_step(run: Run, channel: Channel) -> None:
    hits = [{"url": "https://example.org/", "content": "All."}]
    run.step("Search", lambda: run.tool_result("look", hits))
    run.tool_result("look", {"n": (1, 2)}, step_name="By hand")
    run.tool_result("bare", None)
    shown = [(entry["step_name"], entry["tool"], entry["data"]) for entry in channel.of("tool_result")]
    assert shown == [("Search", "look", hits), ("By hand", "look", {"n": [1, 2]}), ("bare", "bare", None)]


def test_names_in_a_tool_result_are_cut_and_cleaned(run: Run, channel: Channel) -> None:
    run.tool_result("t" * 300, "a\x00b", step_name="\x00s")
    [entry] = channel.of("tool_result")
    assert (entry["tool"], entry["step_name"], entry["data"]) == ("t" * 100, "s", "ab")


def test_what_has_no_json_form_is_no_tool_result(run: Run, channel: Channel) -> None:
    with pytest.raises(ResultError):
        run.tool_result("look", threading.Lock())
    assert channel.events == []


def test_large_data_is_kept_at_once_and_shown_as_a_link(run: Run, journal: Journal, channel: Channel) -> None:
    large = ["y" * MAX_ENTRY_BYTES]
    run.step("Read a/b", lambda: run.tool_result("read", large))
    [(position, kept)] = journal.large
    assert (kept["step"], kept["n"], kept["data"]) == ("Read a%2Fb", 1, large)
    [event] = channel.of("tool_result")
    assert event["data"] == {
        "omitted_bytes": MAX_ENTRY_BYTES + 4,
        "url": "/api/v1/executions/7/entry?step=Read%20a%252Fb&n=1",
    }
    assert event["data"]["url"] == entry_address("7", "Read a%2Fb", 1)
    assert (position, kept) in journal["Read a%2Fb"].entries


def test_small_data_is_not_kept_before_its_step(run: Run, journal: Journal) -> None:
    run.tool_result("read", "y" * (MAX_ENTRY_BYTES - 2))
    assert journal.large == []


def test_status_and_tokens_are_cleaned(run: Run, channel: Channel) -> None:
    run.status("a\x00" + "b" * 1000)
    run.token("")
    run.token("c\x00\udfff")
    assert [event["status"] for event in channel.of("state")] == ["a" + "b" * 499]
    assert channel.text == "c?"


# Stops


CALLS: dict[str, Callable[[Run], Any]] = {
    "step": lambda run: run.step("Next", int),
    "status": lambda run: run.status("x"),
    "progress": lambda run: run.progress(1),
    "log": lambda run: run.log("x"),
    "tool_result": lambda run: run.tool_result("x", 1),
    "token": lambda run: run.token("x"),
    "check": Run.check,
    "wait": lambda run: run.wait(0),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_stopped_run_ends_at_its_next_call(run: Run, channel: Channel, call: Callable[[Run], Any]) -> None:
    run.stop("The worker has lost it.")
    run.stop("Another reason.")
    assert run.is_stopped
    with pytest.raises(Stopped, match="The worker has lost it"):
        call(run)
    assert channel.events == []


def test_a_broad_except_does_not_swallow_a_stop(run: Run, journal: Journal) -> None:
    went_on = []

    def careless() -> None:
        run.stop("Enough.")
        try:
            run.log("x")
        except Exception:  # noqa: BLE001 that is the test
            went_on.append("swallowed")

    with pytest.raises(Stopped):
        run.step("Careless", careless)
    assert (went_on, journal.steps) == ([], [])


def test_a_stop_ends_a_pause(run: Run) -> None:
    began = time.monotonic()
    threading.Timer(0.1, run.stop, ["Enough."]).start()
    with pytest.raises(Stopped, match="Enough"):
        run.step("Ask", Calls(busy(retry_after=30.0)))
    assert time.monotonic() - began < 5


def test_a_stop_at_the_next_step_lets_the_present_one_finish(
    new_run: Callable[..., Run], journal: Journal
) -> None:
    run = new_run()

    def long() -> str:
        run.stop_at_step("The worker is stopping.")
        run.log("still here")
        run.token("and here")
        return "done"

    assert run.step("Long", long) == "done"
    assert not run.is_stopped
    run.log("between steps")
    with pytest.raises(Stopped, match="The worker is stopping"):
        run.step("Next", int)
    assert journal.keys == ["Long"]
    assert new_run(attempt=2).step("Long", Calls()) == "done"


def test_a_step_whose_attempt_lost_the_execution_is_not_told_as_done(channel: Channel) -> None:
    class Lost(Journal):
        def record(self, step: StepRecord) -> None:
            raise Stopped("Taken over.")

        def keep_entry(self, position: int, entry: Entry) -> None:
            raise Stopped("Taken over.")

    run = Run("7", journal=Lost(), channel=channel)
    with pytest.raises(Stopped):
        run.step("Long", int)
    assert [event["state"] for event in channel.of("step")] == ["running"]
    with pytest.raises(Stopped):
        run.tool_result("read", "y" * MAX_ENTRY_BYTES)
    assert channel.of("tool_result") == []


def numbers() -> Iterator[int]:
    yield from range(3)


def test_a_generator_is_no_result(run: Run) -> None:
    with pytest.raises(ResultError, match="generator is not JSON"):
        run.step("Count", numbers)
