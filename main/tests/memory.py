"""A journal and a channel in memory: what a run keeps and says, without databases."""

import threading
from typing import Any

import orjson
import pytest
from langchain_core.callbacks import BaseCallbackHandler

from main.events import Entry, Event, Snapshot, fold
from main.run import Recorded, Run, StepRecord


class Journal:
    """Keeps results as JSON, as PostgreSQL does."""

    def __init__(self) -> None:
        self.steps: list[StepRecord] = []
        self.large: list[tuple[int, Entry]] = []

    def recall(self, key: str) -> Recorded | None:
        kept = next((step for step in self.steps if step.key == key), None)
        return Recorded(kept.fingerprint, orjson.loads(orjson.dumps(kept.result))) if kept else None

    def record(self, step: StepRecord) -> None:
        self.steps.append(step)

    def keep_entry(self, position: int, entry: Entry) -> None:
        self.large.append((position, entry))

    def is_open(self) -> bool:
        return True

    @property
    def keys(self) -> list[str]:
        return [step.key for step in self.steps]

    def __getitem__(self, key: str) -> StepRecord:
        return next(step for step in self.steps if step.key == key)


class Channel:
    """Keeps the events in the order in which they came."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._lock = threading.Lock()

    def send(self, event: Event) -> None:
        with self._lock:
            self.events.append(orjson.loads(orjson.dumps(event)))

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["type"] == kind]

    @property
    def text(self) -> str:
        return "".join(event["text"] for event in self.of("token"))

    @property
    def logs(self) -> list[str]:
        return [event["message"] for event in self.of("log")]

    @property
    def snapshot(self) -> Snapshot:
        """What a watcher sees who saw everything."""
        snapshot = Snapshot()
        for number, event in enumerate(self.events, 1):
            snapshot = fold(snapshot, {**event, "id": f"1-{number}"})
        return snapshot


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def channel() -> Channel:
    return Channel()


class ToolWatcher(BaseCallbackHandler):
    """Sees tools as LangChain reports them: the name, then the result."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_tool_start(self, serialized: dict[str, Any], input_str: str, **kwargs: Any) -> None:
        self.seen.append(serialized["name"])

    def on_tool_end(self, output: Any, **kwargs: Any) -> None:
        self.seen.append(output)


def shown(run: Run, journal: Journal) -> list[tuple[str, str]]:
    """Return what the database would show at the end: the step and the text of every entry, in order."""
    kept = [entry for step in journal.steps for entry in step.entries] + run.unfiled_entries()
    return [
        (entry["step"], entry.get("message") or entry["tool"])
        for _, entry in sorted(kept, key=lambda pair: pair[0])
    ]
