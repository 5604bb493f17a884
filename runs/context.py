"""What a model gets to see of a conversation, and what the conversation is called."""

import re
from collections.abc import Sequence

from messages import AssistantMessage, Message, ToolMessage, UserMessage

TITLE_CHARS = 60

_SENTENCE_END = re.compile(r"(?<=.{14}[!?])\s|(?<=.{11}\w{3}\.)\s")

_MESSAGE_TOKENS = 4
_TOKEN_BYTES = 4
"""What a token is taken to be: no tokenizer is exact for every model, and this one is fast."""


def window(messages: Sequence[Message], limit: int, tokens: int) -> tuple[Message, ...]:
    """Return the newest messages that a model gets to see.

    That is at most `limit` messages of about `tokens` tokens in all, beginning with a user's
    message, so that no tool call is parted from its result. Where what follows the last message
    of the user is larger alone, it is that message and what follows.
    """
    start = len(messages)
    users = [at for at, message in enumerate(messages) if isinstance(message, UserMessage)]
    spent = 0
    for at in range(len(messages) - 1, -1, -1):
        spent += tokens_of(messages[at])
        if spent > tokens or len(messages) - at > limit:
            break
        start = at
    fitting = [at for at in users if at >= start]
    first = fitting[0] if fitting else users[-1] if users else len(messages)
    return tuple(messages[first:])


def tokens_of(message: Message) -> int:
    """Return about how many tokens a message takes."""
    size = len(message.content.encode(errors="replace"))
    if isinstance(message, AssistantMessage):
        size += sum(len(call.name) + len(call.arguments) for call in message.tool_calls)
    elif isinstance(message, ToolMessage):
        size += len(message.name)
    return _MESSAGE_TOKENS + size // _TOKEN_BYTES


def title_of(text: str) -> str | None:
    """Return a title for a conversation that begins with this message; None for a blank one.

    That is its first sentence, together with the next one where it is as short as a greeting.
    A full stop behind one or two letters ends an abbreviation or a number, not a sentence.
    """
    line = " ".join(text[: 20 * TITLE_CHARS].split())
    sentence = _SENTENCE_END.split(line, maxsplit=1)[0]
    if len(sentence) <= TITLE_CHARS:
        return sentence.rstrip(".") or sentence or None
    cut = sentence[:TITLE_CHARS].rsplit(" ", 1)[0]
    return cut.rstrip(",;:-") + "…"
