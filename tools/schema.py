"""A function's signature and docstring, as what a model is told and what is checked.

Pydantic does both. It is given a function of the same signature that returns its arguments as
a dict, so that parameters may have any name (`json`, `schema`, `copy`), and whatever Pydantic
understands in an annotation works: `Field`, `Literal`, enums, unions, models, dataclasses. To
that comes `Annotated[T, "text"]`, where the text describes the parameter.

The schema is what OpenAI's tools API takes: an object without additional properties. Titles
that Pydantic makes of names are left out, they only cost tokens.
"""

import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, get_args, get_origin

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema

from tools.values import NotJson, json_value

_SECTION = re.compile(
    r"^(Args|Arguments|Parameters|Params|Returns?|Yields?|Raises|Examples?|Notes?|See Also):\s*$"
)
_ENTRY = re.compile(r"^\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)$")
_NAMED_SCHEMAS = ("properties", "patternProperties", "$defs")
_DATA = ("default", "const", "enum", "examples")


class Signature:
    """What a tool's function takes.

    Attributes:
        description: the docstring up to its first section.
        parameters: the JSON Schema of the arguments.
        context_name: the parameter that is filled in by the service, if there is one.

    Raises:
        TypeError: the function cannot be a tool; the text says why and what to write instead.
    """

    def __init__(self, function: Callable[..., Any], name: str, context_type: type) -> None:
        self.description, texts = split_docstring(_docstring(function))
        if not self.description:
            raise TypeError(f"tool {name} needs a docstring: it tells the model what it does")
        self.context_name: str | None = None
        parameters = []
        for parameter in _parameters(function, name):
            if context_type in (parameter.annotation, *get_args(parameter.annotation)):
                self.context_name = parameter.name
            else:
                parameters.append(parameter)
        self._adapter = _adapter(parameters, name)
        self.parameters = self._schema(parameters, texts, name)

    def validated(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the function's keyword arguments with its defaults, or raise `ValidationError`."""
        result: dict[str, Any] = self._adapter.validate_python(arguments)
        return result

    def _schema(
        self, parameters: list[inspect.Parameter], texts: dict[str, str], name: str
    ) -> dict[str, Any]:
        schema = self._adapter.json_schema(schema_generator=_Generator)
        schema.setdefault("properties", {})
        schema.setdefault("required", [])
        for parameter in parameters:
            text = _annotated_text(parameter.annotation) or texts.get(parameter.name)
            # A parameter with an alias stands in the schema under that; it has a Field anyway.
            entry = schema["properties"].get(parameter.name)
            if text and entry is not None:
                entry.setdefault("description", text)
        try:
            result: dict[str, Any] = json_value(_without_titles(schema))
        except NotJson as error:
            raise TypeError(f"tool {name}: its schema contains {error}") from None
        return result


class _Generator(GenerateJsonSchema):
    # A default without JSON form is left out of the schema; that is no reason to warn.
    ignored_warning_kinds = frozenset({"skipped-choice", "non-serializable-default"})  # type: ignore[assignment]


def split_docstring(text: str) -> tuple[str, dict[str, str]]:
    """Return a Google-style docstring's description, and its arguments' descriptions by name."""
    lines = inspect.cleandoc(text).split("\n")
    heads = [index for index, line in enumerate(lines) if _SECTION.match(line)]
    description = "\n".join(lines[: heads[0]] if heads else lines).strip()
    texts: dict[str, str] = {}
    for head, end in zip(heads, [*heads[1:], len(lines)], strict=False):
        if lines[head].startswith(("Arg", "Param")):
            texts.update(_entries(lines[head + 1 : end]))
    return description, texts


def _entries(lines: list[str]) -> dict[str, str]:
    """Return the entries of an `Args:` section; what is indented deeper goes on with one."""
    body = inspect.cleandoc("\n" + "\n".join(lines)).split("\n")
    texts: dict[str, str] = {}
    name = None
    for line in body:
        entry = _ENTRY.match(line)
        if entry:
            name = entry[1]
            texts[name] = entry[2].strip()
        elif name is not None and line.startswith((" ", "\t")):
            texts[name] = f"{texts[name]} {line.strip()}".strip()
    return {name: text for name, text in texts.items() if text}


def _docstring(function: Callable[..., Any]) -> str:
    if isinstance(function, partial):
        return _docstring(function.func)
    if inspect.isroutine(function):
        return inspect.getdoc(function) or ""
    return inspect.getdoc(type(function).__call__) or inspect.getdoc(function) or ""


def _parameters(function: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    try:
        signature = inspect.signature(function, eval_str=True)
    except (NameError, SyntaxError, AttributeError, ValueError) as error:
        raise TypeError(f"tool {name}: its signature cannot be read: {error}") from None
    parameters = list(signature.parameters.values())
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"tool {name}: name its parameters instead of {parameter}")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise TypeError(f"tool {name}: parameter {parameter.name} must not be positional-only")
        if parameter.annotation is parameter.empty:
            raise TypeError(f"tool {name}: parameter {parameter.name} needs a type annotation")
    return parameters


def _adapter(parameters: list[inspect.Parameter], name: str) -> TypeAdapter[Any]:
    def collect(**arguments: Any) -> dict[str, Any]:
        return arguments

    keyword = inspect.Parameter.KEYWORD_ONLY
    signature = inspect.Signature([parameter.replace(kind=keyword) for parameter in parameters])
    collect.__signature__ = signature  # type: ignore[attr-defined]
    collect.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(collect)  # type: ignore[arg-type]
        adapter.json_schema(schema_generator=_Generator)
    except (PydanticUserError, NameError) as error:
        reason = str(error).partition("\n")[0]
        raise TypeError(f"tool {name}: its parameters cannot come from JSON: {reason}") from None
    return adapter


def _annotated_text(annotation: Any) -> str | None:
    if get_origin(annotation) is not Annotated:
        return None
    return next((item for item in annotation.__metadata__ if isinstance(item, str)), None)


def _without_titles(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _NAMED_SCHEMAS:
            result[key] = {name: _without_titles(inner) for name, inner in value.items()}
        elif key in _DATA:
            result[key] = value
        elif key != "title":
            result[key] = _without_titles(value)
    return result
