import dataclasses
from enum import Enum
from functools import partial
from typing import Annotated, Any, Literal

import pytest
from pydantic import AliasChoices, BaseModel, Field

from messages import ToolSpec
from tools.schema import split_docstring
from tools.tool import ToolContext, tool_from


class Unit(Enum):
    METRIC = "metric"
    IMPERIAL = "imperial"


class Address(BaseModel):
    """Where somebody lives."""

    title: str
    street: Annotated[str, Field(min_length=1)]


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0


async def everything(
    city: Annotated[str, "A city's name"],
    days: Annotated[int, Field(ge=1, le=7, description="How many days.")],
    title: str,
    address: Address,
    context: ToolContext,
    unit: Unit = Unit.METRIC,
    mode: Literal["fast", "exact"] = "fast",
    points: list[Point] | None = None,
    labels: dict[str, float] | None = None,
    json: bool = False,
    anything: Any = None,
) -> str:
    """Do everything.

    And more of it.

    Args:
        city: not this text
        title: The title,
            on two lines: as it were.
        unit (Unit): Units of measurement.
        unknown: nobody has this.

    Returns:
        Something.
    """
    return city


def spec_of(function: Any) -> ToolSpec:
    return tool_from(function).spec


def test_a_signature_becomes_a_schema_without_noise() -> None:
    spec = spec_of(everything)
    assert spec.name == "everything"
    assert spec.description == "Do everything.\n\nAnd more of it."
    assert spec.parameters == {
        "type": "object",
        "additionalProperties": False,
        "required": ["city", "days", "title", "address"],
        "properties": {
            "city": {"type": "string", "description": "A city's name"},
            "days": {
                "type": "integer",
                "minimum": 1,
                "maximum": 7,
                "description": "How many days.",
            },
            "title": {"type": "string", "description": "The title, on two lines: as it were."},
            "address": {"$ref": "#/$defs/Address"},
            "unit": {
                "$ref": "#/$defs/Unit",
                "default": "metric",
                "description": "Units of measurement.",
            },
            "mode": {"type": "string", "enum": ["fast", "exact"], "default": "fast"},
            "points": {
                "anyOf": [
                    {"type": "array", "items": {"$ref": "#/$defs/Point"}},
                    {"type": "null"},
                ],
                "default": None,
            },
            "labels": {
                "anyOf": [
                    {"type": "object", "additionalProperties": {"type": "number"}},
                    {"type": "null"},
                ],
                "default": None,
            },
            "json": {"type": "boolean", "default": False},
            "anything": {"default": None},
        },
        "$defs": {
            "Address": {
                "type": "object",
                "description": "Where somebody lives.",
                "required": ["title", "street"],
                "properties": {
                    "title": {"type": "string"},
                    "street": {"type": "string", "minLength": 1},
                },
            },
            "Unit": {"type": "string", "enum": ["metric", "imperial"]},
            "Point": {
                "type": "object",
                "required": ["x"],
                "properties": {"x": {"type": "number"}, "y": {"type": "number", "default": 0.0}},
            },
        },
    }


def test_a_tool_without_parameters_has_an_empty_object() -> None:
    def now() -> str:
        """Tell the time."""
        return "late"

    assert spec_of(now).parameters == {
        "type": "object",
        "properties": {},
        "required": [],
        "additionalProperties": False,
    }


def test_annotations_may_be_text() -> None:
    def later(days: "Annotated[int, 'How many']", context: "ToolContext | None" = None) -> None:
        """Wait."""

    assert spec_of(later).parameters["properties"] == {
        "days": {"type": "integer", "description": "How many"}
    }


def test_a_default_without_json_form_stays_out_of_the_schema() -> None:
    def look(marker: Annotated[int | None, "m"] = print) -> None:  # type: ignore[assignment]
        """Look."""

    assert "default" not in spec_of(look).parameters["properties"]["marker"]


def test_methods_and_objects_that_can_be_called_become_tools() -> None:
    class Adder:
        """An object that adds."""

        def add(self, number: int) -> int:
            """Add one."""
            return number + 1

        async def __call__(self, number: int) -> int:
            """Add two."""
            return number + 2

    assert spec_of(Adder().add).description == "Add one."
    assert spec_of(Adder()).description == "Add two."
    assert spec_of(Adder()).name == "Adder"
    assert list(spec_of(Adder()).parameters["properties"]) == ["number"]
    assert tool_from(Adder(), name="add_two").name == "add_two"


def unannotated(x) -> None:  # type: ignore[no-untyped-def]
    """Document."""


def starred(*numbers: int) -> None:
    """Document."""


def keywords(**numbers: int) -> None:
    """Document."""


def positional(number: int, /) -> None:
    """Document."""


def undocumented(number: int) -> None: ...


def unknown_type(number: "Nothing") -> None:  # type: ignore[name-defined]  # noqa: F821
    """Document."""


def unknown_inner_type(number: list["Nothing"]) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Document."""


class Opaque:
    pass


def not_json(thing: Opaque) -> None:
    """Document."""


def infinite(number: float = float("inf")) -> None:
    """Document."""


def only_sections() -> None:
    """Returns:
    Nothing.
    """


REFUSED = [
    (unannotated, "parameter x needs a type annotation"),
    (starred, r"instead of \*numbers"),
    (keywords, r"instead of \*\*numbers"),
    (positional, "must not be positional-only"),
    (undocumented, "needs a docstring"),
    (only_sections, "needs a docstring"),
    (unknown_type, "Nothing"),
    (unknown_inner_type, "Nothing"),
    (not_json, "cannot come from JSON"),
    (infinite, "schema contains inf"),
    (lambda: None, "<lambda>"),
]


@pytest.mark.parametrize(("function", "text"), REFUSED, ids=[text for _, text in REFUSED])
def test_what_cannot_be_a_tool_is_refused_at_registration(function: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        tool_from(function)


@pytest.mark.parametrize("name", ["", "a b", "a.b", "ä", "a" * 65, "a\n"])
def test_a_name_that_apis_refuse_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match="cannot be a tool's name"):
        tool_from(everything, name=name)


def test_a_partial_function_needs_a_name_and_keeps_its_signature() -> None:
    tool = tool_from(partial(everything, city="Oslo"), name="oslo")
    assert tool.spec.description.startswith("Do everything.")
    assert tool.spec.parameters["properties"]["city"]["default"] == "Oslo"


def test_a_parameter_with_an_alias_is_called_by_it() -> None:
    def between(start: Annotated[int, Field(alias="from")]) -> None:
        """Count."""

    assert list(spec_of(between).parameters["properties"]) == ["from"]
    assert tool_from(between).parse('{"from": 1}') == {"from": 1}


DOCSTRINGS = [
    ("", "", {}),
    ("One line.", "One line.", {}),
    ("One.\n\n    Args:\n        a: first\n        b (int, optional): second", "One.", "ab"),
    ("One.\n\nArgs:\n    a: first\n\n    b: second\n\nRaises:\n    KeyError: never", "One.", "ab"),
    ("One.\n\nArguments:\n    *a: first\n    b:\n        second", "One.", "ab"),
    ("Note: this stays.\n\nExample:\n    a: not an argument", "Note: this stays.", {}),
]


@pytest.mark.parametrize(("text", "description", "arguments"), DOCSTRINGS)
def test_a_docstring_is_split(text: str, description: str, arguments: Any) -> None:
    expected = {"a": "first", "b": "second"} if arguments == "ab" else arguments
    assert split_docstring(text) == (description, expected)


def test_alias_choices_do_not_break_registration() -> None:
    def pick(a: Annotated[int, Field(validation_alias=AliasChoices("b", "c"))]) -> None:
        """Pick."""

    assert spec_of(pick).parameters["type"] == "object"
