"""The messages of a chat completion, as a dialect has them (OpenAI API, "Chat").

What servers give to be given back is a member of a message or of a call:

* `reasoning_content` (DeepSeek, "Thinking mode"; Kimi, "Thinking models"): without it both refuse
  an assistant's message that has calls, and DeepSeek the answer after these as well. Where there is
  none, because another model made the message, any text will do.
* `extra_content` of a call, with Google's `thought_signature` (Gemini API, "Thought signatures"):
  wanted with the first call of a message; for calls that Gemini did not make the same page has a
  signature that is not checked.

* `reasoning_details` (OpenRouter, "Reasoning tokens"): all of that, for the models behind it.

A server gets back what it gave, unless it has refused that. What a client sends may say nothing of
where it came from; then it goes to a model whose dialect wants it.
"""

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from events import ReasoningBlock
from llm.dialects import Dialect
from llm.history import NINE, Spoken, normalized
from messages import (
    AssistantMessage,
    Content,
    ImageContent,
    Message,
    TextContent,
    ToolCall,
    ToolMessage,
    UserMessage,
)

KIND = "openai"
"""The kind of the servers that read one another's reasoning, where their dialect has any."""
NO_REASONING = "(not known)"
UNSIGNED = {"google": {"thought_signature": "skip_thought_signature_validator"}}

# The ids that stay as they are; OpenAI refuses longer ones.
_IDS = {"nine": NINE, "any": re.compile(".{1,40}", re.DOTALL), "functions": None}
_OF_MESSAGE = frozenset({"reasoning_content", "reasoning_details"})
_OF_CALL = frozenset({"extra_content"})

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def chat_messages(
    messages: Iterable[Message], dialect: Dialect, source: str
) -> list[dict[str, Any]]:
    """Return a conversation as a request has it. `source`: names the server that is asked."""
    history = normalized(messages, _IDS[dialect.call_ids])
    said = [_message(message, dialect, source) for message in history.messages]
    if history.instructions:
        return [{"role": "system", "content": history.instructions}, *said]
    return said


def _message(message: Spoken, dialect: Dialect, source: str) -> dict[str, Any]:
    match message:
        case UserMessage(content, parts, name):
            said = {"role": "user", "content": [_part(part) for part in parts] or content}
            return said if name is None else {**said, "name": name}
        case ToolMessage(id, _, content):
            return {"role": "tool", "tool_call_id": id, "content": content}
        case AssistantMessage(content, calls, reasoning):
            answer: dict[str, Any] = {"role": "assistant", "content": content or None}
            if calls:
                answer["tool_calls"] = _calls(calls, dialect, source)
            if dialect.echo == "reasoning_content":
                answer["reasoning_content"] = NO_REASONING
            if reasoning:
                answer |= _given(reasoning, _OF_MESSAGE, dialect, source)
            return answer


def _part(part: Content) -> dict[str, Any]:
    match part:
        case TextContent(text):
            return {"type": "text", "text": text}
        case ImageContent(url, detail):
            image = {"url": url} if detail is None else {"url": url, "detail": detail}
            return {"type": "image_url", "image_url": image}


def _calls(calls: Iterable[ToolCall], dialect: Dialect, source: str) -> list[dict[str, Any]]:
    made = [_call(call, dialect, source) for call in calls]
    if dialect.echo == "extra_content":
        made[0].setdefault("extra_content", UNSIGNED)
    return made


def _call(call: ToolCall, dialect: Dialect, source: str) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    made = {"id": call.id, "type": "function", "function": function}
    if call.reasoning is None:
        return made
    return made | _given((call.reasoning,), _OF_CALL, dialect, source)


def _given(
    blocks: Iterable[ReasoningBlock], names: frozenset[str], dialect: Dialect, source: str
) -> dict[str, msgspec.Raw]:
    """Return the members, of these names, that the server wants back."""
    members: dict[str, msgspec.Raw] = {}
    if dialect.echo == "nothing":
        return members
    for block in blocks:
        wanted = names if block.provider == source else names & {dialect.echo}
        if wanted and block.provider in (source, KIND):
            found = _members(block.data)
            members |= {name: found[name] for name in wanted & found.keys()}
    return members
