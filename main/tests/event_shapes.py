"""Whether events are what their JSON Schemas say."""

from collections.abc import Iterable
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from main.event_schemas import event_adapters, owner_event_adapters
from main.events import Event, Snapshot


def data_of(event: Event) -> Any:
    """Return the `data` that a client gets: all but what is in `id:` and `event:`; of a snapshot what is shown."""
    if event["type"] == "snapshot":
        return Snapshot.load(event["snapshot"]).public()
    return {name: value for name, value in event.items() if name not in ("id", "type")}


def misfits(events: Iterable[Event]) -> list[str]:
    """Return what is wrong with events, one line for each that does not fit its schema."""
    return [problem for event in events if (problem := misfit(event["type"], data_of(event)))]


def misfit(name: str, data: Any) -> str:
    """Return why the `data` of an execution's event does not fit, or ""."""
    return _misfit(event_adapters()[name], name, data)


def owner_misfit(name: str, data: Any) -> str:
    """Return why the `data` of an owner's event does not fit, or ""."""
    return _misfit(owner_event_adapters()[name], name, data)


def _misfit(adapter: TypeAdapter[Any], name: str, data: Any) -> str:
    try:
        adapter.validate_json(orjson.dumps(data))
    except ValidationError as error:
        return f"{name}: {error}"
    return ""
