"""What a tool returns, as JSON that every wire and every store can carry.

Rules:

* JSON has null, booleans, finite numbers, strings, arrays and objects. What has one obvious
  form among these takes it: Pydantic models, dataclasses, msgspec structs, enums, tuples, sets,
  dates, times, durations, decimals, UUIDs, paths. Bytes have none, nor has NaN.
* NUL and lone surrogates in strings become U+FFFD: UTF-8 and PostgreSQL cannot carry them.
* `MAX_DEPTH` bounds the nesting, which also finds what contains itself.
* The walk is Python, bit by bit, on the tool's own thread: one call into C that encodes ten
  megabytes would hold the interpreter, and so the service's loop, all the while.
* A walk may have a bound: what is behind it is not looked at.
"""

import dataclasses
import math
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

import msgspec
from pydantic import BaseModel

from messages import clean_text

MAX_DEPTH = 64
"""Arrays and objects inside one another."""

_VALUE = 16
"""What a value counts as, besides the length of a text."""

_WORD = 1 << 63
_BYTES = (bytes, bytearray, memoryview)
_SCALARS = (date, time, timedelta, Decimal, UUID)
_ARRAYS = (list, tuple, set, frozenset, deque)


class NotJson(ValueError):
    """A value has no JSON form; the text completes "returned …" or "contains …"."""


def json_value(value: Any) -> Any:
    """Return `value` made of None, bool, int, float, str, list and dict only; else `NotJson`."""
    return beginning(value, sys.maxsize)[0]


def beginning(value: Any, size: int) -> tuple[Any, bool]:
    """Return the beginning of a value, as `json_value` does, and whether that is all of it.

    Args:
        size: about how many characters the walk may see; each value counts as `_VALUE` besides.
    """
    walk = _Walk(size)
    try:
        return walk.converted(value, MAX_DEPTH), walk.left >= 0
    except RecursionError:
        raise NotJson("a value that is circular or nested too deep") from None


class _Walk:
    """`left`: how much more may be seen; less than nothing where something was left out."""

    def __init__(self, size: int) -> None:
        self.left = size

    def converted(self, value: Any, depth: int) -> Any:
        self.left -= _VALUE
        kind = type(value)
        if value is None or kind is bool or (kind is int and -_WORD < value < _WORD):
            return value
        if kind is str:
            return self._text(value)
        if isinstance(value, Enum):
            return self.converted(value.value, depth)
        if isinstance(value, str):
            return self._text(str.__str__(value))
        if isinstance(value, (int, float)):
            return _number(value)
        return self._composed(value, depth)

    def _text(self, text: str) -> str:
        before = max(self.left, 0)
        self.left -= len(text)
        return clean_text(text if self.left >= 0 else text[:before])

    def _composed(self, value: Any, depth: int) -> Any:
        if depth == 0:
            raise NotJson(f"a value that is circular or nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, (dict, Mapping)):
            return self._object(value, depth - 1)
        if isinstance(value, _ARRAYS):
            return self._array(value, depth - 1)
        return self.converted(_built_in(value), depth - 1)

    def _array(self, values: Iterable[Any], depth: int) -> list[Any]:
        result = []
        for item in values:
            if self.left < 0:
                break
            result.append(self.converted(item, depth))
        return result

    def _object(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, item in value.items():
            if self.left < 0:
                break
            name = self.converted(key, 1)
            if isinstance(name, int | float):
                name = msgspec.json.encode(name).decode()
            if not isinstance(name, str):
                kind = type(key).__name__
                raise NotJson(f"a mapping with a key of type {kind}, which is not JSON")
            if name in result:
                raise NotJson(f"a mapping with two keys that are {name[:50]!r} in JSON")
            result[name] = self.converted(item, depth)
        return result


def _number(value: int | float) -> int | float:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NotJson(f"{float(value)}, which is not JSON")
        return float(value)
    try:
        int.__repr__(value)
    except ValueError:
        raise NotJson("an integer with too many digits") from None
    return int(value)


def _built_in(value: Any) -> Any:
    """Return an object's contents, one level deep, as something `_converted` knows."""
    if isinstance(value, _SCALARS):
        return msgspec.to_builtins(value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value, builtin_types=_BYTES, enc_hook=_built_in)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise NotJson(f"{type(value).__name__}, which is not JSON")
