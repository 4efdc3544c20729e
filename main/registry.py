"""Flows and their register.

A flow is a function. Its name is the flow's name, its parameters are the flow's inputs, and the module that
defines it is its registration:

    @flow(title="Greeting", public=True, steps=1)
    def greeting_flow(run: Run, llm: ChatModel, name: Annotated[str, Field(max_length=80)] = "you") -> str:
        '''Say hello.'''
        return run.step("Greet", lambda who: f"Hello, {who}!", name)

A parameter typed `Run` gets the handle of the execution, one typed `ChatModel` the default chat model; all
others are inputs. From the signature come the JSON Schema, the form on the page and the sentences of a 400.
"""

import importlib
import inspect
import pkgutil
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, get_args, get_type_hints

import orjson
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticUserError

from main.run import Run

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    ChatModel: TypeAlias = BaseChatModel
else:

    class ChatModel:
        """Marks the parameter of a flow that is given the default chat model, a LangChain BaseChatModel."""


Kind = Literal["io", "cpu"]
Priority = Literal["high", "normal", "low"]
Function = TypeVar("Function", bound=Callable[..., Any])


class FlowDefinitionError(Exception):
    """A flow that cannot be registered; the message begins with its file and line."""


class UnknownFlowError(LookupError):
    """No flow has that name; the message names near ones."""


class InputError(ValueError):
    """Inputs that do not fit a flow. `errors` holds a sentence or more for each field."""

    def __init__(self, errors: dict[str, list[str]]) -> None:
        self.errors = errors
        super().__init__(" ".join(sentence for sentences in errors.values() for sentence in sentences))


@dataclass(frozen=True)
class Flow:
    """A registered flow. Times are in seconds; `steps` is how many steps it usually has, 0 if that varies;
    `concurrency` how many executions of it run at once, 0 without a limit."""

    name: str
    title: str
    description: str
    function: Callable[..., Any]
    place: str
    public: bool = False
    kind: Kind = "io"
    steps: int = 0
    time_limit: int | None = None
    step_retries: int = 3
    requires: tuple[str, ...] = ()
    priority: Priority = "normal"
    concurrency: int = 0
    handles: dict[str, type] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def model(self) -> type[BaseModel]:
        # Fields get names of their own: an input may be called `schema` or `_x`, which Pydantic keeps for itself.
        fields = {f"{_OWN}{name}": definition for name, definition in self.inputs.items()}
        return create_model(self.name, __config__=_CONFIG, **fields)

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the inputs: an object with a property per parameter."""
        return self.model.model_json_schema(by_alias=True)

    def validate(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs completed with defaults, as JSON values; raise InputError. `true` is not 1."""
        if errors := {
            name: ["It contains a NUL character."] for name in inputs if _has_nul([name, inputs[name]])
        }:
            raise InputError(errors)
        try:
            valid = self.model.model_validate_json(orjson.dumps(inputs), strict=True)
        except ValidationError as error:
            raise InputError(_sentences(self, error)) from None
        except TypeError as error:
            raise InputError({"inputs": [f"The inputs are not JSON: {error}."]}) from None
        return valid.model_dump(mode="json", by_alias=True)

    def arguments(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments for the function from stored inputs, in the types it declares."""
        valid = self.model.model_validate_json(orjson.dumps(inputs))
        return {name: getattr(valid, f"{_OWN}{name}") for name in self.inputs}

    def call(self, run: Run, chat_model: Callable[[], Any], inputs: Mapping[str, Any]) -> Any:
        """Call the function with its handles and its inputs and return what it returns."""
        handles = {name: run if kind is Run else chat_model() for name, kind in self.handles.items()}
        return self.function(**handles, **self.arguments(inputs))


FLOW_REGISTRY: dict[str, Flow] = {}


def flow(
    *,
    title: str = "",
    description: str = "",
    public: bool = False,
    kind: Kind = "io",
    steps: int = 0,
    time_limit: int | None = None,
    step_retries: int = 3,
    requires: Iterable[str] = (),
    priority: Priority = "normal",
    concurrency: int = 0,
) -> Callable[[Function], Function]:
    """Register the decorated function as a flow under its own name.

    `public` lets visitors without an account run it. `kind` is "io" for flows that wait (threads) or "cpu" for
    flows that compute (processes). `time_limit` is in seconds from the first claim. `requires` names settings
    that must not be empty, such as "TAVILY_API_KEY". `priority` is what a start gets that names none, and
    `concurrency` how many executions of the flow run at once, 0 for no limit.

    Raises FlowDefinitionError, with file and line, for a name that is taken, a parameter without a type, a type
    that has no JSON Schema or does not resolve, a default that is no JSON, and an option out of its range.
    """

    def register(function: Function) -> Function:
        place = _place(function)
        known = FLOW_REGISTRY.get(function.__name__)
        if known and known.place != place:
            raise FlowDefinitionError(
                f"{place}: the flow “{function.__name__}” is already defined in {known.place}."
            )
        _check_choice(place, function, "kind", kind, get_args(Kind))
        _check_choice(place, function, "priority", priority, get_args(Priority))
        counts = {"steps": steps, "step_retries": step_retries, "concurrency": concurrency}
        for option, count in counts.items():
            _check_count(place, function, option, count)
        handles, inputs = _parameters(function, place)
        registered = Flow(
            name=function.__name__,
            title=title or function.__name__.removesuffix("_flow").replace("_", " ").capitalize(),
            description=description or inspect.getdoc(function) or "",
            function=function,
            place=place,
            public=public,
            kind=kind,
            steps=steps,
            time_limit=time_limit,
            step_retries=step_retries,
            requires=tuple(requires),
            priority=priority,
            concurrency=concurrency,
            handles=handles,
            inputs=inputs,
        )
        _build(registered)
        FLOW_REGISTRY[registered.name] = registered
        return function

    return register


def _check_choice(
    place: str, function: Callable[..., Any], option: str, value: str, known: tuple[str, ...]
) -> None:
    if value not in known:
        choices = " and ".join([", ".join(f"“{each}”" for each in known[:-1]), f"“{known[-1]}”"])
        raise FlowDefinitionError(
            f"{place}: “{function.__name__}” has the {option} “{value}”; there are {choices}."
        )


def _check_count(place: str, function: Callable[..., Any], option: str, count: int) -> None:
    if count < 0:
        raise FlowDefinitionError(
            f"{place}: “{function.__name__}” has {option} of {count}; it may be 0 or more."
        )


def get_flow(name: str) -> Flow:
    """Return the flow of that name; raise UnknownFlowError with near names."""
    try:
        return FLOW_REGISTRY[name]
    except KeyError:
        near = get_close_matches(name[:100], FLOW_REGISTRY, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(f'“{each}”' for each in near)}?" if near else ""
        raise UnknownFlowError(f"There is no flow “{name[:100]}”.{hint}") from None


def load_flows(packages: Iterable[str]) -> None:
    """Import every module of the given packages, so that their flows register; a plain module is imported itself.

    Raises FlowDefinitionError, with file and line, for a module that cannot be imported.
    """
    for package in packages:
        module = _imported(package)
        for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
            _imported(f"{package}.{found.name}")


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except FlowDefinitionError:
        raise
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise FlowDefinitionError(
                f"FLOW_MODULES names “{name}”, which is not there. Install that package into the same virtual "
                "environment, or put the folder it is in on PYTHONPATH."
            ) from error
        raise FlowDefinitionError(_told(error)) from error
    except Exception as error:
        raise FlowDefinitionError(_told(error)) from error


def _told(error: Exception) -> str:
    """Return an error of a module's import with the place that it comes from."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {error.msg}."
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}:{last.lineno}: {type(error).__name__}: {error}"


def _place(function: Callable[..., Any]) -> str:
    code = inspect.unwrap(function).__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


def _parameters(function: Callable[..., Any], place: str) -> tuple[dict[str, type], dict[str, Any]]:
    """Split a signature into handles (name → Run or ChatModel) and inputs (name → type, or type and default)."""
    if inspect.iscoroutinefunction(function):
        raise FlowDefinitionError(
            f"{place}: “{function.__name__}” is async. A flow is a plain function; it may call asyncio.run() in a step."
        )
    hints = _hints(function, place)
    handles: dict[str, type] = {}
    inputs: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise FlowDefinitionError(
                f"{place}: “{function.__name__}” takes “{str(parameter).partition(':')[0]}”; inputs must have names."
            )
        if name not in hints:
            raise FlowDefinitionError(
                f"{place}: the parameter “{name}” of “{function.__name__}” has no type."
            )
        if hints[name] is Run or hints[name] is ChatModel:
            handles[name] = hints[name]
        else:
            has_default = parameter.default is not parameter.empty
            inputs[name] = (hints[name], parameter.default) if has_default else hints[name]
    return handles, inputs


def _hints(function: Callable[..., Any], place: str) -> dict[str, Any]:
    """Return the types of the parameters; what the function returns may stay under TYPE_CHECKING."""
    parameters = {name: kind for name, kind in function.__annotations__.items() if name != "return"}
    try:
        return get_type_hints(
            SimpleNamespace(__annotations__=parameters),
            inspect.unwrap(function).__globals__,
            include_extras=True,
        )
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        what = f"type “{error.name}”" if isinstance(error, NameError) else f"signature ({error})"
        raise FlowDefinitionError(
            f"{place}: the {what} of “{function.__name__}” does not resolve. "
            "Import its types at the top of the module, not under TYPE_CHECKING."
        ) from error


def _outside(field: str) -> str:
    """Return what a field of the model is called in inputs."""
    return field.removeprefix(_OWN)


def _label(field: str, _: object) -> str:
    return _outside(field).replace("_", " ").strip().capitalize()


_OWN = "input_"
_CONFIG = ConfigDict(extra="forbid", alias_generator=_outside, field_title_generator=_label)


def _build(registered: Flow) -> None:
    """Make model and schema now, so that what is wrong with a signature is said at start."""
    try:
        for name in registered.inputs:
            _check_default(registered, name)
        _ = registered.schema
    except PydanticUserError as error:
        raise FlowDefinitionError(
            f"{registered.place}: an input of “{registered.name}” has a type that cannot come from JSON: "
            f"{error.message}."
        ) from error


def _check_default(registered: Flow, name: str) -> None:
    field = registered.model.model_fields[f"{_OWN}{name}"]
    if field.is_required():
        return
    default = field.get_default(call_default_factory=True)
    try:
        written = orjson.dumps({field.alias: TypeAdapter(Any).dump_python(default, mode="json")})
        registered.model.model_validate_json(written, strict=True)
    except ValidationError as error:
        if all(problem["loc"][0] != field.alias for problem in error.errors()):
            return  # only other inputs are missing
        raise _wrong_default(registered, name, default) from error
    except (ValueError, TypeError) as error:
        raise _wrong_default(registered, name, default) from error


def _wrong_default(registered: Flow, name: str, default: Any) -> FlowDefinitionError:
    return FlowDefinitionError(
        f"{registered.place}: the default of “{name}” in “{registered.name}” cannot be written as JSON "
        f"of its type ({type(default).__name__})."
    )


def _has_nul(value: Any) -> bool:
    """Say whether a JSON value holds a NUL character, which PostgreSQL cannot store."""
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, Mapping):
        return any(_has_nul(key) or _has_nul(each) for key, each in value.items())
    return isinstance(value, list) and any(_has_nul(each) for each in value)


def _sentences(registered: Flow, error: ValidationError) -> dict[str, list[str]]:
    sentences: dict[str, list[str]] = {}
    for problem in error.errors(include_url=False):
        location = [str(part) for part in problem["loc"]] or ["inputs"]
        sentence = _sentence(registered, problem, ".".join(location), len(location) > 1)
        sentences.setdefault(location[0], []).append(f"{sentence}.")
    return sentences


def _sentence(registered: Flow, problem: Any, name: str, is_inside: bool) -> str:
    length = len(problem["input"]) if isinstance(problem["input"], str | list | dict) else 0
    match problem["type"]:
        case "missing":
            return f"“{name}” is missing"
        case "extra_forbidden" if is_inside:
            return f"“{name}” is not expected"
        case "extra_forbidden":
            names = ", ".join(f"“{each}”" for each in registered.inputs)
            known = f"its inputs are {names}" if names else "it has no inputs"
            return f"“{name}” is not an input of {registered.name}; {known}"
        case "string_too_long":
            return f"“{name}” may have at most {problem['ctx']['max_length']} characters; it has {length}"
        case "string_too_short":
            least = problem["ctx"]["min_length"]
            return f"“{name}” needs at least {least} character{'s' if least > 1 else ''}; it has {length}"
        case _:
            return f"“{name}”: {problem['msg'][0].lower()}{problem['msg'][1:].rstrip('.')}"
