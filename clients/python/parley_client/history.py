"""What was said in a conversation, as answers: those that are stored, and places for the others."""

import json
from dataclasses import dataclass, field
from typing import Any

from parley_client.answer import Answer, Call, Words
from parley_client.views import Conversation, Message


@dataclass(eq=False)
class Exchange:
    """What the user said and what was answered.

    Attributes:
        question: None for another answer to the same one, and for one that was left out.
        is_under_way: the answer is being made or waits; `follow(run_id)` gives all of it.
    """

    question: str | None
    run_id: str | None = None
    answer: Answer = field(default_factory=Answer)
    is_under_way: bool = False


def exchanges(conversation: Conversation) -> list[Exchange]:
    """Return what was said, in order.

    What the run under way has stored comes again from its log, so of that only the user's message
    is taken.
    """
    found: list[Exchange] = []
    active = conversation.active_run_id
    for message in conversation.messages:
        if message.role == "user":
            found.append(Exchange(message.content, message.run_id))
        elif active is None or message.run_id != active:
            if not found:
                found.append(Exchange(None, message.run_id))
            _add(found[-1].answer, message)
    if active is not None:
        if not found or found[-1].answer.parts:
            found.append(Exchange(None))
        found[-1].run_id, found[-1].is_under_way = active, True
    for waiting in conversation.waiting:
        found.append(Exchange(waiting.message, waiting.run_id, is_under_way=True))
    return found


def _add(answer: Answer, message: Message) -> None:
    if message.role == "tool":
        for part in answer.parts:
            if isinstance(part, Call) and part.id == message.tool_call_id:
                _finish(part, message)
        return
    if message.content:
        answer.parts.append(Words(message.content, message_id=message.id))
    for asked in message.tool_calls or ():
        answer.parts.append(Call(asked.id, asked.name, _decoded(asked.arguments), "done"))


def _finish(call: Call, result: Message) -> None:
    call.duration_ms = result.duration_ms
    if result.is_error:
        call.state, call.error = "failed", result.content.removeprefix("Error: ")
    else:
        call.result = _decoded(result.content)


def _decoded(value: Any) -> Any:
    """Return the value of a JSON text, and any other as it is."""
    try:
        return json.loads(value)
    except (TypeError, ValueError):
        return value
