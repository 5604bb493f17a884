"""What the demo answers: a pure function from a request to a text or to tool calls.

In this order: results of tools are phrased; a tool that the message names is called; questions
about the conversation are answered from it; plain asks become calls; statements are
acknowledged; then small talk; and for the rest an honest word on what the demo is.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from llm.demo.recall import acknowledge, recall
from llm.demo.results import phrase_results
from llm.demo.talk import Turn, fallback, no_tool, nothing_asked, small_talk, what_for
from llm.demo.understanding import ARGUMENTS, MAX_CHARS, Ask, asks, last_wish
from messages import (
    AssistantMessage,
    Message,
    ModelRequest,
    ToolCall,
    ToolMessage,
    UserMessage,
    clean_text,
    new_id,
)

_HISTORY = 6
"""How many messages of the user are read for what "and in Rome?" goes on with."""

_HISTORY_CHARS = 500
_BY_NAME = re.compile(
    r"\b(?:call|use|run|invoke|execute)\s+(?:the\s+)?(?:tool\s+|function\s+)?`?([\w.-]{1,64})`?"
    r"(?:\s+(?:tool|function))?(?:\s*(?:with|:))?\s*(?:the\s+)?(?:arguments?\s*)?[`(]*",
    re.IGNORECASE,
)


class Reply(NamedTuple):
    """One turn of the demo: a text, or else calls."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()


def reply_to(request: ModelRequest) -> Reply:
    """Return the demo's answer to the last message of `request`; its text is never empty."""
    messages = request.messages
    tools = [tool.name for tool in request.tools]
    last = messages[-1] if messages else None
    if isinstance(last, ToolMessage):
        return Reply(clean_text(_after_tools(messages, tools)))
    if not isinstance(last, UserMessage):
        return Reply(nothing_asked())
    calls, text = _wishes(messages, tools)
    if calls:
        return Reply(calls=calls)
    return Reply(clean_text(text or _talk(messages, last, tools)))


def _wishes(messages: Sequence[Message], tools: Sequence[str]) -> tuple[tuple[ToolCall, ...], str]:
    """Return the calls that the last user message asks for, and what to say of the others."""
    said = [m.content for m in messages if isinstance(m, UserMessage)]
    if named := _named_call(said[-1], tools):
        return (named,), ""
    before = [text[:_HISTORY_CHARS] for text in said[-1 - _HISTORY : -1]]
    wishes = asks(said[-1], last_wish(before))
    calls = tuple(
        _call(wish.tool, wish.arguments)
        for wish in wishes
        if wish.tool in tools and wish.arguments is not None
    )
    return calls, _unserved(wishes, tools)


def _unserved(wishes: Sequence[Ask], tools: Sequence[str]) -> str:
    parts = [
        what_for(wish.tool) if wish.tool in tools else no_tool(wish.tool)
        for wish in wishes
        if wish.tool not in tools or wish.arguments is None
    ]
    return "\n\n".join(dict.fromkeys(parts))


def _call(name: str, arguments: dict[str, Any]) -> ToolCall:
    return ToolCall(new_id("call"), name, json.dumps(arguments, ensure_ascii=False))


def _named_call(text: str, tools: Sequence[str]) -> ToolCall | None:
    """Read "call roll_dice with {"sides": 6}"; a tool of plain English needs its arguments."""
    for match in _BY_NAME.finditer(text[:MAX_CHARS]):
        if match[1] in tools:
            following = text[match.end() :]
            arguments = _leading_object(following)
            is_bare = match[1] not in ARGUMENTS and not following[:MAX_CHARS].strip(" `(){}.!?")
            if arguments or is_bare:
                return _call(match[1], arguments or {})
    return None


def _leading_object(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(text[:MAX_CHARS])
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _after_tools(messages: Sequence[Message], tools: Sequence[str]) -> str:
    """Phrase the results at the end, and answer what else the user asked for."""
    start = len(messages)
    while start and isinstance(messages[start - 1], ToolMessage):
        start -= 1
    asked = messages[start - 1] if start else None
    calls = asked.tool_calls if isinstance(asked, AssistantMessage) else ()
    by_id = {call.id: call for call in calls}
    results = [
        (by_id.get(m.tool_call_id), m) for m in messages[start:] if isinstance(m, ToolMessage)
    ]
    parts = [phrase_results(results)]
    if any(isinstance(message, UserMessage) for message in messages):
        parts += [_wishes(messages, tools)[1], recall(messages) or ""]
    return "\n\n".join(part for part in parts if part)


def _talk(messages: Sequence[Message], last: UserMessage, tools: Sequence[str]) -> str:
    number = sum(isinstance(message, UserMessage) for message in messages)
    turn = Turn(" ".join(last.content[:MAX_CHARS].split()), number, tools)
    return recall(messages) or acknowledge(last.content) or small_talk(turn) or fallback(turn)
