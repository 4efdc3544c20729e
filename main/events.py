"""What a watcher is told, and what it adds up to. Pure: knows no Django, no Celery, no Redis.

An execution's events are numbered `attempt-seq`. `fold()` adds one to a `Snapshot`; folding all of them, or
folding on from any snapshot, gives the same. A snapshot has a bounded size: old entries are dropped (and
counted), long texts are cut.

| event | fields |
| --- | --- |
| state | state, status? |
| progress | progress: 0 to 100 |
| step | step, name, state: running, done or failed; restarted? |
| log | step, n, message |
| tool_result | step, n, step_name, tool, data |
| token | step, text |
| result | state, status, final_result or error |
| snapshot | snapshot: replaces what was folded so far |

`step` is the key of the step it belongs to, "" outside of steps; `n` counts the entries of that step from 0.

Clients get them as EVENT_DATA has them, and of all executions of an owner what OWNER_EVENT_DATA has; event_schemas.py
makes JSON Schemas of these.
"""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, NotRequired

import orjson
from annotated_types import Ge, Le, MaxLen
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

State = Literal["PENDING", "PROGRESS", "SUCCESS", "FAILURE"]
FINAL_STATES = frozenset({"SUCCESS", "FAILURE"})

# A snapshot stays under 128 KiB: entries, the text being written or the result, steps; the rest is small.
# All bytes are counted as JSON, which may need six of them for one of the text's.
MAX_ENTRY_BYTES = 32 * 1024
MAX_ENTRIES_BYTES = 56 * 1024
MAX_TEXT_BYTES = 32 * 1024
MAX_STEPS_BYTES = 24 * 1024
MAX_STEPS = 40
# A growing text is kept in pieces, and joined and cut when there are so many, or one of so many characters.
MAX_PIECES = 256
LARGE_PIECE = 1024
# What a text begins with whose own beginning was cut off.
CUT = "… "
MAX_STATUS_LENGTH = 500
MAX_NAME_LENGTH = 100

# The number of an end that was decided elsewhere (cancelled, overdue): after every other event of the attempt.
LAST_SEQ = 2**53 - 1


class EventId(NamedTuple):
    """The number of an event: the attempt, and its place in it from 1."""

    attempt: int
    seq: int

    def __str__(self) -> str:
        return f"{self.attempt}-{self.seq}"

    @classmethod
    def parse(cls, text: str) -> "EventId":
        """Read `attempt-seq`; raises ValueError for anything else."""
        attempt, _, seq = text.partition("-")
        return cls(int(attempt), int(seq))


NO_EVENT = EventId(0, 0)


# What clients get. The types are what the JSON Schemas are made of, and what the code uses where it can.


@dataclass(frozen=True)
class Means:
    """Says in a JSON Schema what a field is. Pydantic calls the method; nothing of it is needed here."""

    text: str

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {**handler(schema), "description": self.text}


Status = Annotated[str, MaxLen(MAX_STATUS_LENGTH), Means("A sentence: what is going on.")]
Percent = Annotated[int, Ge(0), Le(100), Means("How far it is, in percent. It never falls.")]
StepKey = Annotated[str, Means("The key of the step it belongs to; empty outside of steps.")]
EntryNumber = Annotated[int, Ge(0), Means("Its number among the entries of that step, from 0.")]
Name = Annotated[str, MaxLen(MAX_NAME_LENGTH)]
Final = Annotated[
    Any,
    Means("What the flow returned, text or any JSON; {omitted_bytes, url} where it is larger than 32 KiB."),
]


class Data(TypedDict):
    """The base of what is sent to clients: nothing but the fields that are named, and no 1 for a true."""


# Mypy takes what stands in the class for a field.
Data.__pydantic_config__ = {"extra": "forbid", "strict": True}  # type: ignore[attr-defined]


class ErrorDetail(Data):
    """Why an execution failed."""

    type: Annotated[str, Means("What kind of failure it is: one of the API's names, or the flow's own.")]
    message: Annotated[str, Means("A sentence for the person who reads it.")]
    retryable: Annotated[bool, Means("Whether trying again may help.")]


class StateData(Data):
    """It is waiting or running. How it ends is said by `result`."""

    state: Annotated[Literal["PENDING", "PROGRESS"], Means("Waiting, or begun.")]
    status: NotRequired[Status]


class ProgressData(Data):
    """It is further than before."""

    progress: Percent


class StepView(Data):
    """A step begins, begins anew, is done or has failed."""

    step: Annotated[str, Means("The step's key, unique in its execution.")]
    name: Annotated[Name, Means("The step's name, for people.")]
    state: Annotated[Literal["running", "done", "failed"], Means("How the step stands.")]
    restarted: NotRequired[
        Annotated[bool, Means("True where it begins anew: what an earlier try of it told is void.")]
    ]


class LogData(Data):
    """A line for the timeline."""

    step: StepKey
    n: EntryNumber
    message: Annotated[str, Means("The line.")]


class ToolResultData(Data):
    """What a tool returned, for the timeline."""

    step: StepKey
    n: EntryNumber
    step_name: Annotated[Name, Means("What the tool was used for, for people.")]
    tool: Annotated[Name, Means("The tool's name.")]
    data: Annotated[
        Any, Means("What it returned, any JSON; {omitted_bytes, url} where it is larger than 32 KiB.")
    ]


class TokenData(Data):
    """The text that a step writes has grown."""

    step: StepKey
    text: Annotated[str, Means("The piece to append.")]


class SuccessData(Data):
    """It has ended well."""

    state: Annotated[Literal["SUCCESS"], Means("How it ended.")]
    status: Annotated[str, Means("A sentence: how it ended.")]
    final_result: Final


class FailureData(Data):
    """It has failed, or was cancelled."""

    state: Annotated[Literal["FAILURE"], Means("How it ended.")]
    status: Annotated[str, Means("A sentence: how it ended.")]
    error: Annotated[ErrorDetail, Means("Why.")]


class LogEntry(LogData):
    """A line of the timeline."""

    type: Annotated[Literal["log"], Means("What kind of entry it is.")]


class ToolResultEntry(ToolResultData):
    """What a tool returned."""

    type: Annotated[Literal["tool_result"], Means("What kind of entry it is.")]


class SnapshotDetails(Data):
    """What all events so far add up to."""

    status: Status
    progress: Percent
    step_results: Annotated[list[LogEntry | ToolResultEntry], Means("The timeline, in order.")]
    steps: Annotated[list[StepView], Means("The steps, in the order in which they began.")]
    omitted: NotRequired[Annotated[int, Ge(1), Means("How many of the oldest entries were left out.")]]
    partial_result: NotRequired[
        Annotated[str, Means("The text that is being written, or the end of a long one.")]
    ]
    final_result: NotRequired[Final]
    error: NotRequired[Annotated[ErrorDetail, Means("Why it failed.")]]


class SnapshotData(Data):
    """Everything, in place of what was told before; the same as a message of `/task-status/`."""

    state: Annotated[State, Means("How the execution stands.")]
    details: Annotated[SnapshotDetails, Means("What all events so far add up to.")]


EVENT_DATA: dict[str, Any] = {
    "state": StateData,
    "progress": ProgressData,
    "step": StepView,
    "log": LogData,
    "tool_result": ToolResultData,
    "token": TokenData,
    "result": Annotated[SuccessData | FailureData, Means("It has ended: the last event.")],
    "snapshot": SnapshotData,
}


class OwnerData(Data):
    """What the events about an execution as a whole have in common."""

    execution_id: Annotated[str, Means("The execution's id.")]
    flow: Annotated[str, Means("The name of its flow.")]
    status: Annotated[str, Means("A sentence: what is going on, or how it ended.")]
    progress: Percent


class UnfinishedData(OwnerData):
    """An execution was started, or something about it has changed."""

    state: Annotated[Literal["PENDING", "PROGRESS"], Means("Waiting, or begun.")]


class CompletedData(OwnerData):
    """An execution has ended well."""

    state: Annotated[Literal["SUCCESS"], Means("How it ended.")]


class FailedData(OwnerData):
    """An execution has failed, or was cancelled."""

    state: Annotated[Literal["FAILURE"], Means("How it ended.")]
    error: Annotated[ErrorDetail, Means("Why.")]


class NodeExecutedData(Data):
    """A step of an execution has ended."""

    execution_id: Annotated[str, Means("The execution's id.")]
    flow: Annotated[str, Means("The name of its flow.")]
    step: Annotated[str, Means("The step's key, unique in its execution.")]
    name: Annotated[Name, Means("The step's name, for people.")]
    state: Annotated[Literal["done", "failed"], Means("How the step ended.")]


OWNER_EVENT_DATA: dict[str, Any] = {
    "EXECUTION_STARTED": UnfinishedData,
    "EXECUTION_UPDATED": UnfinishedData,
    "EXECUTION_COMPLETED": CompletedData,
    "EXECUTION_FAILED": FailedData,
    "NODE_EXECUTED": NodeExecutedData,
}


# What the code tells itself.


class Entry(TypedDict):
    """A line of the timeline, as `step_results` of the contract shows it: a LogEntry or a ToolResultEntry."""

    type: Literal["log", "tool_result"]
    step: str
    n: int
    message: NotRequired[str]
    step_name: NotRequired[str]
    tool: NotRequired[str]
    data: NotRequired[Any]


class Event(TypedDict, total=False):
    """Any event; see the table above for the fields of each type. `id` is set when it is sent."""

    id: str
    type: Literal["state", "progress", "step", "log", "tool_result", "token", "result", "snapshot"]
    state: str
    status: str
    progress: int
    step: str
    n: int
    name: str
    restarted: bool
    message: str
    step_name: str
    tool: str
    data: Any
    text: str
    final_result: Any
    error: ErrorDetail
    snapshot: dict[str, Any]


@dataclass
class Snapshot:
    """What an execution's events add up to. `url` is where what was cut can be read whole."""

    url: str = ""
    id: EventId = NO_EVENT
    state: State = "PENDING"
    status: str = "Waiting for a worker"
    progress: int = 0
    entries: dict[tuple[str, int], Entry] = field(default_factory=dict)
    entries_bytes: int = 0
    omitted: int = 0
    steps: dict[str, StepView] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    writing: str | None = None
    final_result: Any = None
    error: ErrorDetail | None = None

    @property
    def is_final(self) -> bool:
        return self.state in FINAL_STATES

    @property
    def done_steps(self) -> set[str]:
        return {key for key, view in self.steps.items() if view["state"] == "done"}

    def public(self) -> dict[str, Any]:
        """Return `{"state", "details"}` as the contract of `/task-status/` has it."""
        details: dict[str, Any] = {
            "status": self.status,
            "progress": self.progress,
            "step_results": list(self.entries.values()),
            "steps": list(self.steps.values()),
        }
        if self.omitted:
            details["omitted"] = self.omitted
        if self.writing is not None and not self.is_final:
            details["partial_result"] = _tail("".join(self.texts[self.writing]))
        if self.state == "SUCCESS":
            details["final_result"] = self.final_result
        if self.error:
            details["error"] = self.error
        return {"state": self.state, "details": details}

    def dump(self) -> dict[str, Any]:
        """Return it whole as JSON values, for `load`."""
        texts = {step: _tail("".join(parts)) for step, parts in self.texts.items()}
        return {**self.public(), "id": str(self.id), "url": self.url, "texts": texts, "writing": self.writing}

    @classmethod
    def load(cls, dumped: dict[str, Any]) -> "Snapshot":
        details = dumped["details"]
        snapshot = cls(
            url=dumped["url"],
            id=EventId.parse(dumped["id"]),
            state=dumped["state"],
            status=details["status"],
            progress=details["progress"],
            omitted=details.get("omitted", 0),
            steps={step["step"]: step for step in details["steps"]},
            texts={step: [text] for step, text in dumped["texts"].items()},
            writing=dumped["writing"],
            final_result=details.get("final_result"),
            error=details.get("error"),
        )
        for entry in details["step_results"]:
            _add_entry(snapshot, entry)
        return snapshot


def fold(snapshot: Snapshot, event: Event) -> Snapshot:
    """Add an event to a snapshot, in place, and return it. An event that was already folded changes nothing."""
    number = EventId.parse(event["id"])
    if number <= snapshot.id or snapshot.is_final:
        return snapshot
    if event["type"] == "snapshot":
        snapshot = _replaced(snapshot, Snapshot.load(event["snapshot"]))
    else:
        _FOLDS[event["type"]](snapshot, event)
    snapshot.id = number
    return snapshot


def merge(snapshot: Snapshot, stored: Snapshot) -> Snapshot:
    """Add to a live snapshot what the stored one knows more; what was shown stays. Returns one of the two.

    Redis may be behind PostgreSQL, and PostgreSQL knows finished steps only: a step that either knows as done is
    done, with the entries that are stored of it. A stored end is final. The number is the higher one, so that events
    which still come are folded, and those of an attempt that was taken over are not.
    """
    if snapshot.is_final:
        return snapshot
    entries = _merged_entries(snapshot, stored)
    stored.entries, stored.entries_bytes = {}, 0
    for entry in entries:
        _add_entry(stored, entry)
    stored.steps = _merged_steps(snapshot, stored)
    _bound_steps(stored)
    stored.progress = max(snapshot.progress, stored.progress)
    stored.omitted = max(snapshot.omitted, stored.omitted)
    stored.id = max(snapshot.id, stored.id)
    if stored.is_final:
        _end_steps(stored)
    else:
        _go_on_live(stored, snapshot)
    return stored


def _merged_entries(snapshot: Snapshot, stored: Snapshot) -> list[Entry]:
    """Return the entries of both: in the order that was shown, or at the end in the order that is stored."""
    done = stored.done_steps
    # Of a step that was seen running only, and is done, what an earlier try said is replaced.
    replaced = done - snapshot.done_steps if not stored.omitted else set()
    live = {key: entry for key, entry in snapshot.entries.items() if key[0] not in replaced}
    more = {
        key: entry for key, entry in stored.entries.items() if key[0] in done or key[0] not in snapshot.steps
    }
    return list(({**more, **live, **more} if stored.is_final else {**live, **more}).values())


def _merged_steps(snapshot: Snapshot, stored: Snapshot) -> dict[str, StepView]:
    shown_first = {} if stored.is_final else snapshot.steps
    done = stored.done_steps
    finished = {key: view for key, view in stored.steps.items() if key in done}
    return {**shown_first, **stored.steps, **snapshot.steps, **finished}


def _go_on_live(stored: Snapshot, snapshot: Snapshot) -> None:
    """Let what is being written go on; what waits for its next attempt has not gone back to where it began."""
    done = stored.done_steps
    stored.texts = {step: parts for step, parts in snapshot.texts.items() if step not in done}
    stored.writing = snapshot.writing if snapshot.writing in stored.texts else None
    stored.status = snapshot.status
    if snapshot.state == "PROGRESS":
        stored.state = "PROGRESS"


def without_large_data(data: Any, url: str) -> Any:
    """Return the data of a tool result, or `{"omitted_bytes", "url"}` where it is too large to be sent along."""
    size = _json_bytes(data)
    return data if size <= MAX_ENTRY_BYTES else {"omitted_bytes": size, "url": url}


def _replaced(old: Snapshot, new: Snapshot) -> Snapshot:
    new.progress = max(old.progress, new.progress)
    return new


def _fold_state(snapshot: Snapshot, event: Event) -> None:
    snapshot.state = event["state"]  # type: ignore[assignment]
    snapshot.status = event.get("status", snapshot.status)[:MAX_STATUS_LENGTH]


def _fold_progress(snapshot: Snapshot, event: Event) -> None:
    snapshot.progress = max(snapshot.progress, min(event["progress"], 100))


def _fold_step(snapshot: Snapshot, event: Event) -> None:
    key = event["step"]
    if _is_done(snapshot, key):  # it is not done again: this was told before, by who did not know
        return
    step: StepView = {"step": key, "name": event["name"][:MAX_NAME_LENGTH], "state": event["state"]}  # type: ignore[typeddict-item]
    if event.get("restarted"):
        step["restarted"] = True
        _forget_entries(snapshot, key)
    if event["state"] == "running":
        snapshot.status = f"{event['name']} …"[:MAX_STATUS_LENGTH]
    _forget_text(snapshot, key)
    snapshot.steps[key] = step
    _bound_steps(snapshot)


def _is_done(snapshot: Snapshot, key: str) -> bool:
    return key in snapshot.steps and snapshot.steps[key]["state"] == "done"


def _fold_entry(snapshot: Snapshot, event: Event) -> None:
    if _is_done(snapshot, event["step"]):
        return
    entry = {key: value for key, value in event.items() if key != "id"}
    _add_entry(snapshot, entry)  # type: ignore[arg-type]


def _fold_token(snapshot: Snapshot, event: Event) -> None:
    if _is_done(snapshot, event["step"]):
        return
    if event["step"] not in snapshot.texts:  # of texts that grow at once one is shown, and not each in turn
        snapshot.writing = event["step"]
    parts = snapshot.texts.setdefault(event["step"], [])
    parts.append(event["text"])
    if len(parts) >= MAX_PIECES or len(event["text"]) >= LARGE_PIECE:
        parts[:] = [_tail("".join(parts))]


def _fold_result(snapshot: Snapshot, event: Event) -> None:
    _fold_state(snapshot, event)
    if event["state"] == "SUCCESS":
        snapshot.progress = 100
        snapshot.final_result = bounded(event.get("final_result"), snapshot.url)
    else:
        snapshot.error = event["error"]
    _end_steps(snapshot)
    snapshot.texts.clear()
    snapshot.writing = None


_FOLDS = {
    "state": _fold_state,
    "progress": _fold_progress,
    "step": _fold_step,
    "log": _fold_entry,
    "tool_result": _fold_entry,
    "token": _fold_token,
    "result": _fold_result,
}


def _add_entry(snapshot: Snapshot, entry: Entry) -> None:
    key = (entry["step"], entry["n"])
    if known := snapshot.entries.get(key):
        snapshot.entries_bytes -= _json_bytes(known)
    snapshot.entries[key] = entry  # one that is already there keeps its place
    snapshot.entries_bytes += _json_bytes(entry)
    while snapshot.entries_bytes > MAX_ENTRIES_BYTES and len(snapshot.entries) > 1:
        oldest = next(iter(snapshot.entries))
        snapshot.entries_bytes -= _json_bytes(snapshot.entries.pop(oldest))
        snapshot.omitted += 1


def _forget_entries(snapshot: Snapshot, step: str) -> None:
    """Drop the entries of a step that begins again; finished steps inside it keep theirs."""
    for key in [key for key in snapshot.entries if key[0] == step]:
        snapshot.entries_bytes -= _json_bytes(snapshot.entries.pop(key))


def _forget_text(snapshot: Snapshot, step: str) -> None:
    snapshot.texts.pop(step, None)
    if snapshot.writing == step:
        snapshot.writing = next(reversed(snapshot.texts), None)


def _end_steps(snapshot: Snapshot) -> None:
    """Nothing runs on after the end: what did not finish has failed."""
    for key, step in snapshot.steps.items():
        if step["state"] == "running":
            snapshot.steps[key] = {**step, "state": "failed"}


def _bound_steps(snapshot: Snapshot) -> None:
    while len(snapshot.steps) > MAX_STEPS or _steps_bytes(snapshot) > MAX_STEPS_BYTES:
        del snapshot.steps[_least_wanted(snapshot.steps)]


def _least_wanted(steps: dict[str, StepView]) -> str:
    """Return the oldest step that has ended, or else the oldest."""
    return next((key for key, step in steps.items() if step["state"] != "running"), next(iter(steps)))


def _steps_bytes(snapshot: Snapshot) -> int:
    return _json_bytes(list(snapshot.steps.values()))


def _tail(text: str) -> str:
    """Keep the end of a text that grew too long for a snapshot: as many of its characters as there is room for.

    A text that grows on from its tail has the same tail as the whole.
    """
    if _fits(text):
        return text
    text = text.removeprefix(CUT)[-MAX_TEXT_BYTES:]
    return CUT + text[bisect_left(range(len(text)), True, key=lambda at: _fits(text[at:])) :]


def _fits(text: str) -> bool:
    return _json_bytes(text) <= MAX_TEXT_BYTES


def _json_bytes(value: Any) -> int:
    return len(orjson.dumps(value))


def bounded(value: Any, url: str) -> Any:
    """Return a result, or `{"omitted_bytes", "url"}` where it is too large for a snapshot."""
    size = _json_bytes(value)
    return value if size <= MAX_TEXT_BYTES else {"omitted_bytes": size, "url": url}
