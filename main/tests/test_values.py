"""What a step returned, as a later attempt gets it."""

import dataclasses
import datetime
import decimal
import enum
import os
import pathlib
import subprocess
import sys
import threading
import types
import uuid
import zoneinfo
from collections import Counter
from typing import Any, Generic, NamedTuple, TypeVar

import orjson
import pytest
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    message_chunk_to_message,
)
from langchain_core.prompt_values import ChatPromptValue
from pydantic import BaseModel, Field, PrivateAttr, RootModel, SecretStr, computed_field

from main import values
from main.values import MAX_RESULT_BYTES, ResultError

Item = TypeVar("Item")


class Colour(enum.StrEnum):
    RED = "red"


class Kind(enum.Enum):
    NEW = object()


class Point(BaseModel):
    x: int
    y: float = 0.0


class Shape(BaseModel, frozen=True):
    corners: tuple[Point, ...]
    tags: set[str] = set()
    colour: Colour = Colour.RED
    price: decimal.Decimal = decimal.Decimal("1.10")
    file: pathlib.Path = pathlib.Path("/tmp/x")  # noqa: S108
    made: datetime.datetime | None = None


class Round(Point):
    radius: int = 1


class Drawing(BaseModel, extra="allow"):
    points: list[Point]
    by_name: dict[str, Point] = {}
    author: str = Field("", alias="from")


class Described(BaseModel, extra="forbid"):
    side: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> int:
        return self.side**2


class Row(BaseModel):
    """Has the names that a message has, and is none."""

    content: str
    text: str


class Names(RootModel[list[Point]]):
    pass


class Talk(BaseModel):
    messages: list[BaseMessage]


class Box(BaseModel, Generic[Item]):
    inside: Item


IntBox = Box[int]


@dataclasses.dataclass
class Leg:
    start: Point
    length: datetime.timedelta
    stops: list["Leg"] = dataclasses.field(default_factory=list)
    steps: int = dataclasses.field(init=False, default=3)

    class Nested(BaseModel):
        x: int


@dataclasses.dataclass(frozen=True)
class Priced:
    amount: dataclasses.InitVar[int]
    double: int = dataclasses.field(init=False, default=0)


class Pair(NamedTuple):
    a: int
    b: int


def drawing(**fields: Any) -> Drawing:
    return Drawing.model_validate({"points": [], **fields})


def kept(value: Any) -> Any:
    """Give the value to PostgreSQL and take it back."""
    return values.load(orjson.loads(orjson.dumps(values.checked(value, "Step"))))


UTC = datetime.UTC
MADRID = zoneinfo.ZoneInfo("Europe/Madrid")

SURVIVE: dict[str, Any] = {
    "none": None,
    "true": True,
    "numbers": [0, -1, 1.5, 1e300, 2**53 + 1, -(2**63), 2**64 - 1],
    "large_number": 2**200,
    "infinity": [float("inf"), float("-inf")],
    "text": "Ünïcödé “quotes” \t\n 👩‍👩‍👧 \x01",
    "lists": [[], [[1], ["a", None]]],
    "dict": {"a": {"b": {}}, "": 1, "ä": 2},
    "tuple": (1, ("a",), ()),
    "set": {1, "a", (2, 3)},
    "frozenset": frozenset({frozenset({1}), frozenset()}),
    "datetime": datetime.datetime(2026, 1, 2, 3, 4, 5, 678901),
    "datetime_utc": datetime.datetime(2026, 1, 2, tzinfo=UTC),
    "datetime_zone": datetime.datetime(2026, 7, 2, tzinfo=MADRID),
    "date": datetime.date(2026, 1, 2),
    "time": datetime.time(3, 4, 5, 6),
    "timedelta": [datetime.timedelta(days=-3, microseconds=7), datetime.timedelta(0)],
    "decimal": decimal.Decimal("12345678901234567890.10"),
    "uuid": uuid.UUID(int=7),
    "bytes": bytes(range(256)),
    "odd_keys": {1: "a", None: "b", (1, 2): "c", uuid.UUID(int=1): "e"},
    "mixed_keys": {"a": 1, 2: 3},
    "our_mark": {"__kept__": "tuple", "value": [1]},
    "our_mark_inside": [{"x": {"__kept__": "nonsense"}}],
    "our_mark_and_odd_keys": {"__kept__": 1, 2: {"__kept__": 3}},
    "model": Point(x=1),
    "model_of_models": Shape(
        corners=(Point(x=1), Point(x=2)), tags={"a", "b"}, made=datetime.datetime(2026, 1, 1, tzinfo=UTC)
    ),
    "model_with_a_heir": drawing(points=[Round(x=1, radius=5)], by_name={"a": Round(x=2)}),
    "model_with_an_alias": drawing(**{"from": "Alice"}),
    "model_with_extras": drawing(colour={"deep": (1, 2)}, other=Point(x=3)),
    "model_with_a_computed_field": Described(side=3),
    "model_in_a_class": Leg.Nested(x=1),
    "root_model": Names([Point(x=1)]),
    "generic_model": IntBox(inside=3),
    "dataclass": Leg(Point(x=1), datetime.timedelta(hours=1), [Leg(Point(x=2), datetime.timedelta(1))]),
    "models_in_json": {"a": [Point(x=1), (Round(x=2),)], "b": {Colour.RED: Point(x=3)}},
    "human": HumanMessage("Hello", id="1", name="Alice"),
    "system": SystemMessage([{"type": "text", "text": "Be kind."}]),
    "answer": AIMessage(
        "Yes",
        tool_calls=[{"name": "look", "args": {"n": 1}, "id": "7"}],
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
        response_metadata={"model": "demo"},
    ),
    "tool": ToolMessage("3", tool_call_id="7", artifact={"rows": [(1, 2)]}),
    "chunk": AIMessageChunk(
        content="Y", usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    ),
    "document": Document("Text", metadata={"source": "https://example.org/", "page": 3}),
    "documents": {"docs": [Document("a"), Document("b", id="2")]},
    "prompt": ChatPromptValue(messages=[SystemMessage("a"), HumanMessage("b")]),
    "model_of_messages": Talk(
        messages=[HumanMessage("a"), AIMessage("b", tool_calls=[{"name": "n", "args": {}, "id": "1"}])]
    ),
}


@pytest.mark.parametrize("value", SURVIVE.values(), ids=SURVIVE)
def test_a_value_is_read_back_as_it_was(value: Any) -> None:
    back = kept(value)
    assert back == value
    assert type(back) is type(value)


def test_nested_values_keep_their_classes() -> None:
    drawing = kept(SURVIVE["model_with_a_heir"])
    assert isinstance(drawing.points[0], Round)
    assert drawing.points[0].radius == 5
    talk = kept(SURVIVE["model_of_messages"])
    assert [type(message) for message in talk.messages] == [HumanMessage, AIMessage]
    assert talk.messages[1].tool_calls[0]["name"] == "n"


def test_not_a_number_stays_none() -> None:
    back = kept([float("nan")])
    assert back[0] != back[0]


def test_a_streamed_message_survives_as_a_whole_one() -> None:
    chunks = [
        AIMessageChunk(
            content="", tool_call_chunks=[{"name": "look", "args": '{"n"', "id": "7", "index": 0}]
        ),
        AIMessageChunk(content="", tool_call_chunks=[{"name": None, "args": ": 1}", "id": None, "index": 0}]),
    ]
    whole = message_chunk_to_message(chunks[0] + chunks[1])
    assert kept(whole) == whole
    assert kept(whole).tool_calls[0]["args"] == {"n": 1}


def test_texts_that_know_more_become_texts() -> None:
    message = AIMessage("Hello")
    assert type(kept(message.text)) is str
    assert kept([Colour.RED, Counter("aab")]) == ["red", {"a": 2, "b": 1}]


def test_what_postgresql_cannot_hold_is_left_out() -> None:
    assert kept({"a\x00": ["b\x00c", "\ud800d"]}) == {"a": ["bc", "?d"]}
    assert kept(Document("x\x00y", metadata={"z\x00": "\udfff"})) == Document("xy", metadata={"z": "?"})
    assert kept(HumanMessage("\x00")).content == ""


def test_what_is_read_back_is_the_readers_own() -> None:
    written = values.checked({"a": [1]}, "Step")
    values.load(written)["a"].append(2)
    assert values.load(written) == {"a": [1]}


def local_model() -> Any:
    class Local(BaseModel):
        x: int

    return Local(x=1)


def local_generic() -> Any:
    return Box[str](inside="x")


def hidden_model() -> Any:
    return type("Point", (BaseModel,), {"__module__": __name__, "__annotations__": {"x": int}})(x=1)


REFUSED: dict[str, tuple[Any, str]] = {
    "lock": (threading.Lock(), "lock is not JSON, a Pydantic model, a dataclass"),
    "lock_inside": ({"a": [(threading.Lock(),)]}, "lock is not JSON"),
    "iterator": (iter(()), "tuple_iterator is not JSON"),
    "class": (Point, "ModelMetaclass is not JSON"),
    "namedtuple": (Pair(1, 2), "Pair is not JSON"),
    "enum": (Kind.NEW, "Kind is not JSON"),
    "path": (pathlib.Path("/"), "PosixPath is not JSON"),
    "namespace": (types.SimpleNamespace(), "SimpleNamespace is not JSON"),
    "local_model": (
        local_model(),
        "Local cannot be found again as main.tests.test_values.local_model.<locals>.Local",
    ),
    "another_model_of_the_name": (hidden_model(), "Point cannot be found again"),
    "generic_without_a_name": (local_generic(), "Box[str] cannot be found again"),
    "dataclass_that_cannot_be_made_again": (Priced(3), "missing 1 required positional argument: 'amount'"),
    "model_with_a_lock": (drawing(lock=threading.Lock()), "lock is not JSON"),
    "model_with_our_mark": (drawing(**{"__kept__": 1}), "a field “__kept__”, which is taken"),
    "artifact": (ToolMessage("3", tool_call_id="7", artifact=threading.Lock()), "lock is not JSON"),
}


@pytest.mark.parametrize(("value", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_kept_is_refused_with_a_sentence(value: Any, sentence: str) -> None:
    with pytest.raises(ResultError) as caught:
        values.checked(value, "Look up")
    failure = caught.value.failure
    assert failure.message.startswith("The step “Look up” returned something that cannot be kept: ")
    assert sentence in failure.message
    assert (failure.type, failure.retryable) == ("result", False)


def test_a_value_in_itself_is_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ResultError, match="recursion"):
        values.checked(circle, "Circle")
    with pytest.raises(ResultError, match="recursion"):
        values.plain(circle)


def test_a_value_may_be_nested_deep_but_not_without_end() -> None:
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    assert kept(deep) == deep
    for _ in range(100):
        deep = [deep]
    with pytest.raises(ResultError, match="cannot be kept"):
        values.checked(deep, "Deep")


def test_a_mebibyte_is_kept_and_more_is_refused() -> None:
    assert kept("x" * (MAX_RESULT_BYTES - 2))
    with pytest.raises(ResultError) as caught:
        values.checked("x" * (MAX_RESULT_BYTES - 1), "Read")
    assert str(caught.value) == (
        f"The step “Read” returned {MAX_RESULT_BYTES + 1} bytes; at most {MAX_RESULT_BYTES} are kept. "
        "Write it to a file or a database and return where it is."
    )
    with pytest.raises(ResultError):
        values.checked("é" * (MAX_RESULT_BYTES // 2), "Read")


# What people read

SHOWN: dict[str, tuple[Any, Any]] = {
    "json": ({"a": [1, None, True, "x"]}, {"a": [1, None, True, "x"]}),
    "message": (AIMessage("Hello"), "Hello"),
    "message_of_blocks": (
        AIMessage([{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]),
        "Hello",
    ),
    "messages": ({"messages": [HumanMessage("a"), AIMessage("b")]}, {"messages": ["a", "b"]}),
    "document": (
        Document("Text", metadata={"page": 3}),
        {"id": None, "metadata": {"page": 3}, "page_content": "Text", "type": "Document"},
    ),
    "model": (Row(content="a", text="b"), {"content": "a", "text": "b"}),
    "model_in_json": ([Point(x=1)], [{"x": 1, "y": 0.0}]),
    "dataclass": (
        Leg(Point(x=1), datetime.timedelta(minutes=1)),
        {"start": {"x": 1, "y": 0.0}, "length": "PT1M", "stops": [], "steps": 3},
    ),
    "odd_keys": (
        {1: "a", None: "b", datetime.date(2026, 1, 2): "c"},
        {"1": "a", "None": "b", "2026-01-02": "c"},
    ),
    "tuple": ((1, {2}), [1, [2]]),
    "uuid": (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "decimal": (decimal.Decimal("1.10"), "1.10"),
    "large_number": (2**70, str(2**70)),
    "nan": (float("nan"), "nan"),
    "nul": ("a\x00b\ud800", "ab?"),
    "our_mark": ({"__kept__": "tuple", "value": [1]}, {"__kept__": "tuple", "value": [1]}),
}


@pytest.mark.parametrize(("value", "shown"), SHOWN.values(), ids=SHOWN)
def test_a_value_is_shown_as_plain_json(value: Any, shown: Any) -> None:
    assert values.plain(value) == shown
    orjson.dumps(values.plain(value))


def test_a_value_is_shown_while_another_thread_imports_langchain(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = types.ModuleType("langchain_core.messages.base")
    monkeypatch.setitem(sys.modules, begun.__name__, begun)
    assert values.plain({"a": "b"}) == {"a": "b"}


@pytest.mark.parametrize(
    "value",
    [threading.Lock(), [Document("a", metadata={"b": threading.Lock()})], {"key": SecretStr("hunter2")}],
)
def test_what_has_no_json_form_is_refused_with_a_sentence(value: Any) -> None:
    with pytest.raises(ResultError):
        values.plain(value)


# The hash of a step's input


class Tags(BaseModel):
    names: set[str]
    _cache: dict[str, str] = PrivateAttr(default_factory=dict)


FINGERPRINTED: dict[str, Any] = {
    "sets": {"tags": {f"tag-{n}" for n in range(20)}, "more": frozenset({("a", "b"), ("c",), ("d",)})},
    "model": Tags(names={f"name-{n}" for n in range(20)}),
    "messages": [HumanMessage("a"), Document("b", metadata={"set": {"x", "y", "z"}})],
    "keys": {"b": 1, "a": {"d": 2, "c": 3}},
}


def test_the_same_input_has_the_same_fingerprint_in_another_process() -> None:
    code = "from main.tests import test_values as t; from main.values import fingerprint as f\n"
    code += "print(*(f(value) for value in t.FINGERPRINTED.values()))"
    here = [values.fingerprint(value) for value in FINGERPRINTED.values()]
    for seed in "17":
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        there = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert there.stdout.split() == here
    assert "" not in here


def test_another_input_has_another_fingerprint() -> None:
    inputs = [
        1,
        "1",
        1.5,
        None,
        [],
        {},
        (),
        [1],
        (1,),
        {1},
        {"a": 1},
        {"a": 2},
        Point(x=1),
        Round(x=1),
        b"",
        "",
    ]
    assert len({values.fingerprint(value) for value in inputs}) == len(inputs)


def test_the_order_of_keys_does_not_matter_to_a_fingerprint() -> None:
    assert values.fingerprint({"a": 1, "b": 2}) == values.fingerprint({"b": 2, "a": 1})


def test_what_cannot_be_kept_has_no_fingerprint() -> None:
    assert values.fingerprint(threading.Lock()) == ""
