"""Server-Sent Events: how what watchers are told looks on the wire."""

import orjson

from main.events import Event, Snapshot

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
COMMENT = b":\n\n"
# The id of the last message of a stream. A client that comes back with it has seen all, and is told to stay away.
END = "end"


def message(data: bytes, *, id: str = "", event: str = "") -> bytes:
    """Return a message. `data` is one line."""
    head = b"id: %b\n" % id.encode() if id else b""
    if event:
        head += b"event: %b\n" % event.encode()
    return b"%bdata: %b\n\n" % (head, data)


def retry(seconds: float) -> bytes:
    """Ask the client to come back after so many seconds where the connection ends."""
    return b"retry: %d\n\n" % int(seconds * 1000)


def id_alone(id: str) -> bytes:
    """Let the client know where it is, without a message."""
    return b"id: %b\n\n" % id.encode()


def snapshot_message(snapshot: Snapshot) -> bytes:
    """Return a whole snapshot as an unnamed message; the last one has the id `end`."""
    return message(_shown(snapshot), id=END if snapshot.is_final else "")


def snapshot_event(snapshot: Snapshot, id: str) -> bytes:
    """Return a whole snapshot as an event that replaces all that was told before."""
    return message(_shown(snapshot), id=id, event="snapshot")


def event_message(event: Event) -> bytes:
    """Return an event under its name and number; the last one, the result, has the id `end`."""
    data = {name: value for name, value in event.items() if name not in ("id", "type")}
    return message(
        orjson.dumps(data), id=END if event["type"] == "result" else event["id"], event=event["type"]
    )


def _shown(snapshot: Snapshot) -> bytes:
    return orjson.dumps(snapshot.public())
