import dataclasses
import json
from collections import OrderedDict, deque, namedtuple
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from messages import clean_text
from tools.values import MAX_DEPTH, NotJson, json_value

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
JSON = st.recursive(
    SCALARS.filter(lambda value: value not in (float("inf"), float("-inf"))),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Word(StrEnum):
    YES = "yes"


class Place(BaseModel):
    name: str
    height: Annotated[float, Field(serialization_alias="heightMetres")] = 1.5


@dataclasses.dataclass
class Point:
    x: int
    place: Any = None


class Pair(msgspec.Struct, rename="camel"):
    first_one: int
    second: Any = None


Named = namedtuple("Named", "a b")

FORMS = [
    ((1, 2), [1, 2]),
    (Named(1, "b"), [1, "b"]),
    ({5}, [5]),
    (frozenset(), []),
    (deque([1]), [1]),
    (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    (MappingProxyType({"a": 1}), {"a": 1}),
    ({1: "one", 2.5: "two", Colour.RED: 3}, {"1": "one", "2.5": "two", "red": 3}),
    (Colour.RED, "red"),
    (Level.HIGH, 3),
    (Word.YES, "yes"),
    (date(2026, 1, 2), "2026-01-02"),
    (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05Z"),
    (timedelta(hours=1), "PT3600S"),
    (Decimal("1.10"), "1.10"),
    (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (PurePosixPath("/a/b"), "/a/b"),
    (Place(name="K2"), {"name": "K2", "heightMetres": 1.5}),
    (Point(1, Place(name="K2")), {"x": 1, "place": {"name": "K2", "heightMetres": 1.5}}),
    (Pair(1, Point(2)), {"firstOne": 1, "second": {"x": 2, "place": None}}),
    (10**100, 10**100),
    ("a\0b\ud800c", "a\ufffdb\ufffdc"),
    ({"\ud800": 1}, {"\ufffd": 1}),
    ("\0" * 200_000, "\ufffd" * 200_000),
    ([Place(name="\0")], [{"name": "\ufffd", "heightMetres": 1.5}]),
]


@pytest.mark.parametrize(("value", "form"), FORMS, ids=[type(value).__name__ for value, _ in FORMS])
def test_a_value_takes_its_json_form(value: Any, form: Any) -> None:
    assert json_value(value) == form
    assert type(json_value(value)) is type(form)


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def circular() -> Any:
    inner: dict[str, Any] = {}
    inner["self"] = [inner, inner]
    return inner


def circular_object() -> Any:
    point = Point(1)
    point.place = point
    return point


FAULTS = [
    (b"text", "bytes, which is not JSON"),
    (bytearray(b"x"), "bytearray, which is not JSON"),
    ([memoryview(b"x")], "memoryview"),
    (Pair(1, b"x"), "bytes"),
    (Point(1, b"x"), "bytes"),
    (object(), "object, which is not JSON"),
    ({object()}, "object"),
    ({"a": [float("nan")]}, "nan, which is not JSON"),
    (float("-inf"), "-inf"),
    ({(1, 2): 3}, "key of type tuple"),
    ({None: 3}, "key of type NoneType"),
    ({1: "a", "1": "b"}, "two keys"),
    (10**5000, "too many digits"),
    ((number for number in "12"), "generator"),
    (print, "builtin_function_or_method"),
    (Point, "type"),
    (nested(MAX_DEPTH + 1), "circular or nested"),
    (nested(100_000), "circular or nested"),
    (circular(), "circular or nested"),
    (circular_object(), "circular or nested"),
]


@pytest.mark.parametrize(("value", "text"), FAULTS, ids=[text for _, text in FAULTS])
def test_a_value_without_a_json_form_is_named(value: Any, text: str) -> None:
    with pytest.raises(NotJson, match=text):
        json_value(value)


def test_the_deepest_value_that_is_allowed_passes() -> None:
    assert json_value(nested(MAX_DEPTH)) == nested(MAX_DEPTH)


@given(JSON)
def test_json_stays_what_it_is_but_for_nul(value: Any) -> None:
    result = json_value(value)
    assert result == json.loads(json.dumps(value).replace("\\u0000", "\ufffd"))
    assert msgspec.json.decode(msgspec.json.encode(result)) == result


@given(st.text(st.characters(categories=None) | st.sampled_from("\0\ud800\udfff")))
def test_clean_text_can_be_encoded_and_is_as_long(text: str) -> None:
    clean = clean_text(text)
    assert "\0" not in clean
    assert len(clean.encode().decode()) == len(text)
