"""A journal and a channel in memory: what a run keeps and says, without databases."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata
from langgraph.checkpoint.memory import InMemorySaver

from main import run as run_module
from main.errors import FlowError
from main.events import Entry, Event, Snapshot, fold
from main.graphs import Writes, outcome
from main.run import NODE, Recorded, Run, StepRecord
from main.states import StateSerializer
from main.tests.event_shapes import misfits


class Journal:
    """Keeps results as JSON, as PostgreSQL does."""

    def __init__(self) -> None:
        self.steps: list[StepRecord] = []
        self.large: list[tuple[int, Entry]] = []
        self.checkpoints = InMemorySaver(serde=StateSerializer())

    def recall(self, key: str) -> Recorded | None:
        kept = next((step for step in self.steps if step.key == key), None)
        return Recorded(kept.fingerprint, orjson.loads(orjson.dumps(kept.result))) if kept else None

    def record(self, step: StepRecord) -> None:
        self.steps.append(step)

    def keep_entry(self, position: int, entry: Entry) -> None:
        self.large.append((position, entry))

    def is_open(self) -> bool:
        return True

    def nodes_in(self, key: str) -> dict[str, int]:
        return {
            step.key: 0
            for step in self.steps
            if step.fingerprint == NODE and step.key.rpartition("/")[0] == key
        }

    def checkpointer(self, run: Run) -> "MemorySaver":
        return MemorySaver(self, run)

    @property
    def keys(self) -> list[str]:
        return [step.key for step in self.steps]

    def __getitem__(self, key: str) -> StepRecord:
        return next(step for step in self.steps if step.key == key)


class MemorySaver(InMemorySaver):
    """Keeps checkpoints as PostgreSQL does: a node's writes with the node."""

    def __init__(self, journal: Journal, run: Run) -> None:
        super().__init__(serde=StateSerializer())
        kept = journal.checkpoints
        self.storage, self.writes, self.blobs = kept.storage, kept.writes, kept.blobs
        self._journal = journal
        self._run = run

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        thread = config["configurable"]
        self._run.await_nodes(thread["thread_id"], thread["checkpoint_ns"], metadata["step"])
        return super().put(config, checkpoint, metadata, new_versions)

    def put_writes(self, config: RunnableConfig, writes: Writes, task_id: str, task_path: str = "") -> None:
        writes, failed = outcome(writes)
        with self._run.keeping_node(task_id, failed=failed) as steps:
            super().put_writes(config, writes, task_id, task_path)
            for step in steps:
                self._journal.record(step)


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
def channel() -> Iterator[Channel]:
    """A channel; whatever is sent through it has to fit the schemas that clients are given."""
    channel = Channel()
    yield channel
    assert misfits(channel.events) == []


@pytest.fixture
def new_run(journal: Journal, channel: Channel) -> Callable[..., Run]:
    """An attempt on the same journal and channel as the one before."""
    return lambda **options: Run("7", journal=journal, channel=channel, **options)


@pytest.fixture
def run(new_run: Callable[..., Run]) -> Run:
    return new_run()


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "FIRST_PAUSE", 0.002)


def busy(message: str = "The oracle is asleep.", **how: Any) -> FlowError:
    return FlowError(message, type="unavailable", retryable=True, **how)


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
