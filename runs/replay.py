"""What is replayed of a run whose log is lost: after a crash, or when it has expired.

The turns that were stored become events once more. After a crash they are what the log of the new
epoch begins with; of a run that has ended they are, between its start and its end, what a reader
gets that comes too late. What storage does not have is not made up: a text comes as one piece.
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from events import (
    AgentUpdated,
    ChatChunk,
    ChatComplete,
    ChatStart,
    CompletedCall,
    Event,
    FailedCall,
    Reset,
    StartedCall,
    TerminalEvent,
    ToolCallComplete,
    ToolCallError,
    ToolCallStart,
    stamped,
)
from hub import parse_cursor
from hub.replay import ReplayReader
from messages import AssistantMessage, Message, ToolCall, ToolMessage, new_id

MAX_EPOCHS = 4
"""How often a run is begun at most: one that brings the service down must not do so for ever.

A run that only waited is begun all the same, and one that a service suspended as it stopped does
not count that time."""


def replayed(messages: Sequence[Message], agent: str) -> Iterator[Event]:
    """Yield the events of stored turns. `agent` is the one that began."""
    results = {each.tool_call_id: each for each in messages if isinstance(each, ToolMessage)}
    for message in messages:
        if isinstance(message, AssistantMessage):
            made = [(call, results[call.id]) for call in message.tool_calls if call.id in results]
            yield from _turn(message.content, made, agent)
            agent = next(iter(successors(result for _, result in made)), agent)


def successors(messages: Iterable[Message]) -> list[str]:
    """Return the agents that took over, in order."""
    results = [each for each in messages if isinstance(each, ToolMessage)]
    return [each.successor for each in results if each.successor is not None]


def replay_of(
    start: ChatStart,
    terminal: TerminalEvent,
    messages: Sequence[Message],
    *,
    epoch: int,
    after: str | None,
) -> ReplayReader:
    """Return a reader of a run that has ended: a reset, its start, its turns and its end.

    Where its turns are gone, its answer is one piece.

    Raises:
        hub.InvalidCursor: `after` is none of this run's.
    """
    middle = [*replayed(messages, start.agent)]
    answer = terminal.final_response if isinstance(terminal, ChatComplete) else ""
    if answer and not middle:
        middle = [ChatChunk(message_id=start.message_id, content=answer)]
    # More may be stored than was in the log: a run that was resumed may have ended at once.
    end = stamped(terminal, start.run_id, max(terminal.seq, len(middle) + 2))
    if after is not None:
        of_epoch, seq = parse_cursor(after, start.run_id)
        if of_epoch in (None, epoch) and seq >= end.seq:
            return ReplayReader([], epoch)
    reset = Reset(run_id=start.run_id, epoch=epoch, reason="log_expired")
    said = [stamped(event, start.run_id, seq) for seq, event in enumerate(middle, 2)]
    return ReplayReader([reset, start, *said, end], epoch)


def _turn(text: str, made: Iterable[tuple[ToolCall, ToolMessage]], agent: str) -> Iterator[Event]:
    message_id = new_id("msg")
    if text:
        yield ChatChunk(message_id=message_id, content=text)
    for call, result in made:
        if result.successor is None:
            yield from _call(message_id, call, result)
    for successor in successors(result for _, result in made):
        yield AgentUpdated(message_id=message_id, agent=successor, previous_agent=agent)


def _call(message_id: str, call: ToolCall, result: ToolMessage) -> Iterable[Event]:
    arguments = _json(call.arguments)
    started = StartedCall(
        id=call.id, name=call.name, arguments=arguments, started_at=result.started_at
    )
    start = ToolCallStart(message_id=message_id, tool_call=started)
    if result.is_error:
        failed = FailedCall(
            id=call.id,
            name=call.name,
            arguments=arguments,
            code="failed",
            error=result.content.removeprefix("Error: "),
            duration_ms=result.duration_ms,
            started_at=result.started_at,
        )
        error = ToolCallError(message_id=message_id, tool_call=failed)
        return (error,) if result.started_at is None else (start, error)
    completed = CompletedCall(
        id=call.id,
        name=call.name,
        arguments=arguments,
        result=_json(result.content),
        duration_ms=result.duration_ms,
        truncated=False,
        started_at=result.started_at,
    )
    return (start, ToolCallComplete(message_id=message_id, tool_call=completed))


def _json(text: str) -> object:
    """Return the JSON in `text`, or the text where it is none."""
    try:
        value: object = msgspec.json.decode(text) if text.strip() else {}
    except (ValueError, RecursionError):
        return text
    return value
