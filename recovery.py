"""Going on after a crash: what is told again of a run whose log is lost.

The turns that were stored become events once more, so that the log of the new epoch has the
state so far. What storage does not have is not made up: durations are 0, and a text comes as
one piece.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from events import (
    ChatChunk,
    CompletedCall,
    Event,
    FailedCall,
    StartedCall,
    ToolCallComplete,
    ToolCallError,
    ToolCallStart,
)
from models import AssistantMessage, Message, ToolCall, ToolMessage, new_id

MAX_EPOCHS = 4
"""How often a run is begun at most: one that brings the service down must not do so for ever.

A run that only waited is begun all the same."""


def told_again(messages: Sequence[Message]) -> Iterator[Event]:
    """Yield the events of stored turns."""
    results = {each.tool_call_id: each for each in messages if isinstance(each, ToolMessage)}
    for message in messages:
        if isinstance(message, AssistantMessage):
            yield from _turn(message, results.get)


def _turn(
    message: AssistantMessage, result_of: Callable[[str], ToolMessage | None]
) -> Iterator[Event]:
    message_id = new_id("msg")
    if message.content:
        yield ChatChunk(message_id=message_id, content=message.content)
    for call in message.tool_calls:
        result = result_of(call.id)
        if result is not None:
            yield from _call(message_id, call, result)


def _call(message_id: str, call: ToolCall, result: ToolMessage) -> Iterable[Event]:
    arguments = _json(call.arguments)
    if result.is_error:
        failed = FailedCall(
            id=call.id,
            name=call.name,
            arguments=arguments,
            code="failed",
            error=result.content.removeprefix("Error: "),
            duration_ms=0.0,
        )
        return (ToolCallError(message_id=message_id, tool_call=failed),)
    started = StartedCall(id=call.id, name=call.name, arguments=arguments)
    completed = CompletedCall(
        id=call.id,
        name=call.name,
        arguments=arguments,
        result=_json(result.content),
        duration_ms=0.0,
        truncated=False,
    )
    return (
        ToolCallStart(message_id=message_id, tool_call=started),
        ToolCallComplete(message_id=message_id, tool_call=completed),
    )


def _json(text: str) -> object:
    """Return the JSON in `text`, or the text where it is none."""
    try:
        value: object = msgspec.json.decode(text) if text.strip() else {}
    except (ValueError, RecursionError):
        return text
    return value
