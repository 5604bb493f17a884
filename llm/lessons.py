"""What a refusal teaches about a model's dialect.

A server that does not know a parameter, or does not take its value, says so in its own words:
OpenAI and Azure name it as `param`, Mistral and vLLM as the `loc` of a fault, others in a
sentence only. All of these are texts of the error, so a rule is a pattern in them. A wrong guess
costs one request: what is learned counts only once the changed request was accepted.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

MAX_LEARNED = 256
"""Of how many models a provider remembers what it has learned."""

_MAX_TEXT = 4096
_UNKNOWN = (
    r"not support|unsupported|unknown|unrecogni[sz]ed|unexpected|extra_forbidden|"
    r"not (?:permitted|allowed|available|exist)|cannot find field|invalid (?:parameter|argument)|"
    r"extraneous|deprecated"
)
_MISSING = r"missing|required|passed back"
_FORM = (
    r"response_?format|response_?schema|json_schema|json_object|json mode|structured.outputs?|"
    r"grammar|guided|output_config|output.?format"
)

_BOUND = r"max_(?:\w+_)?tokens|completion tokens|output tokens|in the completion"
_TOO_HIGH = (
    r"too (?:large|high|long|big)|at most|maximum|exceed|greater than|less than|must be|limit|<="
)

_OTHER = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}


class Rule(NamedTuple):
    """A refusal in whose text each of `patterns` is found means that `field` is `value`."""

    patterns: tuple[str, ...]
    field: str
    value: Any


RULES = (
    Rule((r"stream_options|include_usage",), "stream_options", False),
    Rule((r"\btemperature\b",), "temperature", False),
    Rule((r"\btop_p\b",), "top_p", False),
    Rule((r"parallel_tool_calls",), "parallel_tool_calls", False),
    # Ollama, OpenRouter, Groq; vLLM and llama.cpp that were started without their options for it
    Rule(
        (
            r"support (?:the use of )?(?:tools|tool (?:use|calls|calling)|function)|"
            r"tools? (?:param|use|calling) (?:is not|requires)|\"auto\" tool choice requires",
        ),
        "tools",
        False,
    ),
    Rule((r"tool call id", r"length of 9"), "call_ids", "nine"),
    Rule((r"thought_?signature", _MISSING), "echo", "extra_content"),
    Rule((r"reasoning_content", _MISSING), "echo", "reasoning_content"),
    Rule((r"reasoning_content|extra_content", _UNKNOWN), "echo", "nothing"),
)


def refuses_the_bound(refusal: Any) -> bool:
    """Tell whether a refusal says that a reply may not be bounded so high.

    `refusal`: the body of the answer, of any shape; None where there is none.
    """
    return _says(refusal, _BOUND) and _says(refusal, _TOO_HIGH)


def refuses_the_form(refusal: Any) -> bool:
    """Tell whether a refusal is about the form that was demanded of an answer."""
    return _says(refusal, _FORM)


def lesson_of(refusal: Any, body: Mapping[str, Any], learned: Collection[str]) -> dict[str, Any]:
    """Return what a refusal says of the dialect, by the names of `llm.dialects.Dialect`.

    Args:
        refusal: the body of the answer, of any shape.
        body: of the request.
        learned: the fields in which the dialect was changed already for this request.
    """

    def says(pattern: str) -> bool:
        return _says(refusal, pattern)

    lesson = {rule.field: rule.value for rule in RULES if all(map(says, rule.patterns))}
    form = body.get("response_format")
    if form and says(_FORM):
        lesson[form["type"]] = False
    bound = next((name for name in _OTHER if name in body), None)
    # Only the bound's name is learned: a value that is too large is somebody's to set right.
    if bound and says(rf"\b{bound}\b") and says(_UNKNOWN):
        lesson["bound"] = "none" if "bound" in learned else _OTHER[bound]
    return lesson


def _says(refusal: Any, pattern: str) -> bool:
    text = " ".join(_texts(refusal))[:_MAX_TEXT]
    return re.search(pattern, text, re.IGNORECASE) is not None


def _texts(value: Any, depth: int = 8) -> Iterator[str]:
    """Yield the texts in JSON, the names of members included."""
    if isinstance(value, str):
        yield value
    elif depth and isinstance(value, Mapping):
        for name, each in value.items():
            yield str(name)
            yield from _texts(each, depth - 1)
    elif depth and isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each, depth - 1)
