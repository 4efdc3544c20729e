"""What an owner is told of all their executions on one stream: states, steps, progress; no entries and no tokens.

| event | data |
| --- | --- |
| EXECUTION_STARTED, EXECUTION_UPDATED | execution_id, flow, state, status, progress |
| EXECUTION_COMPLETED, EXECUTION_FAILED | the same; error, where it failed |
| NODE_EXECUTED | execution_id, flow, step, name, state: done or failed |

Pure, as events.py is.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import orjson

from main.events import Event, Snapshot

STARTED, UPDATED = "EXECUTION_STARTED", "EXECUTION_UPDATED"
COMPLETED, FAILED = "EXECUTION_COMPLETED", "EXECUTION_FAILED"
NODE = "NODE_EXECUTED"


class OwnerEvent(NamedTuple):
    """An event by its name, with its data as JSON; in Redis as both with a space between."""

    name: str
    data: bytes

    def encode(self) -> bytes:
        return self.name.encode() + b" " + self.data

    @classmethod
    def decode(cls, encoded: bytes) -> "OwnerEvent":
        name, _, data = encoded.partition(b" ")
        return cls(name.decode(), data)

    @property
    def state(self) -> tuple[str, str] | None:
        """The execution and its state, where it tells of one."""
        if self.name == NODE:
            return None
        data = orjson.loads(self.data)
        return data["execution_id"], data["state"]


def execution_event(execution_id: str, flow: str, snapshot: Snapshot, *, is_new: bool = False) -> OwnerEvent:
    """Return how an execution is."""
    data: dict[str, Any] = {
        "execution_id": execution_id,
        "flow": flow,
        "state": snapshot.state,
        "status": snapshot.status,
        "progress": snapshot.progress,
    }
    if snapshot.error:
        data["error"] = snapshot.error
    ends = {"SUCCESS": COMPLETED, "FAILURE": FAILED}
    return OwnerEvent(ends.get(snapshot.state, STARTED if is_new else UPDATED), orjson.dumps(data))


def node_events(execution_id: str, flow: str, events: Iterable[Event]) -> Iterator[OwnerEvent]:
    """Return what the events say of steps that are done or have failed."""
    for event in events:
        if event["type"] == "step" and event["state"] != "running":
            data = {"execution_id": execution_id, "flow": flow}
            data |= {name: event[name] for name in ("step", "name", "state")}
            yield OwnerEvent(NODE, orjson.dumps(data))
