"""What OpenAI refuses: the rules that the messages of a chat completion must keep.

An assistant message's tool calls need exactly one tool message each, before any other message;
a tool message answers a call of the message before it. Arguments must be a JSON object: OpenAI
itself does not look, but vLLM and others that read its wire answer 400, for ever, to a history
that holds anything else. The wording and the shape are OpenAI's where it has them.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

_ROLES = ("system", "assistant", "user", "function", "tool", "developer")


_NAME = re.compile("[a-zA-Z0-9_-]+")


class Refusal(Exception):
    """OpenAI would answer 400 to this request, and say this."""

    def __init__(self, message: str, param: str, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


def fault_of(body: Mapping[str, Any]) -> Refusal | None:
    """Return why the request's messages are not acceptable, or None."""
    try:
        _check_messages(body.get("messages"))
    except Refusal as refusal:
        return refusal
    return None


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list):
        raise Refusal("Missing required parameter: 'messages'.", "messages", "missing_parameter")
    if not messages:
        expected = "Expected an array with minimum length 1, but got an empty array instead."
        raise Refusal(f"Invalid 'messages': empty array. {expected}", "messages", "empty_array")
    open_calls: dict[str, int | None] = {}  # the last batch: where each id was answered
    for at, message in enumerate(messages):
        role = message.get("role")
        if role not in _ROLES:
            known = ", ".join(f"'{name}'" for name in _ROLES[:-1])
            raise Refusal(
                f"Invalid value: '{role}'. Supported values are: {known}, and '{_ROLES[-1]}'.",
                f"messages[{at}].role",
                "invalid_value",
            )
        if role == "tool":
            _check_result(message, at, open_calls)
            continue
        _check_answered(open_calls)
        _check_content(message, at)
        open_calls = {call["id"]: None for call in _checked_calls(message, at)}
    _check_answered(open_calls)


def _check_result(message: Mapping[str, Any], at: int, open_calls: dict[str, int | None]) -> None:
    call_id = message.get("tool_call_id")
    if call_id not in open_calls:
        raise Refusal(
            "Invalid parameter: messages with role 'tool' must be a response to a preceeding "
            "message with 'tool_calls'.",
            f"messages.[{at}].role",
        )
    if (before := open_calls[call_id]) is not None:
        raise Refusal(
            f"Invalid parameter: Duplicate value for 'tool_call_id' of '{call_id}', in "
            f"messages[{before}] and messages[{at}].",
            f"messages.[{at}].tool_call_id",
        )
    _check_content(message, at)
    open_calls[call_id] = at


def _check_answered(open_calls: Mapping[str, int | None]) -> None:
    missing = [call_id for call_id, answered in open_calls.items() if answered is None]
    if missing:
        raise Refusal(
            "An assistant message with 'tool_calls' must be followed by tool messages responding "
            "to each 'tool_call_id'. The following tool_call_ids did not have response messages: "
            + ", ".join(missing),
            "messages",
        )


def _check_content(message: Mapping[str, Any], at: int) -> None:
    content = message.get("content")
    if content is None and not message.get("tool_calls"):
        raise Refusal(
            "Invalid value for 'content': expected a string, got null.", f"messages.[{at}].content"
        )
    if content is not None and not isinstance(content, str | list):
        kind = type(content).__name__
        raise Refusal(
            f"Invalid type for 'messages[{at}].content': expected one of a string or array of "
            f"objects, but got {kind} instead.",
            f"messages[{at}].content",
            "invalid_type",
        )


def _checked_calls(message: Mapping[str, Any], at: int) -> list[dict[str, Any]]:
    wanted = message.get("tool_calls")
    if wanted is None:
        return []
    where = f"messages[{at}].tool_calls"
    if message["role"] != "assistant" or not wanted:
        raise Refusal(
            f"Invalid '{where}': empty array. Expected an array with minimum length 1, but got an "
            "empty array instead.",
            where,
            "empty_array",
        )
    seen = set()
    for index, call in enumerate(wanted):
        if call["id"] in seen:
            raise Refusal(f"Duplicate tool call id '{call['id']}' in {where}.", where)
        seen.add(call["id"])
        _check_call(call, f"{where}[{index}]")
    return list(wanted)


def _check_call(call: Mapping[str, Any], where: str) -> None:
    if len(call["id"]) > 40:
        raise Refusal(
            f"Invalid '{where}.id': string too long. Expected a string with maximum length 40, "
            f"but got a string with length {len(call['id'])} instead.",
            f"{where}.id",
            "string_above_max_length",
        )
    name = call["function"]["name"]
    if not _NAME.fullmatch(name):
        raise Refusal(
            f"Invalid '{where}.function.name': string does not match pattern. Expected a string "
            "that matches the pattern '^[a-zA-Z0-9_-]+$'.",
            f"{where}.function.name",
            "invalid_value",
        )
    try:
        arguments = json.loads(call["function"]["arguments"], parse_constant=_not_json)
    except (ValueError, TypeError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise Refusal(
            f"Invalid '{where}.function.arguments': arguments must be a valid JSON object string.",
            f"{where}.function.arguments",
        )


def _not_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
