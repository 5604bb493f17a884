"""What servers refuse that speak OpenAI's chat completions: the union of their rules.

Each rule is one of a server that people use, and its wording is that server's where it has one:

* OpenAI: an assistant message's calls need exactly one tool message each, before any other message.
* vLLM and others that read its wire: arguments are a JSON object.
* Qwen 3.5's chat template: one system message, at the beginning. `developer` is OpenAI's alone.
* Mistral's API and templates, Gemma's templates: a user begins, users and assistants alternate, an
  assistant speaks after the results of its calls, and a user or a tool is last; ids of calls are
  nine letters and digits; members of a message that it does not know are refused.
* Kimi, Mistral: no blank assistant message. Anthropic, Gemini, behind gateways: no blank text at
  all, no id and no tool twice.

What a server gives to be given back (`reasoning_content`, `extra_content`) is a member that only
this server knows.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

_MEMBERS = {
    "system": {"role", "content"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "tool_calls"},
    "tool": {"role", "content", "tool_call_id"},
}
_NEXT = {
    "system": {"user"},
    "user": {"assistant"},
    "assistant": {"user"},
    "calls": {"tool"},
    "tool": {"tool", "assistant"},
}
_NAME = re.compile("[a-zA-Z0-9_-]{1,64}")
_ID = re.compile("[a-zA-Z0-9]{9}")
_USER = re.compile(r"[^\s<|\\/>]{1,64}")


class Refusal(Exception):
    """A server would answer 400 to this request, and say this."""

    def __init__(self, message: str, param: str, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


def fault_of(body: Mapping[str, Any], knows: Collection[str] = ()) -> Refusal | None:
    """Return why a request is not acceptable to the strictest server, or None.

    `knows`: members of messages and calls that the server has given before.
    """
    try:
        _check_tools(body.get("tools", ()))
        _check_messages(body.get("messages"), {*knows})
    except Refusal as refusal:
        return refusal
    return None


def _require(is_met: Any, message: str, param: str, code: str | None = None) -> None:
    if not is_met:
        raise Refusal(message, param, code)


def _check_tools(tools: Sequence[Mapping[str, Any]]) -> None:
    names = [tool["function"]["name"] for tool in tools]
    for at, name in enumerate(names):
        _check_name(name, f"tools[{at}].function.name")
        _require(names.count(name) == 1, "Tool names must be unique.", f"tools[{at}].function.name")


def _check_messages(messages: Any, knows: set[str]) -> None:
    where = "messages"
    missing = "Missing required parameter: 'messages'."
    _require(isinstance(messages, list), missing, where, "missing_parameter")
    _require(messages, "Invalid 'messages': empty array.", where, "empty_array")
    before, open_calls, taken = "", list[str](), set[str]()
    for at, message in enumerate(messages):
        where = f"messages[{at}]"
        role = message.get("role")
        _check_place(role, before, at)
        extra = {*message} - _MEMBERS[role] - knows
        _require(not extra, f"Extra inputs are not permitted: {extra}", where)
        _check_content(message, where)
        _check_user(message, where)
        before = "calls" if message.get("tool_calls") is not None else role
        if role == "tool":
            open_calls = _answered(message, open_calls, where)
            continue
        _check_answered(open_calls)
        open_calls = _checked_calls(message, where, taken, knows)
    _check_answered(open_calls)
    words = f"Expected last role User or Tool for serving but got {before}"
    _require(before in ("user", "tool"), words, where)


def _check_place(role: Any, before: str, at: int) -> None:
    where = f"messages[{at}].role"
    known = ", ".join(f"'{name}'" for name in _MEMBERS)
    words = f"Invalid value: '{role}'. Supported values are: {known}."
    _require(role in _MEMBERS, words, where, "invalid_value")
    if role == "system":
        _require(at == 0, "System message must be at the beginning.", where)
        return
    if role == "tool":
        words = (
            "Invalid parameter: messages with role 'tool' must be a response to a preceeding "
            "message with 'tool_calls'."
        )
        _require(before in ("calls", "tool"), words, where)
        return
    if before == "calls":
        return  # the calls have no results, which says more
    words = f"Unexpected role '{role}' after role '{before}'"
    if before in ("user", "assistant"):
        words = "Conversation roles must alternate user/assistant/user/assistant/..."
    _require(role in _NEXT.get(before, {"user"}), words, where)


def _check_content(message: Mapping[str, Any], where: str) -> None:
    where = f"{where}.content"
    content = message.get("content")
    if content is None:
        words = "Invalid value for 'content': expected a string, got null."
        _require(message.get("tool_calls"), words, where)
        return
    kind = type(content).__name__
    words = f"Invalid type for '{where}': expected one of a string or array, but got {kind}."
    _require(isinstance(content, str | list), words, where, "invalid_type")
    _require(content, f"{where}: must not be empty", where)
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    for part in parts:
        is_blank = part["type"] == "text" and not part["text"].strip()
        words = f"the message at {where} with role '{message['role']}' must not be empty"
        _require(not is_blank, words, where)


def _check_user(message: Mapping[str, Any], where: str) -> None:
    name = message.get("name", "x")
    words = f"Invalid '{where}.name': expected a string that matches '{_USER.pattern}'."
    _require(_USER.fullmatch(name), words, f"{where}.name", "invalid_value")


def _answered(message: Mapping[str, Any], open_calls: list[str], where: str) -> list[str]:
    """Return the calls that have no result yet."""
    id = message.get("tool_call_id")
    words = f"Unexpected tool call id {id} in tool results"
    _require(id in open_calls, words, f"{where}.tool_call_id")
    return [each for each in open_calls if each != id]


def _check_answered(missing: Sequence[str]) -> None:
    words = (
        "An assistant message with 'tool_calls' must be followed by tool messages responding "
        "to each 'tool_call_id'. The following tool_call_ids did not have response messages: "
    )
    _require(not missing, words + ", ".join(missing), "messages")


def _checked_calls(
    message: Mapping[str, Any], where: str, taken: set[str], knows: set[str]
) -> list[str]:
    wanted = message.get("tool_calls")
    if wanted is None:
        return []
    where = f"{where}.tool_calls"
    _require(wanted, f"Invalid '{where}': empty array.", where, "empty_array")
    for index, call in enumerate(wanted):
        _check_call(call, f"{where}[{index}]", knows)
        words = f"Duplicate tool call id '{call['id']}' in {where}."
        _require(call["id"] not in taken, words, where)
        taken.add(call["id"])
    return [call["id"] for call in wanted]


def _check_call(call: Mapping[str, Any], where: str, knows: set[str]) -> None:
    extra = {*call} - {"id", "type", "function"} - knows
    _require(not extra, f"Extra inputs are not permitted: {extra}", where)
    words = f"Tool call id was {call['id']} but must be a-z, A-Z, 0-9, with a length of 9."
    _require(_ID.fullmatch(call["id"]), words, f"{where}.id")
    _check_name(call["function"]["name"], f"{where}.function.name")
    try:
        arguments = json.loads(call["function"]["arguments"], parse_constant=_not_json)
    except (ValueError, TypeError, RecursionError):
        arguments = None
    words = f"Invalid '{where}.function.arguments': must be a valid JSON object string."
    _require(isinstance(arguments, dict), words, f"{where}.function.arguments")


def _check_name(name: str, where: str) -> None:
    words = f"Invalid '{where}': expected a string that matches '^{_NAME.pattern}$'."
    _require(_NAME.fullmatch(name), words, where, "invalid_value")


def _not_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
