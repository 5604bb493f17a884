"""What the demo answers: a pure function from a request to a text or to tool calls.

In this order: results of tools are phrased, wishes become calls, questions about the conversation
are answered from it, statements are acknowledged; then small talk, or a word on what the demo is.
"""

import json
import re
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from demo.recall import acknowledge, recall
from demo.results import phrase_results
from demo.talk import NOTHING_ASKED, WHAT_FOR, talk
from demo.wishes import ARGUMENTS, MAX_CHARS, wishes
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

_BY_NAME = re.compile(
    r"(?i)\b(?:call|use|run|invoke|execute) (?:the )?(?:tool |function )?`?([\w.-]{1,64})`?"
    r"(?: tool| function)?:?(?: with)?(?: the)?(?: arguments?)? ?[`(]{0,3}"
)


def reply_to(request: ModelRequest) -> str | tuple[ToolCall, ...]:
    """Return the demo's answer to the last message of `request`: never empty."""
    messages = request.messages
    tools = [tool.name for tool in request.tools]
    last = messages[-1] if messages else None
    if isinstance(last, ToolMessage):
        return clean_text(_after_tools(messages, tools))
    if not isinstance(last, UserMessage):
        return NOTHING_ASKED
    calls, text = _calls(messages, tools)
    return calls or clean_text(text or _talk(messages, last, tools))


def _calls(messages: Sequence[Message], tools: Sequence[str]) -> tuple[tuple[ToolCall, ...], str]:
    """Return the calls that the last user message asks for, and what to say of other wishes."""
    said = [message.content for message in messages if isinstance(message, UserMessage)]
    if named := _named_call(said[-1][:MAX_CHARS], tools):
        return (named,), ""
    calls, unserved = [], []
    for wish in wishes(said):
        if wish.tool not in tools:
            unserved.append(f"This agent does not have the tool `{wish.tool}`, so I can't do that.")
        elif arguments := wish.arguments:
            calls.append(_call(wish.tool, arguments))
        else:
            unserved.append(WHAT_FOR[wish.tool])
    return tuple(calls), "\n\n".join(dict.fromkeys(unserved))


def _call(name: str, arguments: dict[str, Any]) -> ToolCall:
    return ToolCall(new_id("call"), name, json.dumps(arguments, ensure_ascii=False))


def _named_call(text: str, tools: Sequence[str]) -> ToolCall | None:
    """Read "call roll_dice with {"sides": 6}"; a tool of plain English needs its arguments."""
    for match in filter(lambda match: match[1] in tools, _BY_NAME.finditer(text)):
        following = text[match.end() :]
        if match[1] not in ARGUMENTS and not following.strip(" `(){}.!?"):
            return _call(match[1], {})
        try:
            value, _ = json.JSONDecoder().raw_decode(following)
        except (ValueError, RecursionError):
            continue
        if value and isinstance(value, dict):
            return _call(match[1], value)
    return None


def _after_tools(messages: Sequence[Message], tools: Sequence[str]) -> str:
    """Phrase the results at the end, and answer what else the user asked for."""
    calls = {c.id: c for m in messages if isinstance(m, AssistantMessage) for c in m.tool_calls}
    latest = takewhile(lambda message: isinstance(message, ToolMessage), reversed(messages))
    results = [(calls.get(m.tool_call_id), m) for m in latest if isinstance(m, ToolMessage)]
    parts = [phrase_results(results[::-1])]
    if any(isinstance(message, UserMessage) for message in messages):
        parts += [_calls(messages, tools)[1], recall(messages) or ""]
    return "\n\n".join(filter(None, parts))


def _talk(messages: Sequence[Message], last: UserMessage, tools: Sequence[str]) -> str:
    number = sum(isinstance(message, UserMessage) for message in messages)
    text = " ".join(last.content[:MAX_CHARS].replace("’", "'").split())
    return recall(messages) or acknowledge(last.content) or talk(text, number, tools)
