"""The register of flows: what a signature becomes, and what is said about one that cannot be a flow."""

import datetime
import os
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import pytest
from django.db import connection
from pydantic import BaseModel, Field

from config import processes
from config.tests.waiting import wait_until
from main.chat_models import ChatModel
from main.models import Execution
from main.registry import (
    FLOW_REGISTRY,
    Flow,
    FlowDefinitionError,
    InputError,
    UnknownFlowError,
    flow,
    get_flow,
    load_flows,
)
from main.run import Run
from main.tests.memory import Channel, Journal
from main.tests.platform import Process


class Address(BaseModel):
    street: Annotated[str, Field(min_length=1)]
    town: str = Field("Leeds", alias="in")


class Order(BaseModel, extra="forbid"):
    to: Address
    due: datetime.date
    number: uuid.UUID | None = None


@pytest.fixture(autouse=True)
def register() -> Iterator[None]:
    """Leave the register as it was."""
    load_flows(["main.flows"])
    before = dict(FLOW_REGISTRY)
    yield
    FLOW_REGISTRY.clear()
    FLOW_REGISTRY.update(before)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Write modules into a new folder on the path, which are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(**sources: str) -> Path:
        for name, source in sources.items():
            path = tmp_path.joinpath(*name.split("__")).with_suffix(".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(HEAD + textwrap.dedent(source))
        return tmp_path

    yield write
    for name in set(sys.modules) - known:
        del sys.modules[name]


HEAD = """\
from typing import TYPE_CHECKING, Any, Callable
from pydantic import Field
from main.registry import flow
from main.run import Run
if TYPE_CHECKING:
    from decimal import Decimal
"""
FIRST_LINE = len(HEAD.splitlines()) + 1


def registered(function: Callable[..., Any], **options: Any) -> Flow:
    flow(**options)(function)
    return get_flow(function.__name__)


def refused(known: Flow, inputs: dict[str, Any]) -> dict[str, list[str]]:
    with pytest.raises(InputError) as caught:
        known.validate(inputs)
    return caught.value.errors


# What cannot be a flow


@pytest.mark.parametrize(
    ("signature", "sentence"),
    [
        ("def odd_flow(run: Run, amount)", "the parameter “amount” of “odd_flow” has no type."),
        ("def odd_flow(run)", "the parameter “run” of “odd_flow” has no type."),
        ("def odd_flow(run: Run, *amounts: int)", "“odd_flow” takes “*amounts”; inputs must have names."),
        ("def odd_flow(run: Run, **amounts: int)", "“odd_flow” takes “**amounts”; inputs must have names."),
        ("def odd_flow(run: Run, amount: int, /)", "“odd_flow” takes “run”; inputs must have names."),
        ("async def odd_flow(run: Run)", "“odd_flow” is async."),
        (
            "def odd_flow(run: Run, amount: 'Decimal')",
            "the type “Decimal” of “odd_flow” does not resolve. Import its types at the top of the module",
        ),
        ("def odd_flow(run: Run, amount: 'Nothing')", "the type “Nothing” of “odd_flow” does not resolve."),
        (
            "def odd_flow(run: Run, amount: 'Field.no')",
            "the signature ('function' object has no attribute 'no')",
        ),
        ("def odd_flow(run: Run, amount: 'list[')", "the signature (Forward reference must be an expression"),
        (
            "def odd_flow(run: Run, call: Callable[[], int])",
            "an input of “odd_flow” has a type that cannot come from JSON: ",
        ),
        (
            "def odd_flow(run: Run, thing: Exception)",
            "an input of “odd_flow” has a type that cannot come from JSON: ",
        ),
        *(
            (
                f"def odd_flow(run: Run, amount: {kind} = {default})",
                f"the default of “amount” in “odd_flow” cannot be written as JSON of its type ({given}).",
            )
            for kind, default, given in (
                ("Any", "object()", "object"),
                ("int", "'one'", "str"),
                ("int", "'1'", "str"),
                ("bool", "1", "int"),
                ("int", "None", "NoneType"),
                ("float", "float('nan')", "float"),
                ("int", "Field(7, le=3)", "int"),
                ("Any", "Field(default_factory=object)", "object"),
            )
        ),
    ],
)
def test_a_signature_that_is_no_flows_is_refused_with_file_and_line(
    package: Callable[..., Path], signature: str, sentence: str
) -> None:
    folder = package(odd=f"\n@flow()\n{signature}: ...\n")
    with pytest.raises(FlowDefinitionError) as caught:
        load_flows(["odd"])
    place, _, said = str(caught.value).partition(": ")
    assert place == f"{folder / 'odd.py'}:{FIRST_LINE + 1}"
    assert said.startswith(sentence)
    assert "odd_flow" not in FLOW_REGISTRY


def test_a_name_that_is_taken_is_refused_with_both_places(package: Callable[..., Path]) -> None:
    folder = package(
        one="@flow()\ndef twin_flow(run: Run): ...\n",
        two="\n\n@flow()\ndef twin_flow(run: Run): ...\n",
    )
    with pytest.raises(FlowDefinitionError) as caught:
        load_flows(["one", "two"])
    assert str(caught.value) == (
        f"{folder / 'two.py'}:{FIRST_LINE + 2}: the flow “twin_flow” is already defined in "
        f"{folder / 'one.py'}:{FIRST_LINE}."
    )


def test_what_a_flow_returns_may_stay_under_type_checking(package: Callable[..., Path]) -> None:
    package(lazy="@flow()\ndef lazy_flow(run: Run, amount: 'int') -> 'Decimal': ...\n")
    load_flows(["lazy"])
    assert get_flow("lazy_flow").schema["properties"]["amount"]["type"] == "integer"


# What a signature becomes


def test_a_flow_is_described_by_its_name_and_docstring() -> None:
    def buy_bread_flow(run: Run) -> None:
        """Buy some bread.

        And some butter.
        """

    known = registered(buy_bread_flow)
    assert (known.name, known.title) == ("buy_bread_flow", "Buy bread")
    assert known.description == "Buy some bread.\n\nAnd some butter."
    assert not known.public
    assert known.kind == "io"


def test_handles_are_no_inputs() -> None:
    def handles_flow(llm: ChatModel, text: str, run: "Run") -> Any:
        return run, llm, text

    known = registered(handles_flow)
    assert list(known.schema["properties"]) == ["text"]
    model, run = object(), Run("1", journal=Journal(), channel=Channel())
    assert known.call(run, lambda: model, {"text": "x"}) == (run, model, "x")


def test_a_model_is_only_made_for_a_flow_that_asks_for_one() -> None:
    def alone_flow(run: Run) -> str:
        return "done"

    def no_model() -> Any:
        raise AssertionError

    assert registered(alone_flow).call(Run("1", journal=Journal(), channel=Channel()), no_model, {}) == "done"


@pytest.mark.parametrize("name", ["schema", "json", "_x", "copy", "self", "model_config", "dict", "input_x"])
def test_an_input_may_have_any_name(package: Callable[..., Path], name: str) -> None:
    package(names=f"@flow()\ndef name_flow(run: Run, {name}: int): return {name}\n")
    load_flows(["names"])
    known = get_flow("name_flow")
    assert list(known.schema["properties"]) == known.schema["required"] == [name]
    assert known.validate({name: 3}) == {name: 3}
    assert known.call(Run("1", journal=Journal(), channel=Channel()), Any, {name: 3}) == 3
    assert list(refused(known, {f"input_{name}": 3})) == [name, f"input_{name}"]


def test_inputs_are_titled_by_their_names_or_as_their_fields_say() -> None:
    def titles_flow(
        run: Run,
        first_name: str,
        zip_code: Annotated[str, Field(title="Postcode", max_length=8)],
        town: str = Field("Leeds", title="Where"),
    ) -> None: ...

    properties = registered(titles_flow).schema["properties"]
    assert {name: each["title"] for name, each in properties.items()} == {
        "first_name": "First name",
        "zip_code": "Postcode",
        "town": "Where",
    }
    assert properties["zip_code"]["maxLength"] == 8
    assert properties["town"]["default"] == "Leeds"


def test_one_field_serves_several_inputs() -> None:
    short = Field("x", max_length=3)

    def shared_flow(run: Run, one: str = short, two: str = short) -> None: ...

    known = registered(shared_flow)
    assert known.validate({"two": "y"}) == {"one": "x", "two": "y"}
    assert list(refused(known, {"one": "long", "two": "long"})) == ["one", "two"]


def parcel_flow(
    run: Run,
    order: Order,
    size: Literal["small", "large"] = "small",
    weight: int | None = None,
    when: datetime.datetime = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC),
    tags: set[str] = {"new"},  # noqa: B006 a flow's defaults go through JSON
    more: list[Order] = [],  # noqa: B006
) -> Any:
    return locals()


def test_nested_models_are_references_in_the_schema() -> None:
    schema = registered(parcel_flow).schema
    assert schema["properties"]["order"]["$ref"] == "#/$defs/Order"
    assert schema["$defs"]["Order"]["properties"]["to"]["$ref"] == "#/$defs/Address"
    assert schema["properties"]["size"]["enum"] == ["small", "large"]
    assert schema["properties"]["weight"]["anyOf"] == [{"type": "integer"}, {"type": "null"}]
    assert schema["properties"]["when"]["format"] == "date-time"
    assert schema["additionalProperties"] is False


def test_inputs_are_completed_with_defaults_and_arrive_in_their_types() -> None:
    known = registered(parcel_flow)
    stored = known.validate({"order": {"to": {"street": "Rue Émile", "in": "Paris"}, "due": "2026-02-03"}})
    assert stored == {
        "order": {"to": {"street": "Rue Émile", "in": "Paris"}, "due": "2026-02-03", "number": None},
        "size": "small",
        "weight": None,
        "when": "2026-01-02T03:04:00Z",
        "tags": ["new"],
        "more": [],
    }
    arguments = known.arguments(stored)
    assert arguments["order"].to == Address(**{"street": "Rue Émile", "in": "Paris"})
    assert arguments["order"].due == datetime.date(2026, 2, 3)
    assert arguments["when"] == datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)
    assert arguments["tags"] == {"new"}
    assert known.validate(stored) == stored


# What does not fit


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("whole", True, "“whole”: input should be a valid integer."),
        ("whole", "1", "“whole”: input should be a valid integer."),
        ("whole", 1.0, "“whole”: input should be a valid integer."),
        ("whole", None, "“whole”: input should be a valid integer."),
        ("real", "1", "“real”: input should be a valid number."),
        ("yes", 1, "“yes”: input should be a valid boolean."),
        ("yes", "true", "“yes”: input should be a valid boolean."),
        ("text", 7, "“text”: input should be a valid string."),
        ("text", ["a"], "“text”: input should be a valid string."),
        (
            "day",
            "2026-02-30",
            "“day”: input should be a valid date in the format YYYY-MM-DD, day value is outside",
        ),
        ("size", "medium", "“size”: input should be 'small' or 'large'."),
        ("maybe", "3", "“maybe”: input should be a valid integer."),
    ],
)
def test_validation_is_strict(name: str, value: object, sentence: str) -> None:
    def strict_flow(
        run: Run,
        whole: int = 0,
        real: float = 0.0,
        yes: bool = False,
        text: str = "",
        day: datetime.date = datetime.date(2026, 1, 1),
        size: Literal["small", "large"] = "small",
        maybe: int | None = None,
    ) -> None: ...

    known = registered(strict_flow)
    assert known.validate({"real": 1, "maybe": None})["real"] == 1.0
    errors = refused(known, {name: value})
    assert list(errors) == [name]
    assert errors[name][0].startswith(sentence)


def test_every_field_gets_its_sentence() -> None:
    known = registered(parcel_flow)
    assert refused(known, {"order": {"to": {"street": ""}, "colour": 1}, "size": 3, "colour": "red"}) == {
        "order": [
            "“order.to.street” needs at least 1 character; it has 0.",
            "“order.due” is missing.",
            "“order.colour” is not expected.",
        ],
        "size": ["“size”: input should be 'small' or 'large'."],
        "colour": [
            "“colour” is not an input of parcel_flow; its inputs are “order”, “size”, “weight”, “when”, “tags”, “more”."
        ],
    }


def test_a_flow_without_inputs_says_so() -> None:
    def bare_flow(run: Run) -> None: ...

    assert refused(registered(bare_flow), {"x": 1}) == {
        "x": ["“x” is not an input of bare_flow; it has no inputs."]
    }


@pytest.mark.parametrize("value", ["a\x00", {"a\x00": 1}, {"a": ["\x00"]}, [{"b": {"c": "\x00"}}]])
def test_a_nul_character_is_refused_wherever_it_is(value: Any) -> None:
    def nul_flow(run: Run, anything: Any, fine: str = "") -> None: ...

    assert refused(registered(nul_flow), {"anything": value, "fine": "x"}) == {
        "anything": ["It contains a NUL character."]
    }


@pytest.mark.parametrize("value", ["\ud800", 2**70, object(), {1: 2}])
def test_what_is_no_json_is_refused(value: Any) -> None:
    def json_flow(run: Run, anything: Any) -> None: ...

    [sentence] = refused(registered(json_flow), {"anything": value})["inputs"]
    assert sentence.startswith("The inputs are not JSON: ")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("poem_flwo", "There is no flow “poem_flwo”. Did you mean “poem_flow”"),
        ("web_serach", "There is no flow “web_serach”. Did you mean “web_search_flow”"),
        ("zzz", "There is no flow “zzz”."),
        ("x" * 100_000, f"There is no flow “{'x' * 100}”."),
    ],
)
def test_an_unknown_flow_is_answered_with_near_names(name: str, sentence: str) -> None:
    with pytest.raises(UnknownFlowError) as caught:
        get_flow(name)
    assert str(caught.value).startswith(sentence)


# Where flows come from


def test_the_projects_own_flows_are_in_the_register() -> None:
    assert {"poem_flow", "web_search_flow"} <= set(FLOW_REGISTRY)


def test_a_package_gives_the_flows_of_its_modules_and_a_module_its_own(package: Callable[..., Path]) -> None:
    package(
        shop____init__="",
        shop__bread="@flow()\ndef bread_flow(run: Run): ...\n",
        shop__butter="@flow()\ndef butter_flow(run: Run): ...\n",
        kiosk="@flow()\ndef paper_flow(run: Run): ...\n",
    )
    load_flows(["shop", "kiosk"])
    assert {"bread_flow", "butter_flow", "paper_flow"} <= set(FLOW_REGISTRY)
    load_flows(["shop", "kiosk"])


def process(module: list[str], folder: Path, flow_modules: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "FLOW_MODULES": flow_modules}
    return subprocess.run(
        [sys.executable, *module], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


WEB = ["-c", "import config.asgi"]
WORKER = ["-m", "celery", "-A", "config", "-q", "worker", "-Q", "nobody", "-P", "threads", "-n", "broken@%h"]


@pytest.mark.parametrize("command", [WEB, WORKER], ids=["web", "worker"])
def test_a_process_does_not_start_with_a_broken_flow(
    package: Callable[..., Path], command: list[str]
) -> None:
    folder = package(broken="@flow()\ndef broken_flow(run: Run, amount): ...\n")
    ended = process(command, folder, "broken")
    assert ended.returncode != 0
    assert (
        f"{folder / 'broken.py'}:{FIRST_LINE}: the parameter “amount” of “broken_flow” has no type."
        in ended.stderr
    )


@pytest.mark.parametrize("command", [WEB, WORKER], ids=["web", "worker"])
def test_a_process_does_not_start_with_a_flow_file_that_is_no_python(
    package: Callable[..., Path], command: list[str]
) -> None:
    folder = package(broken="def flow(:\n")
    ended = process(command, folder, "broken")
    assert ended.returncode != 0
    assert f'File "{folder / "broken.py"}", line {FIRST_LINE}' in ended.stderr


def test_a_process_names_flow_modules_that_are_not_there(tmp_path: Path) -> None:
    ended = process(WEB, tmp_path, "no_such_flows")
    assert ended.returncode != 0
    assert "no_such_flows" in ended.stderr


@pytest.mark.django_db(transaction=True)
def test_a_flow_from_outside_runs_in_a_worker(package: Callable[..., Path]) -> None:
    folder = package(
        outside____init__="",
        outside__greet="""
            @flow()
            def greet_flow(run: Run, name: str = "you") -> str:
                return run.step("Greet", "Hello, {}!".format, name)
            """,
    )
    load_flows(["outside"])
    # A kind of its own, so that no other worker claims what it does not know.
    greet = replace(get_flow("greet_flow"), kind=cast(Any, "outside"))
    execution = Execution.start(greet, greet.validate({"name": "Alice"}))
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "FLOW_MODULES": "outside",
        "POSTGRES_DB": str(connection.settings_dict["NAME"]),
    }
    worker = Process("worker-outside", processes.worker("outside", "threads", 1), environment)
    try:
        wait_until(lambda: Execution.objects.get(id=execution.id).is_final, 30)
    finally:
        worker.stop()
    execution.refresh_from_db()
    assert (execution.state, execution.result) == ("SUCCESS", "Hello, Alice!")


def test_a_kind_that_no_worker_has_is_refused() -> None:
    with pytest.raises(FlowDefinitionError, match=r"test_registry\.py:\d+: .*kind “gpu”"):

        @flow(kind="gpu")  # type: ignore[arg-type]
        def gpu_flow() -> None:
            """Wait for a worker that will never be."""


@pytest.mark.parametrize("option", ["steps", "step_retries", "concurrency"])
def test_a_number_below_nothing_is_refused(option: str) -> None:
    def less_flow() -> None:
        """Do less than nothing."""

    sentence = rf"test_registry\.py:\d+: “less_flow” has {option} of -1; it may be 0 or more\."
    with pytest.raises(FlowDefinitionError, match=sentence):
        flow(**{option: -1})(less_flow)  # type: ignore[arg-type]
    assert "less_flow" not in FLOW_REGISTRY


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("def broken(:\n", r"broken_flows\.py:1: invalid syntax"),
        ("\n\nundefined_name\n", r"broken_flows\.py:3: NameError"),
        ("import nothing_of_that_name\n", r"broken_flows\.py:1: ModuleNotFoundError"),
        (None, r"FLOW_MODULES names “broken_flows”, which is not there"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str | None, sentence: str
) -> None:
    if code is not None:
        (tmp_path / "broken_flows.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FlowDefinitionError, match=sentence):
        load_flows(["broken_flows"])
