"""Redis may be behind PostgreSQL: it was away, full, or lost its last second. What is stored counts."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import orjson
import pytest

from main.access import Viewer
from main.channel import Publisher, announce_end, history, redis_client, stream_key
from main.events import Snapshot
from main.models import Execution, Step
from main.pump import Pump, WatchExecution
from main.tests import rows
from main.tests.rows import claimed, step_record
from main.views import snapshot_of
from main.watched import Watched

pytestmark = pytest.mark.django_db(transaction=True)

OLD: Any = {"type": "log", "step": "Ask", "n": 0, "message": "old"}
OLDER: Any = {**OLD, "n": 1, "message": "older"}
NEW: Any = {**OLD, "message": "new"}


@pytest.fixture(autouse=True)
def alone(transactional_db: None) -> Any:
    with rows.without_sweepers():
        yield


@pytest.fixture
def behind() -> Execution:
    """An execution in its second attempt, whose finished step Redis knows as begun in the first."""
    first = claimed()
    publisher = Publisher(str(first.id), 1, Snapshot(), on_superseded=lambda: None)
    publisher.send({"type": "state", "state": "PROGRESS", "status": "Running"})
    publisher.send({"type": "step", "step": "Ask", "name": "Ask", "state": "running"})
    publisher.send(OLD)
    publisher.send(OLDER)
    publisher.leave()
    first.hand_back()
    second = Execution.claim_next(rows.KIND, "bob/1/1")
    assert second
    Step.record(second, step_record(entries=[(1, NEW)]))
    return second


def seen(details: dict[str, Any]) -> Any:
    entries = [entry["message"] for entry in details["step_results"]]
    return [(step["name"], step["state"]) for step in details["steps"]], entries, details["progress"]


AS_STORED = ([("Ask", "done")], ["new"], 50)


def frames(
    execution: Execution, pump: Pump, *, until: int = 1, progress: int = 0, between: Any = None
) -> list[dict[str, Any]]:
    """Watch until there were so many frames, and so much progress; after the first do something."""
    found: list[dict[str, Any]] = []

    async def watch() -> None:
        enough = asyncio.Event()

        async def receive() -> MutableMapping[str, Any]:
            await enough.wait()
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            body = message.get("body", b"")
            if b"data: " not in body:
                return
            found.append(orjson.loads(body.partition(b"data: ")[2])["details"])
            if len(found) == 1 and between:
                await between()
            if len(found) >= until and found[-1]["progress"] >= progress:
                enough.set()

        async with asyncio.timeout(20):
            await pump.stream(WatchExecution(str(execution.id), Viewer("somebody")), receive, send)

    asyncio.run(watch())
    return found


def test_a_first_watcher_sees_what_is_stored(behind: Execution) -> None:
    assert seen(frames(behind, Pump())[0]) == AS_STORED


def go_on(behind: Execution, stored: Snapshot) -> None:
    """Let its second attempt say something."""
    publisher = Publisher(str(behind.id), 2, stored, on_superseded=lambda: None)
    publisher.send({"type": "progress", "progress": 60})
    publisher.flush()


def test_what_was_shown_stays_when_redis_is_back(behind: Execution) -> None:
    pump = Pump()
    stored = behind.snapshot()

    async def lose_redis() -> None:
        await pump.subscription.disconnect()
        await asyncio.to_thread(go_on, behind, stored)

    told = frames(behind, pump, progress=60, between=lose_redis)
    assert [seen(details)[:2] for details in told] == [AS_STORED[:2]] * len(told)


def test_an_attempt_that_was_taken_over_is_not_heard(behind: Execution) -> None:
    """It was frozen, wakes up, and Redis has nothing newer to refuse it by."""

    stored = behind.snapshot()

    def wake_up() -> None:
        late = Publisher(str(behind.id), 1, Snapshot(), on_superseded=lambda: None)
        late._seq = 10
        late.send({"type": "step", "step": "Ask", "name": "Ask", "state": "failed"})
        late.flush()
        redis_client().delete(stream_key(str(behind.id)))
        go_on(behind, stored)

    told = frames(behind, Pump(), progress=60, between=lambda: asyncio.to_thread(wake_up))
    assert [seen(details)[:2] for details in told] == [AS_STORED[:2]] * len(told)


def test_json_has_what_is_stored(behind: Execution) -> None:
    assert seen(snapshot_of(behind).public()["details"]) == AS_STORED


def test_an_end_from_outside_tells_what_is_stored(behind: Execution) -> None:
    behind.cancel()
    behind.refresh_from_db()
    announce_end(str(behind.id), behind.attempt, behind.result_event(), behind.snapshot())
    told = history(str(behind.id))
    assert told
    assert seen(told.public()["details"]) == AS_STORED


def test_what_is_taken_up_again_does_not_look_unbegun() -> None:
    execution = claimed()
    execution.hand_back()
    waiting = Execution.objects.get(id=execution.id)
    assert (waiting.snapshot().public()["state"], waiting.contract_state) == ("PROGRESS", "PROGRESS")
    assert waiting.snapshot().status == "Waiting for a worker"


def test_what_is_read_before_redis_is_back_is_read_again(
    behind: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first reading of an execution finds no Redis, and just as it ends Redis is back."""
    go_on(behind, behind.snapshot())
    pump = Pump()
    read = pump._read_events
    readings = 0

    async def too_early(watched: Watched) -> None:
        nonlocal readings
        readings += 1
        if readings > 1:
            await read(watched)
        else:  # nothing was found, and now Redis is back
            pump._catch_up_all()

    monkeypatch.setattr(pump, "_read_events", too_early)
    told = frames(behind, pump, progress=60)
    assert told[-1]["progress"] == 60


def test_an_event_of_a_newer_version_keeps_nobody_from_watching(behind: Execution) -> None:
    redis_client().xadd(stream_key(str(behind.id)), {"e": b'{"id":"2-1","type":"dance"}'}, id="2-1")
    [first] = frames(behind, Pump())
    assert seen(first) == AS_STORED
