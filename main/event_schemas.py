"""The JSON Schemas of what clients are sent, made of the types in events.py when they are asked for."""

from functools import cache
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from main.events import EVENT_DATA, OWNER_EVENT_DATA

Schema = dict[str, Any]


class _Untitled(GenerateJsonSchema):
    """Leaves out the titles of fields, which only repeat their names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def event_schemas() -> dict[str, Schema]:
    """Return by type the JSON Schema of the `data` of each event that `/api/v1/executions/<id>/events` sends."""
    return {name: _schema(name, adapter) for name, adapter in event_adapters().items()}


def owner_event_schemas() -> dict[str, Schema]:
    """Return by type the JSON Schema of the `data` of each event that `/api/v1/stream` sends."""
    return {name: _schema(name, adapter) for name, adapter in owner_event_adapters().items()}


@cache
def event_adapters() -> dict[str, TypeAdapter[Any]]:
    """Return by type what validates an event's `data` as its schema does."""
    return {name: TypeAdapter(data) for name, data in EVENT_DATA.items()}


@cache
def owner_event_adapters() -> dict[str, TypeAdapter[Any]]:
    return {name: TypeAdapter(data) for name, data in OWNER_EVENT_DATA.items()}


def _schema(name: str, adapter: TypeAdapter[Any]) -> Schema:
    schema = adapter.json_schema(schema_generator=_Untitled)
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema, "title": name}
