"""`GET /task-status/<id>/`: the stream of snapshots."""

import asyncio
import threading
import time
import uuid
from collections.abc import Iterator, MutableMapping
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest
from celery.result import AsyncResult
from redis.asyncio.client import PubSub

from config.celery import app
from config.tests.waiting import wait_until
from main import pump
from main.access import Viewer
from main.channel import ExecutionFailed
from main.models import Execution
from main.pump import Pump, WatchExecution
from main.tests.platform import Platform, Visitor
from main.tests.stream_flows import ODD_VALUES
from main.tests.streams import (
    Message,
    all_snapshots,
    messages_of,
    opened,
    snapshots,
    stored_snapshot,
    subscribers,
)

MAX_FRAME = 128 * 1024
UNKNOWN = "8db6298e-f0eb-402e-9d0d-0ee5f71150b0"


@pytest.fixture
def waiting(visitor: Visitor, tmp_path: Path) -> Iterator[str]:
    """A run that has done its first step and waits at the gate, with nothing new to say."""
    task_id = visitor.start("gate_flow", folder=str(tmp_path))
    with opened(visitor, task_id) as stream:
        next(each for each in snapshots(stream) if each.details.get("partial_result"))
    yield task_id
    open_gate(tmp_path)


def open_gate(folder: Path) -> None:
    (folder / "open").touch()


def ends_in_success(task_id: str) -> bool:
    return Execution.objects.get(id=task_id).state == "SUCCESS"


# The stream


@pytest.mark.parametrize("slash", ["/", ""])
def test_a_stream_may_be_neither_cached_nor_buffered(visitor: Visitor, waiting: str, slash: str) -> None:
    with visitor.stream("GET", f"/task-status/{waiting}{slash}") as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert "no-cache" in response.headers["cache-control"]
        assert response.headers["x-accel-buffering"] == "no"
        assert "x-watch-execution" not in response.headers


def test_the_current_snapshot_comes_at_once(visitor: Visitor, waiting: str) -> None:
    began = time.monotonic()
    with opened(visitor, waiting) as stream:
        first = next(snapshots(stream))
    assert first.at - began < 2
    assert first.snapshot["state"] == "PROGRESS"
    assert first.details["partial_result"] == "Waiting"
    assert first.details["progress"] == 33
    assert messages_of(first.snapshot) == ["Begun", "▶ First", "▶ Wait", "Waiting for the gate"]


def test_an_execution_waits_then_runs_then_succeeds(platform: Platform, visitor: Visitor) -> None:
    with platform["worker-io"].paused():
        task_id = visitor.start("slow_words_flow", words=10)
        with opened(visitor, task_id) as stream:
            first = next(snapshots(stream))
            assert first.snapshot == {
                "state": "PENDING",
                "details": {
                    "status": "Waiting for a worker",
                    "progress": 0,
                    "step_results": [],
                    "steps": [],
                },
            }
    with opened(visitor, task_id) as stream:
        states = ["PENDING", *(message.snapshot["state"] for message in snapshots(stream))]
    assert [state for state, _ in groupby(states)] == ["PENDING", "PROGRESS", "SUCCESS"]


def test_a_watcher_from_the_start_sees_the_answer_grow(platform: Platform, visitor: Visitor) -> None:
    with platform["worker-io"].paused():
        task_id = visitor.start("slow_words_flow", words=40)
        with opened(visitor, task_id) as stream:
            seen = [next(snapshots(stream))]
    with opened(visitor, task_id) as stream:
        seen += snapshots(stream)
    texts = [message.details["partial_result"] for message in seen if "partial_result" in message.details]
    assert len(texts) > 5
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert texts[0].startswith("**word0**")
    assert len(texts[-1]) > 2 * len(texts[0])
    last = seen[-1].details
    assert "partial_result" not in last
    assert last["final_result"].startswith(texts[-1])


def test_progress_never_falls_and_ends_at_100(visitor: Visitor) -> None:
    progress = [each.details["progress"] for each in all_snapshots(visitor, visitor.start("slow_words_flow"))]
    assert progress == sorted(progress)
    assert 50 in progress
    assert progress[-1] == 100


def test_there_are_at_most_ten_frames_a_second(visitor: Visitor) -> None:
    frames = all_snapshots(visitor, visitor.start("slow_words_flow", words=60))
    seconds = frames[-1].at - frames[0].at
    assert seconds > 1.5  # about 33 words a second were written
    assert 5 < len(frames) <= seconds * 10 + 3


def test_the_last_message_alone_has_an_id_and_then_the_stream_ends(visitor: Visitor) -> None:
    task_id = visitor.start("count_flow")
    frames = all_snapshots(visitor, task_id)
    assert ["id" in frame.fields for frame in frames] == [False] * (len(frames) - 1) + [True]
    assert frames[-1].fields["id"] == "end"
    assert frames[-1].snapshot["state"] == "SUCCESS"
    assert not any("event" in frame.fields for frame in frames)


def test_the_final_snapshot_tells_the_whole_story(visitor: Visitor, tmp_path: Path) -> None:
    open_gate(tmp_path)
    assert visitor.run("gate_flow", folder=str(tmp_path)) == {
        "state": "SUCCESS",
        "details": {
            "status": "Done",
            "progress": 100,
            "step_results": [
                {"type": "log", "step": "", "n": 0, "message": "Begun"},
                {"type": "log", "step": "First", "n": 0, "message": "▶ First"},
                {
                    "type": "tool_result",
                    "step": "",
                    "n": 1,
                    "step_name": "lookup",
                    "tool": "lookup",
                    "data": [{"url": "https://example.com/", "content": "first-1"}],
                },
                {"type": "log", "step": "Wait", "n": 0, "message": "▶ Wait"},
                {"type": "log", "step": "Wait", "n": 1, "message": "Waiting for the gate"},
            ],
            "steps": [
                {"step": "First", "name": "First", "state": "done"},
                {"step": "Wait", "name": "Wait", "state": "done"},
            ],
            "final_result": "first-1 wait-1",
        },
    }


# Coming later, coming again


def test_a_finished_execution_is_one_message(visitor: Visitor) -> None:
    task_id = visitor.start("count_flow")
    live = all_snapshots(visitor, task_id)[-1]
    with opened(visitor, task_id) as stream:
        retry, last = list(stream)
    assert set(retry.fields) == {"retry"}
    assert (last.fields["id"], last.snapshot) == ("end", live.snapshot)


def test_a_browser_that_has_seen_the_end_is_told_to_stay_away(visitor: Visitor) -> None:
    task_id = visitor.start("count_flow")
    all_snapshots(visitor, task_id)
    response = visitor.get(f"/task-status/{task_id}/", headers={"Last-Event-ID": "end"})
    assert (response.status_code, response.content) == (204, b"")


def test_a_reload_in_the_middle_shows_what_came_before(
    visitor: Visitor, waiting: str, tmp_path: Path
) -> None:
    with opened(visitor, waiting) as stream:
        before = next(snapshots(stream)).snapshot
    with opened(visitor, waiting) as stream:
        again = snapshots(stream)
        assert next(again).snapshot == before
        open_gate(tmp_path)
        last = list(again)[-1].snapshot
    assert messages_of(last) == messages_of(before)


@pytest.mark.parametrize(
    ("flow", "inputs"),
    [
        ("count_flow", {}),
        ("cpu_count_flow", {}),
        ("chain_flow", {"question": "bees"}),
        ("poem_flow", {}),
        ("web_search_flow", {"question": "How is a worker stopped?"}),
        ("flaky_flow", {}),
        ("failing_flow", {}),
        ("secret_flow", {}),
        ("figures_flow", {}),
        ("long_flow", {}),
        ("large_flow", {}),
        ("torrent_flow", {}),
    ],
)
def test_live_and_later_the_end_is_the_same(visitor: Visitor, flow: str, inputs: dict[str, Any]) -> None:
    task_id = visitor.start(flow, **inputs)
    live = all_snapshots(visitor, task_id)[-1].snapshot
    assert live["state"] in {"SUCCESS", "FAILURE"}
    assert live == all_snapshots(visitor, task_id)[-1].snapshot == stored_snapshot(task_id)


def test_streams_opened_at_different_moments_end_in_the_same(visitor: Visitor) -> None:
    task_id = visitor.start("slow_words_flow", words=40)
    with opened(visitor, task_id) as first_stream:
        first = snapshots(first_stream)
        next(each for each in first if "word9" in each.details.get("partial_result", ""))
        with opened(visitor, task_id) as second_stream:
            second = list(snapshots(second_stream))
        last = list(first)[-1].snapshot
    assert second[0].snapshot["state"] == "PROGRESS"
    assert second[-1].snapshot == last == stored_snapshot(task_id)


def test_many_watchers_of_one_execution_share_one_subscription(
    visitor: Visitor, waiting: str, tmp_path: Path
) -> None:
    ends: list[Message] = []

    def watch() -> None:
        ends.append(all_snapshots(visitor, waiting)[-1])

    threads = [threading.Thread(target=watch) for _ in range(20)]
    for thread in threads:
        thread.start()
    wait_until(lambda: subscribers(waiting))
    assert subscribers(waiting) == 1
    open_gate(tmp_path)
    for thread in threads:
        thread.join()
    assert [end.snapshot for end in ends] == [stored_snapshot(waiting)] * 20
    wait_until(lambda: subscribers(waiting) == 0)


def test_a_client_that_leaves_is_forgotten(visitor: Visitor, waiting: str) -> None:
    with opened(visitor, waiting) as stays:
        next(snapshots(stays))
        with opened(visitor, waiting) as leaves:
            next(snapshots(leaves))
        assert subscribers(waiting) == 1
    wait_until(lambda: subscribers(waiting) == 0)


# Who may not watch


@pytest.mark.parametrize("task_id", [UNKNOWN, "nonsense", "%00", "1", "☃", f"{UNKNOWN}x", "x" * 2000])
def test_what_is_not_there_is_a_404(visitor: Visitor, task_id: str) -> None:
    response = visitor.get(f"/task-status/{task_id}/")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["error"] == "There is no such execution."


def test_what_is_someone_elses_is_not_there(platform: Platform, visitor: Visitor, waiting: str) -> None:
    unknown = visitor.get(f"/task-status/{UNKNOWN}/")
    with platform.visitor() as stranger:
        foreign = stranger.get(f"/task-status/{waiting}/")
    assert (foreign.status_code, foreign.json()) == (unknown.status_code, unknown.json())


def test_another_method_is_refused_with_the_allowed_ones(visitor: Visitor, waiting: str) -> None:
    response = visitor.post(f"/task-status/{waiting}/")
    assert response.status_code == 405
    assert {"GET", "HEAD"} <= set(response.headers["allow"].split(", "))
    assert response.json()["error"]


def test_head_answers_without_a_stream(visitor: Visitor, waiting: str) -> None:
    response = visitor.head(f"/task-status/{waiting}/", timeout=5)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    # The connection is free again: the next request goes over the same one.
    assert visitor.get("/health/", timeout=5).status_code == 200
    assert subscribers(waiting) == 0


# Failing


def test_a_failure_is_one_message_that_keeps_secrets(visitor: Visitor) -> None:
    task_id = visitor.start("secret_flow")
    with opened(visitor, task_id) as stream:
        everything = list(stream)
    failures = [each for each in snapshots(iter(everything)) if each.snapshot["state"] == "FAILURE"]
    [failure] = failures
    assert failure is everything[-1]
    assert failure.fields["id"] == "end"
    assert set(failure.details["error"]) == {"type", "message", "retryable"}
    assert failure.details["status"] == failure.details["error"]["message"]
    assert "final_result" not in failure.details
    assert not any("hunter2" in str(each.fields) for each in everything)
    assert "hunter2" not in visitor.get(f"/executions/{task_id}/").text
    assert "hunter2" not in str(visitor.details(task_id))
    assert "hunter2" not in str(AsyncResult(task_id, app=app).info)


def test_a_step_that_is_tried_again_says_so(visitor: Visitor) -> None:
    frames = all_snapshots(visitor, visitor.start("flaky_flow", failures=2))
    last = frames[-1].snapshot
    assert last["details"]["final_result"] == "an answer"
    assert [line for line in messages_of(last) if "asleep" in line] == [
        "↻ The oracle is asleep. Trying again in 1 s (1 of 2).",
        "↻ The oracle is asleep. Trying again in 1 s (2 of 2).",
    ]
    assert last["details"]["steps"] == [{"step": "Ask", "name": "Ask", "state": "done"}]
    texts = {frame.details.get("partial_result", "") for frame in frames}
    assert texts <= {"", "half an answer "}  # one try's text at a time


def test_a_step_that_is_tried_too_often_fails(visitor: Visitor) -> None:
    last = visitor.run("flaky_flow", failures=3)
    assert last["state"] == "FAILURE"
    assert last["details"]["error"] == {
        "type": "unavailable",
        "message": "The oracle is asleep.",
        "retryable": True,
    }
    assert last["details"]["steps"] == [{"step": "Ask", "name": "Ask", "state": "failed"}]


# Celery's way


def test_async_result_has_the_same_as_the_stream(visitor: Visitor, waiting: str, tmp_path: Path) -> None:
    result: AsyncResult[Any] = AsyncResult(waiting, app=app)
    with opened(visitor, waiting) as stream:
        shown = next(snapshots(stream)).snapshot
    wait_until(lambda: result.info == shown["details"], seconds=2)
    assert str(result.state) == "PROGRESS"
    open_gate(tmp_path)
    last = all_snapshots(visitor, waiting)[-1].snapshot
    wait_until(result.successful, seconds=2)
    assert result.info == last["details"]
    assert result.info["final_result"] == "first-1 wait-1"


def test_async_result_of_a_failure_is_an_exception_with_sentence_and_details(visitor: Visitor) -> None:
    task_id = visitor.start("failing_flow")
    last = all_snapshots(visitor, task_id)[-1].snapshot
    result: AsyncResult[Any] = AsyncResult(task_id, app=app)
    wait_until(result.failed, seconds=2)
    assert isinstance(result.info, ExecutionFailed)
    assert result.info.args == ("The story has no end. Try another one.", last["details"])


def test_async_result_of_a_cancelled_run_stays_a_failure(visitor: Visitor, tmp_path: Path) -> None:
    task_id = visitor.start("ticking_flow", folder=str(tmp_path))
    with opened(visitor, task_id) as stream:
        next(each for each in snapshots(stream) if each.details.get("partial_result"))
        visitor.post(f"/api/v1/executions/{task_id}/cancel").raise_for_status()
    wait_until((tmp_path / "stopped").exists)
    until = time.monotonic() + 0.5  # longer than the worker keeps what it did not write yet
    while time.monotonic() < until:
        result: AsyncResult[Any] = AsyncResult(
            task_id, app=app
        )  # one that has seen a failure would not look again
        assert result.state == "FAILURE"
        assert result.info.args[0] == "The execution was cancelled."


# Bounds


def test_what_is_too_large_is_named_and_can_be_had_whole(visitor: Visitor) -> None:
    task_id = visitor.start("large_flow", kilobytes=200)
    last = all_snapshots(visitor, task_id)[-1].details
    [table] = [entry for entry in last["step_results"] if entry["type"] == "tool_result"]
    assert table["data"].keys() == {"omitted_bytes", "url"}
    assert table["data"]["omitted_bytes"] > 200_000
    whole = visitor.get(table["data"]["url"]).raise_for_status().json()
    assert whole["data"] == [{"row": "x" * 1000}] * 200
    assert last["final_result"].keys() == {"omitted_bytes", "url"}
    address = last["final_result"]["url"]
    answer = visitor.get(address, headers={"Accept": "application/json"}).raise_for_status().json()
    assert answer["details"]["final_result"] == "y" * 200_000


@pytest.mark.parametrize("flow", ["large_flow", "long_flow"])
def test_no_frame_is_larger_than_128_kib(visitor: Visitor, flow: str) -> None:
    frames = all_snapshots(visitor, visitor.start(flow))
    assert frames[-1].snapshot["state"] == "SUCCESS"
    assert max(frame.size for frame in frames) < MAX_FRAME


def test_of_far_too_much_the_newest_is_shown(visitor: Visitor) -> None:
    frames = all_snapshots(visitor, visitor.start("torrent_flow"))
    assert max(frame.size for frame in frames) < MAX_FRAME
    growing = [frame.details["partial_result"] for frame in frames if "partial_result" in frame.details]
    assert growing
    assert all(text.endswith('"\x1b') for text in growing)
    last = frames[-1].details
    assert last["omitted"] > 0
    assert last["step_results"][-1]["message"] == "A page is written."
    assert last["steps"][-1] == {"step": "Write", "name": "Write", "state": "done"}


@pytest.mark.parametrize("shown", [False, True], ids=["returned", "shown"])
@pytest.mark.parametrize("value", ODD_VALUES)
def test_what_json_cannot_hold_ends_all_the_same(visitor: Visitor, value: str, shown: bool) -> None:
    task_id = visitor.start("odd_value_flow", value=value, shown=shown)
    last = all_snapshots(visitor, task_id)[-1].snapshot
    assert last == all_snapshots(visitor, task_id)[-1].snapshot == stored_snapshot(task_id)
    assert last["state"] == "SUCCESS" or last["details"]["error"]["type"] == "result"
    assert Execution.objects.get(id=task_id).attempt == 1


def test_a_sentence_that_cannot_be_kept_is_cleaned(visitor: Visitor) -> None:
    last = visitor.run("garbled_failure_flow")
    assert last["details"]["error"]["message"].startswith("It broke:  ? xxx")
    assert len(last["details"]["error"]["message"]) <= 4000


# The pump itself, in this process


def test_a_silent_stream_is_kept_alive(
    visitor: Visitor, waiting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "KEEP_ALIVE", 0.4)
    monkeypatch.setattr(pump, "LOOK_UP", 0.1)
    sent: list[bytes] = []
    leave = asyncio.Event()

    async def receive() -> MutableMapping[str, Any]:
        await leave.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message.get("body", b""))
        if sent.count(b":\n\n") == 2:
            leave.set()

    async def watch() -> None:
        async with asyncio.timeout(10):
            await Pump().stream(watching(waiting), receive, send)

    asyncio.run(watch())
    assert [body[:6] for body in sent] == [b"", b"retry:", b"data: ", b":\n\n", b":\n\n"]


@pytest.mark.parametrize("error", [ConnectionError, RuntimeError], ids=["closed", "closing"])
@pytest.mark.parametrize("failing", ["subscribe", "unsubscribe"])
def test_a_redis_that_refuses_once_is_listened_to_again(
    visitor: Visitor, waiting: str, monkeypatch: pytest.MonkeyPatch, failing: str, error: type[Exception]
) -> None:
    wait_until(lambda: subscribers(waiting) == 0)
    refuse_once(monkeypatch, failing, error())

    async def watch() -> None:
        pump = Pump()
        async with asyncio.timeout(10):
            await pump.stream(watching(str(uuid.uuid4()), is_new=True), leaves_at_once, ignore)
            watcher = asyncio.ensure_future(pump.stream(watching(waiting), never_leaves, ignore))
            await asyncio.to_thread(wait_until, lambda: subscribers(waiting) == 1, 5)
            watcher.cancel()

    asyncio.run(watch())


def watching(task_id: str, *, is_new: bool = False) -> WatchExecution:
    return WatchExecution(task_id, Viewer("somebody"), is_new=is_new)


def refuse_once(monkeypatch: pytest.MonkeyPatch, command: str, error: Exception) -> None:
    """Have Redis refuse one command about an execution."""
    real = getattr(PubSub, command)
    refusals = [error]

    async def refuse(pubsub: PubSub, *channels: str | bytes) -> Any:  # bytes where it connects anew by itself
        if _text(channels[0]).startswith("execution:") and refusals:
            raise refusals.pop()
        return await real(pubsub, *channels)

    monkeypatch.setattr(PubSub, command, refuse)


def _text(channel: str | bytes) -> str:
    return channel.decode() if isinstance(channel, bytes) else channel


async def leaves_at_once() -> MutableMapping[str, Any]:
    return {"type": "http.disconnect"}


async def never_leaves() -> MutableMapping[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError


async def ignore(message: MutableMapping[str, Any]) -> None:
    """Read nothing."""
