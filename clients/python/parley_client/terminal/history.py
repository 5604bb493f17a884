"""What was said in a conversation, as the parts of answers.

So that each thing is shown once: of the run that is under way only the user's message is taken
from here, the rest is told by its events.
"""

from parley_client import Conversation, Message
from parley_client.terminal.answer import Call, Part, Words
from parley_client.terminal.clean import arguments_shown, clean, one_line, shown


def parts_of(conversation: Conversation) -> list[tuple[str, list[Part]]]:
    """Return each message of the user, and what was answered."""
    said: list[tuple[str, list[Part]]] = []
    calls: dict[str, Call] = {}
    for message in conversation.messages:
        if message.role == "user":
            said.append((clean(message.content), []))
        elif message.run_id != conversation.active_run_id or message.run_id is None:
            if not said:
                said.append(("", []))  # its question is among the messages left out
            said[-1][1].extend(_parts(message, calls))
    return said


def _parts(message: Message, calls: dict[str, Call]) -> list[Part]:
    if message.role == "tool":
        _finish(calls.get(message.tool_call_id or ""), message)
        return []
    parts: list[Part] = []
    if message.content:
        parts.append(Words(clean(message.content), message_id=message.id))
    for asked in message.tool_calls or ():
        call = Call(asked.id, one_line(asked.name), arguments_shown(asked.arguments), "done")
        calls[asked.id] = call
        parts.append(call)
    return parts


def _finish(call: Call | None, result: Message) -> None:
    if call is not None:
        call.state = "failed" if result.is_error else "done"
        call.note = shown(result.content)
        call.duration_ms = result.duration_ms
