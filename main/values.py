"""What a step may return, written as JSON and read back as it was.

JSON, tuples, sets, dates, decimals, UUIDs, bytes, Pydantic models (LangChain's messages and documents are some)
and dataclasses survive, however they are nested. Anything else is refused at once, with a sentence that says what
to do.
"""

import base64
import dataclasses
import datetime
import decimal
import hashlib
import importlib
import math
import sys
import uuid
from collections.abc import Callable
from typing import Any

import orjson
from pydantic import BaseModel, RootModel, TypeAdapter

from main.errors import FlowError

MAX_RESULT_BYTES = 1024 * 1024
# A flow's own result is kept once, where a step's may be one of many.
MAX_FINAL_BYTES = 8 * MAX_RESULT_BYTES

# The key that marks a JSON object as one of ours. Its value names the kind, "value" holds what is inside.
_MARK = "__kept__"
_SCALARS: dict[str, type] = {
    "datetime": datetime.datetime,
    "date": datetime.date,
    "time": datetime.time,
    "timedelta": datetime.timedelta,
    "decimal": decimal.Decimal,
    "uuid": uuid.UUID,
    "int": int,
    "float": float,
}
_COLLECTIONS: dict[str, Callable[[list[Any]], Any]] = {"tuple": tuple, "set": set, "frozenset": frozenset}


class ResultError(FlowError):
    """A result that cannot be kept. Not worth a retry: the flow's code has to change."""

    def __init__(self, message: str) -> None:
        super().__init__(message, type="result")


def dump(value: Any) -> Any:
    """Return the value as JSON values that `load` reads back; raises ResultError for an unknown type."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return _dump_number(value)
    if isinstance(value, str):
        return clean_text(str.__str__(value))
    if isinstance(value, BaseModel):
        return _marked(f"model:{_path(type(value))}", _dump_model(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            each.name: dump(getattr(value, each.name)) for each in dataclasses.fields(value) if each.init
        }
        return _marked(f"dataclass:{_path(type(value))}", fields)
    if isinstance(value, dict):
        return _dump_dict(value)
    return _dump_other(value)


def load(kept: Any) -> Any:
    """Return the value that `dump` wrote."""
    if isinstance(kept, list):
        return [load(each) for each in kept]
    if not isinstance(kept, dict):
        return kept
    if _MARK not in kept:
        return {key: load(each) for key, each in kept.items()}
    kind, value = kept[_MARK], kept["value"]
    if kind in _SCALARS:
        return TypeAdapter(_SCALARS[kind]).validate_python(value)
    if kind == "bytes":
        return base64.b64decode(value)
    if kind in _COLLECTIONS:
        return _COLLECTIONS[kind]([load(each) for each in value])
    if kind == "dict":
        return {load(key): load(each) for key, each in value}
    return _load_object(kind, value)


def plain(value: Any) -> Any:
    """Return the value as plain JSON for people to read: a message is its text, a model its fields.

    Raises ResultError for a type that has no JSON form.
    """
    try:
        shown = _plain(value)
        orjson.dumps(shown)
    except (TypeError, ValueError, RecursionError) as error:
        raise ResultError(f"{type(value).__name__} cannot be shown: {error}") from error
    return shown


def clean_text(text: str) -> str:
    """Return the text without what PostgreSQL (NUL) or UTF-8 (lone surrogates) cannot hold."""
    if text.isascii() and "\x00" not in text:
        return text
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


def fingerprint(value: Any) -> str:
    """Return a hash of a step's input, the same for the same input in another process; "" where it has none."""
    try:
        return hashlib.sha256(orjson.dumps(dump(value), option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]
    except (ResultError, TypeError):
        return ""


def checked(value: Any, name: str) -> Any:
    """Return `dump(value)` for the step called `name`.

    Raises ResultError where it is unknown, too large, or would not be read back by a later attempt.
    """
    try:
        kept = dump(value)
        size = len(orjson.dumps(kept))
        load(kept)
    except Exception as error:  # a class of the flow's own may raise anything
        raise ResultError(f"The step “{name}” returned something that cannot be kept: {error}") from error
    _check_size(f"The step “{name}”", size, MAX_RESULT_BYTES)
    return kept


def final(value: Any) -> Any:
    """Return `plain(value)` for a flow's result; raises ResultError where it has no JSON form or is too large."""
    shown = plain(value)
    _check_size("The flow", len(orjson.dumps(shown)), MAX_FINAL_BYTES)
    return shown


def _check_size(who: str, size: int, limit: int) -> None:
    if size > limit:
        raise ResultError(
            f"{who} returned {size} bytes; at most {limit} are kept. "
            "Write it to a file or a database and return where it is."
        )


def _marked(kind: str, value: Any) -> dict[str, Any]:
    return {_MARK: kind, "value": value}


def _path(cls: type) -> str:
    path = f"{cls.__module__}:{cls.__qualname__}"
    try:
        found = _class(path)
    except (ImportError, AttributeError):
        found = None
    if found is not cls:
        raise ResultError(
            f"{cls.__name__} cannot be found again as {cls.__module__}.{cls.__qualname__}. "
            "Define it at the top of a module, under its own name."
        )
    return path


def _class(path: str) -> Any:
    module, _, name = path.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _dump_model(value: BaseModel) -> Any:
    """Dump field by field, so that a model inside keeps its class where the field names a base of it."""
    if isinstance(value, RootModel):
        return _dump_field(value, "root")
    fields = {name: _dump_field(value, name) for name in type(value).model_fields}
    extra = value.model_extra or {}
    if _MARK in extra:
        raise ResultError(
            f"{type(value).__name__} has a field “{_MARK}”, which is taken. Give it another name."
        )
    return fields | {name: dump(each) for name, each in extra.items()}


def _dump_field(value: BaseModel, name: str) -> Any:
    try:
        return dump(getattr(value, name))
    except ResultError as error:
        try:
            written = value.model_dump(mode="json", include={name}, round_trip=True)
        except ValueError:
            raise error from None
        return dump(written if isinstance(value, RootModel) else written[name])


def _dump_number(value: float) -> Any:
    """Mark what JSON does not know, and what orjson does not: people then read it as text."""
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**64 else _marked("int", str(int(value)))
    return float(value) if math.isfinite(value) else _marked("float", str(float(value)))


def _dump_dict(value: dict[Any, Any]) -> dict[str, Any]:
    if all(isinstance(key, str) for key in value) and _MARK not in value:
        return {dump(key): dump(each) for key, each in value.items()}
    return _marked("dict", [[dump(key), dump(each)] for key, each in value.items()])


def _dump_other(value: Any) -> Any:
    if type(value) is list:
        return [dump(each) for each in value]
    if type(value) is bytes:
        return _marked("bytes", base64.b64encode(value).decode())
    for kind, collection in _COLLECTIONS.items():
        if type(value) is collection:
            each_dumped = [dump(each) for each in value]
            # A set's order differs between processes; the fingerprint must not.
            return _marked(kind, each_dumped if kind == "tuple" else sorted(each_dumped, key=_sortable))
    for kind, scalar in _SCALARS.items():
        if type(value) is scalar:
            return _marked(kind, TypeAdapter(scalar).dump_python(value, mode="json"))
    raise ResultError(
        f"{type(value).__name__} is not JSON, a Pydantic model, a dataclass, a date, a UUID, or a LangChain message "
        "or document. Return one of those."
    )


def _sortable(dumped: Any) -> bytes:
    return orjson.dumps(dumped, option=orjson.OPT_SORT_KEYS)


def _load_object(kind: str, value: Any) -> Any:
    sort, _, path = kind.partition(":")
    cls = _class(path)
    if sort == "dataclass":
        return cls(**load(value))
    # By the fields' names: an alias is for what comes from outside.
    return cls.model_validate(load(value), by_alias=False, by_name=True)


def _plain(value: Any) -> Any:
    if _is_message(value):
        return clean_text(str(value.text))
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(mode="json"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    kept = dump(value)
    return kept["value"] if isinstance(kept, dict) else kept


def _is_message(value: Any) -> bool:
    """Say whether it is a LangChain message; there is none as long as nobody imported LangChain."""
    module = sys.modules.get("langchain_core.messages.base")
    base = getattr(module, "BaseMessage", None)  # not there yet while another thread imports it
    return base is not None and isinstance(value, base)
