"""What `/task-status/` says, read as a client of Server-Sent Events reads it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
import orjson

from main.channel import redis_client, stream_key
from main.models import Execution
from main.tests.platform import Visitor


class Message(NamedTuple):
    """What stands between two empty lines: fields by name (a comment's is ""), bytes, and when it came."""

    fields: dict[str, str]
    size: int
    at: float

    @property
    def snapshot(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.fields["data"])
        return found

    @property
    def details(self) -> dict[str, Any]:
        found: dict[str, Any] = self.snapshot["details"]
        return found


@contextmanager
def opened(visitor: Visitor, task_id: str, **headers: str) -> Iterator[Iterator[Message]]:
    """Open the stream of an execution, and give the messages as they come."""
    with visitor.stream("GET", f"/task-status/{task_id}/", headers=headers) as response:
        assert response.status_code == 200, response.read()
        yield messages(response)


def messages(response: httpx.Response) -> Iterator[Message]:
    lines: list[str] = []
    for line in response.iter_lines():
        if line:
            lines.append(line)
        else:
            yield _message(lines)
            lines = []
    assert not lines, f"the stream ended within a message: {lines}"


def snapshots(stream: Iterator[Message]) -> Iterator[Message]:
    """Leave out what is no message to a browser: comments and `retry:`."""
    return (message for message in stream if "data" in message.fields)


def all_snapshots(visitor: Visitor, task_id: str) -> list[Message]:
    """Watch to the end."""
    with opened(visitor, task_id) as stream:
        return list(snapshots(stream))


def stored_snapshot(task_id: str) -> dict[str, Any]:
    """Return what PostgreSQL knows, as JSON has it."""
    found: dict[str, Any] = orjson.loads(orjson.dumps(Execution.objects.get(id=task_id).snapshot().public()))
    return found


def subscribers(task_id: str) -> int:
    """How many web processes listen to the execution."""
    [(_, count)] = redis_client().pubsub_numsub(stream_key(task_id))
    return int(count)


def messages_of(snapshot: dict[str, Any]) -> list[str]:
    """Return the log lines of a snapshot."""
    return [entry["message"] for entry in snapshot["details"]["step_results"] if entry["type"] == "log"]


def _message(lines: list[str]) -> Message:
    pairs = [line.partition(":") for line in lines]
    fields = {name: value.removeprefix(" ") for name, _, value in pairs}
    assert len(fields) == len(lines), f"a field came twice: {lines}"
    return Message(fields, sum(len(line.encode()) + 1 for line in lines) + 1, time.monotonic())
