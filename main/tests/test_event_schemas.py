"""What clients are told of events: the schemas fit what is sent, and the document fits the schemas."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

import orjson
import pytest
from django.test import Client

from config.tests.waiting import wait_until
from main import docs
from main.channel import Publisher, read_events, redis_client, stream_key
from main.chat_models import chat_model
from main.event_schemas import event_schemas, owner_event_schemas
from main.events import (
    EVENT_DATA,
    Entry,
    Event,
    LogEntry,
    Snapshot,
    ToolResultEntry,
    fold,
)
from main.run import Run
from main.tests.event_shapes import data_of, misfit, misfits, owner_misfit
from main.tests.memory import Channel, Journal, busy
from main.tests.platform import Visitor
from main.tests.test_events import Story

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TYPES = get_args(get_type_hints(Event)["type"])
ERROR = {"type": "quota", "message": "The quota is used up.", "retryable": True}
ABOUT = {"execution_id": "8db6298e-f0eb-402e-9d0d-0ee5f71150b0", "flow": "poem_flow"}


def fields_of(*types: Any) -> set[str]:
    return {field for each in types for field in get_type_hints(each)}


# What the code uses and what clients are told


def test_there_is_a_schema_for_every_type_of_event() -> None:
    assert list(EVENT_DATA) == list(event_schemas()) == list(TYPES)


def test_an_event_of_the_code_has_the_fields_of_the_schemas_and_no_other() -> None:
    told = {
        field for name, schema in event_schemas().items() if name != "snapshot" for field in fields_in(schema)
    }
    assert {field for field in told if "." not in field} | {"id", "type", "snapshot"} == fields_of(Event)


def test_an_entry_of_the_code_has_the_fields_of_the_schemas_and_no_other() -> None:
    assert fields_of(Entry) == fields_of(LogEntry, ToolResultEntry)


# What is really sent


@pytest.fixture(autouse=True)
def demo(settings: Any) -> None:
    settings.CHAT_MODEL = settings.GEMINI_API_KEY = settings.TAVILY_API_KEY = ""
    settings.DEMO_TOKEN_DELAY = 0.0


def eventful(run: Run, llm: Any) -> str:
    """Say everything that can be said."""
    tries = iter([busy("Not yet."), None])

    def stumble() -> str:
        run.token("Half a ")
        if error := next(tries):
            raise error
        return "word"

    run.status("Looking around " * 100)
    run.progress(12.7)
    run.log("x" * 10_000)
    run.tool_result("atlas " * 50, {"any": [1, None, {"nan": float("nan")}]})
    run.tool_result("library", "x" * 100_000, step_name="Read " * 50)
    run.step("Stumble / #2 " * 20, stumble)
    run.step("Outside", lambda: run.step("Inside", lambda: run.log("Deep")))
    run.effect("Send", lambda key: key)
    with pytest.raises(ZeroDivisionError):
        run.step("Break", lambda: 1 / 0)
    run.progress(1000)
    return str(run.step("Write", llm, "Write a poem."))


@pytest.fixture
def told(channel: Channel, journal: Journal, quick_retries: None) -> list[Event]:
    run = Run("1", journal=journal, channel=channel, expected_steps=7)
    eventful(run, chat_model("demo:"))
    return channel.events


def test_whatever_a_run_says_fits_its_schema(told: list[Event]) -> None:
    assert {event["type"] for event in told} == set(TYPES) - {"result", "snapshot"}
    assert any(event.get("restarted") for event in told)
    assert misfits(told) == []


@pytest.mark.parametrize("seed", range(20))
def test_whatever_a_snapshot_adds_up_to_fits(seed: int) -> None:
    snapshot = Snapshot(url="/x/")
    for event in Story(seed).events:
        snapshot = fold(snapshot, event)
        assert misfit("snapshot", snapshot.public()) == ""
        assert misfit("snapshot", Snapshot.load(snapshot.dump()).public()) == ""


RESULTS: list[Event] = [
    {"type": "result", "state": "SUCCESS", "status": "Done", "final_result": None},
    {"type": "result", "state": "FAILURE", "status": "Away.", "error": ERROR},  # type: ignore[typeddict-item]
]


@pytest.mark.parametrize("result", RESULTS, ids=lambda event: str(event["state"]))
def test_what_a_publisher_sends_fits_also_where_some_was_lost(told: list[Event], result: Event) -> None:
    execution_id = f"schemas-{result['state']}"
    publisher = Publisher(execution_id, 1, Snapshot(url="/x/"), lambda: None)
    half = len(told) // 2
    for event in told[:half]:
        publisher.send(event)
    publisher.flush()
    publisher.resume()  # as after a failure of Redis
    publisher.send({"type": "progress", "progress": 100})
    publisher.flush()
    for event in told[half:]:
        publisher.send(event)
    publisher.close(result)
    sent = sent_by(execution_id)
    assert {event["type"] for event in sent} >= {"step", "snapshot", "result"}
    assert misfits(sent) == []


def sent_by(execution_id: str) -> list[Event]:
    """Return all events that Redis has of an execution."""
    rows = redis_client().xrange(stream_key(execution_id), "-", "+")
    return [orjson.loads(event) for event in read_events(rows)]


def has_ended(execution_id: str) -> bool:
    return any(event["type"] in ("result", "snapshot") for event in sent_by(execution_id)[-1:])


def test_what_workers_send_fits(visitor: Visitor, tmp_path: Path) -> None:
    (tmp_path / "open").touch()
    runs: list[tuple[str, dict[str, Any]]] = [
        ("gate_flow", {"folder": str(tmp_path)}),
        ("graph_flow", {"folder": str(tmp_path)}),
        ("garbled_failure_flow", {}),
        ("torrent_flow", {}),
        ("cpu_count_flow", {}),
    ]
    for flow, inputs in runs:
        task_id = visitor.start(flow, **inputs)
        snapshots = list(visitor.watch(task_id))
        wait_until(partial(has_ended, task_id))  # PostgreSQL knows of it a moment before
        events = sent_by(task_id)
        assert misfits(events) == [], flow
        assert [problem for each in snapshots if (problem := misfit("snapshot", each))] == [], flow


def test_an_end_from_outside_fits(visitor: Visitor, tmp_path: Path) -> None:
    task_id = visitor.start("gate_flow", folder=str(tmp_path))
    watching = visitor.watch(task_id)
    next(watching)
    visitor.post(f"/api/v1/executions/{task_id}/cancel").raise_for_status()
    assert misfit("snapshot", list(watching)[-1]) == ""
    wait_until(partial(has_ended, task_id))
    sent = sent_by(task_id)
    assert data_of(sent[-1])["error"]["type"] == "cancelled"
    assert misfits(sent) == []


# What is refused

BROKEN = [
    ("state", {"state": "SUCCESS", "status": "Done"}),
    ("state", {"status": "Running"}),
    ("state", {"state": "PROGRESS", "status": "x" * 501}),
    ("state", {"state": "PROGRESS", "id": "1-1"}),
    ("progress", {"progress": 101}),
    ("progress", {"progress": -1}),
    ("progress", {"progress": "50"}),
    ("progress", {"progress": 50.5}),
    ("step", {"step": "A", "name": "A", "state": "skipped"}),
    ("step", {"step": "A", "name": "A", "state": "running", "restarted": 1}),
    ("log", {"step": "", "n": -1, "message": "said"}),
    ("log", {"step": "", "n": 0, "message": "said", "type": "log"}),
    ("tool_result", {"step": "", "n": 0, "tool": "atlas", "data": 1}),
    ("token", {"step": "", "text": None}),
    ("result", {"state": "SUCCESS", "status": "Done", "final_result": 1, "error": ERROR}),
    ("result", {"state": "FAILURE", "status": "Away.", "error": {"type": "quota"}}),
    ("snapshot", {"state": "PROGRESS", "details": {}}),
]
OWNER_BROKEN = [
    ("EXECUTION_STARTED", {**ABOUT, "state": "FAILURE", "status": "Away.", "progress": 3}),
    ("EXECUTION_UPDATED", {**ABOUT, "state": "PROGRESS", "status": "Running", "progress": 101}),
    ("EXECUTION_COMPLETED", {**ABOUT, "state": "SUCCESS", "status": "Done", "progress": 100, "error": ERROR}),
    ("EXECUTION_FAILED", {**ABOUT, "state": "FAILURE", "status": "Away.", "progress": 3}),
    ("NODE_EXECUTED", {**ABOUT, "step": "A", "name": "A", "state": "running"}),
]


@pytest.mark.parametrize(("name", "data"), BROKEN)
def test_what_no_event_may_be_does_not_fit(name: str, data: Any) -> None:
    assert misfit(name, data)


@pytest.mark.parametrize(("name", "data"), OWNER_BROKEN)
def test_what_no_event_of_an_owner_may_be_does_not_fit(name: str, data: Any) -> None:
    assert owner_misfit(name, data)


# The schemas

EXECUTION = [("execution", name, schema) for name, schema in event_schemas().items()]
OWNER = [("owner", name, schema) for name, schema in owner_event_schemas().items()]
SCHEMAS = pytest.mark.parametrize(
    ("stream", "name", "schema"), EXECUTION + OWNER, ids=[name for _, name, _ in EXECUTION + OWNER]
)


def test_the_schemas_are_at_an_address(client: Client) -> None:
    response = client.get("/api/v1/events/schema")
    assert response.status_code == 200
    assert response["Content-Type"] == "application/json"
    assert response.json() == {"execution": event_schemas(), "owner": owner_event_schemas()}
    assert client.head("/api/v1/events/schema/").status_code == 200
    assert client.post("/api/v1/events/schema").status_code == 405


@SCHEMAS
def test_a_schema_stands_alone_and_says_what_it_is(stream: str, name: str, schema: dict[str, Any]) -> None:
    assert schema["$schema"] == DIALECT
    assert schema["title"] == name
    assert schema["description"]
    text = orjson.dumps(schema).decode()
    assert {ref.rpartition("/")[2] for ref in re.findall(r'"\$ref":"([^"]*)"', text)} == set(
        schema.get("$defs", {})
    )


@SCHEMAS
def test_a_schema_explains_every_field_and_allows_no_other(
    stream: str, name: str, schema: dict[str, Any]
) -> None:
    objects = [each for each in [schema, *schema.get("$defs", {}).values()] if "anyOf" not in each]
    for each in objects:
        assert each["additionalProperties"] is False
        for field, of_field in each["properties"].items():
            assert resolved(schema, of_field).get("description"), field


def resolved(schema: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    reference = part.get("$ref")
    return {**schema["$defs"][reference.rpartition("/")[2]], **part} if reference else part


class Field(NamedTuple):
    """What a schema says of a field, and whether it is always in the object that it belongs to."""

    schema: dict[str, Any]
    always: bool


def fields_in(schema: dict[str, Any]) -> dict[str, list[Field]]:
    """Return the fields that a schema knows by the way to them, such as `details.steps[].name`.

    Where an object is one of several, a field may be in more than one of them.
    """
    found: dict[str, list[Field]] = {}
    for way, field in _walk(schema, schema, ""):
        found.setdefault(way, []).append(field)
    return found


def _walk(schema: dict[str, Any], part: dict[str, Any], way: str) -> Iterator[tuple[str, Field]]:
    variants = [resolved(schema, each) for each in part.get("anyOf", [part])]
    for variant in variants:
        for name, field in variant.get("properties", {}).items():
            field = resolved(schema, field)
            yield way + name, Field(field, all(name in each.get("required", []) for each in variants))
            inner, mark = (field["items"], "[].") if "items" in field else (field, ".")
            yield from _walk(schema, resolved(schema, inner), way + name + mark)


# The document


def document() -> str:
    page = docs.page("events")
    assert page
    return page.markdown


def section(name: str) -> str:
    """Return what the document says of an event."""
    found = re.search(rf"^### `{name}`\n(.*?)(?=^##|\Z)", document(), re.MULTILINE | re.DOTALL)
    assert found, f"docs/events.md does not explain {name}"
    return found[1]


def rows(name: str) -> dict[str, tuple[str, str]]:
    """Return by field what the table of an event says: type and presence."""
    cells = re.findall(r"^\| `([^`]+)` \| ([^|]+) \| ([^|]+) \| [^|]+ \|$", section(name), re.MULTILINE)
    assert len({field for field, *_ in cells}) == len(cells)
    return {field: (kind, presence) for field, kind, presence in cells}


def test_the_document_explains_every_event_and_no_other() -> None:
    explained = re.findall(r"^### `([A-Za-z_]+)`$", document(), re.MULTILINE)
    assert explained == [*event_schemas(), *owner_event_schemas()]


@SCHEMAS
def test_the_document_has_every_field_of_a_schema_and_no_other(
    stream: str, name: str, schema: dict[str, Any]
) -> None:
    assert sorted(rows(name)) == sorted(fields_in(schema))


@SCHEMAS
def test_the_document_says_which_fields_are_always_there(
    stream: str, name: str, schema: dict[str, Any]
) -> None:
    always = {field for field, (_, presence) in rows(name).items() if presence == "always"}
    assert always == {way for way, [field, *_] in fields_in(schema).items() if field.always}


@SCHEMAS
def test_the_document_says_the_types_and_values_of_a_schema(
    stream: str, name: str, schema: dict[str, Any]
) -> None:
    fields = fields_in(schema)
    for field, (kind, _) in rows(name).items():
        schemas = [found.schema for found in fields[field]]
        values = {value for each in schemas for value in each.get("enum", [each.get("const")]) if value}
        if values:
            assert set(re.findall(r"`(\w+)`", kind)) == values, field
        else:
            assert kind.split()[0].rstrip(",") == schemas[0].get("type", "any"), field
            bounds = [
                schemas[0][bound] for bound in ("minimum", "maximum", "maxLength") if bound in schemas[0]
            ]
            assert re.findall(r"\d+", kind) == [str(bound) for bound in bounds], field


@SCHEMAS
def test_the_document_shows_events_that_fit(stream: str, name: str, schema: dict[str, Any]) -> None:
    shown = re.findall(r"^event: (\w+)\ndata: (.*)$", section(name), re.MULTILINE)
    fits: Callable[[str, Any], str] = misfit if stream == "execution" else owner_misfit
    assert shown
    assert [type_ for type_, _ in shown if type_ != name] == []
    assert [problem for type_, data in shown if (problem := fits(type_, orjson.loads(data)))] == []
