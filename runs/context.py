"""What a model gets to see of a conversation, and what the conversation is called."""

import re
from collections.abc import Sequence

from messages import AssistantMessage, Message, SystemMessage, ToolMessage, UserMessage
from runs.run import Limits, Run
from storage.store import Store

TITLE_CHARS = 60

_SENTENCE_END = re.compile(r"(?<=.{14}[!?])\s|(?<=.{11}\w{3}\.)\s")

_MESSAGE_TOKENS = 4
_TOKEN_BYTES = 4
"""What a token is taken to be: no tokenizer is exact for every model, and this one is fast."""


class Contexts:
    """Reads what a model gets to see."""

    def __init__(self, store: Store, limits: Limits) -> None:
        self._store = store
        self._limits = limits

    async def of(self, run: Run) -> tuple[Message, ...]:
        """Return it for a run whose messages are in its conversation.

        It begins with a user's message, however long ago that was; a client that decides what the
        model sees gets all that it sent.

        Raises:
            storage.StorageUnavailable: the conversation cannot be read now.
        """
        request, limits = run.request, self._limits
        rules = [SystemMessage(text) for text in request.instructions]
        if request.is_whole:
            return (*rules, *request.history, *await self._said(run, None))
        newest = await self._newest(run)
        if run.stored.replaces and not (run.resumed and await self._store.run_messages(run.stored)):
            newest = up_to_user(newest)
        seen = window([*request.history, *newest], limits.history_messages, limits.history_tokens)
        return (*rules, *seen)

    async def _newest(self, run: Run) -> list[Message]:
        """Return as many messages as a model may see, or more, with a user's one among them."""
        many = self._limits.history_messages
        while True:
            newest = await self._said(run, many)
            if len(newest) < many or any(isinstance(each, UserMessage) for each in newest):
                return newest
            many *= 4

    async def _said(self, run: Run, many: int | None) -> list[Message]:
        """Return the newest messages of the conversation; those of a new one are known."""
        if run.is_new:
            return [*run.request.messages]
        stored = run.stored
        return await self._store.context(stored.owner, stored.conversation_id, many)


def up_to_user(messages: list[Message]) -> list[Message]:
    """Return messages without those after the last one of the user."""
    users = [at for at, each in enumerate(messages) if isinstance(each, UserMessage)]
    return messages[: users[-1] + 1] if users else []


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
    A full stop after one or two letters ends an abbreviation or a number, not a sentence.
    """
    line = " ".join(text[: 20 * TITLE_CHARS].split())
    sentence = _SENTENCE_END.split(line, maxsplit=1)[0]
    if len(sentence) <= TITLE_CHARS:
        return sentence.rstrip(".") or sentence or None
    cut = sentence[:TITLE_CHARS].rsplit(" ", 1)[0]
    return cut.rstrip(",;:-") + "…"
