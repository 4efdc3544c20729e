"""What the state of a graph may hold, and how LangGraph keeps it: without pickle, and without surprises.

LangGraph would read a class that it may not make back as a dictionary, and one that it cannot find as well. Here
both are refused when the state is written, with a sentence.
"""

import dataclasses
import importlib
from enum import Enum
from typing import Any

import ormsgpack
from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_TYPES
from langgraph.checkpoint.serde.jsonplus import (
    EXT_DELTA_SNAPSHOT,
    EXT_NUMPY_ARRAY,
    JsonPlusSerializer,
    _create_msgpack_ext_hook,
)
from pydantic import BaseModel

from main.values import ResultError


class StateSerializer(JsonPlusSerializer):
    """Writes data: LangGraph's safe types, and dataclasses, Pydantic models, enums and named tuples."""

    def __init__(self) -> None:
        super().__init__(
            pickle_fallback=False,
            allowed_msgpack_modules=True,  # not asked: the hook below is
            __unpack_ext_hook__=_create_msgpack_ext_hook(_Data()),  # type: ignore[arg-type]
        )

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Write a value; raises ResultError for what would not be read back as it is."""
        try:
            kind, written = super().dumps_typed(obj)
        except (TypeError, ValueError) as error:
            raise _refused(str(error.__cause__ or error)) from error
        if kind == "msgpack" and (foreign := _foreign(written)):
            raise _refused(f"{foreign[0]} cannot be found again, or is no data")
        return kind, written


class _Data:
    """The classes that are data: to make one runs nothing but its own checks."""

    def __contains__(self, path: tuple[str, str]) -> bool:
        module, name = path
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            return False
        return isinstance(found, type) and (
            dataclasses.is_dataclass(found)
            or issubclass(found, BaseModel | Enum)
            or (issubclass(found, tuple) and hasattr(found, "_fields"))
        )


_data = _Data()


def _foreign(written: bytes) -> list[str]:
    """Return the classes in what was written that would not be made again, without making any."""
    found: list[str] = []

    def look(code: int, inside: bytes) -> None:
        if code != EXT_NUMPY_ARRAY:
            unpacked = ormsgpack.unpackb(inside, ext_hook=look, option=ormsgpack.OPT_NON_STR_KEYS)
            if code != EXT_DELTA_SNAPSHOT and not _is_kept(*unpacked[:2]):
                found.append(".".join(unpacked[:2]))

    ormsgpack.unpackb(written, ext_hook=look, option=ormsgpack.OPT_NON_STR_KEYS)
    return found


def _is_kept(module: str, name: str) -> bool:
    return (module, name) in SAFE_MSGPACK_TYPES or (module, name) in _data


def _refused(why: str) -> ResultError:
    return ResultError(
        f"The state of a graph holds something that cannot be kept: {why}. Keep JSON, messages, documents, "
        "dataclasses, Pydantic models or enums there, defined at the top of a module."
    )
