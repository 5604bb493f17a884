"""What a model gets to see of a conversation, and what the conversation is called."""

import re
from collections.abc import Iterable, Sequence
from typing import TypeGuard

import msgspec

from messages import AssistantMessage, Message, SystemMessage, ToolMessage, UserMessage
from runs.run import Limits, Run
from storage.store import Store

TITLE_CHARS = 60

_SENTENCE_END = re.compile(r"(?<=.{14}[!?])\s|(?<=.{11}\w{3}\.)\s")

_RESULT_CHARS = 500
"""What stays of a result that is cut."""

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
        request = run.request
        rules = [SystemMessage(text) for text in request.instructions]
        if request.is_whole:
            return (*rules, *request.history, *await self._said(run, None))
        return (*rules, *await self._seen(run))

    async def _seen(self, run: Run) -> tuple[Message, ...]:
        """Return the newest exchanges, of as many messages as they have."""
        limit, tokens = self._limits.history_messages, self._limits.history_tokens
        goes_back = run.stored.replaces and not (
            run.resumed and await self._store.run_messages(run.stored)
        )
        many = limit + 1
        while True:
            newest = await self._said(run, many)
            is_all = len(newest) < many
            said = up_to_user(newest) if goes_back else newest
            seen = window([*run.request.history, *said] if is_all else said, limit, tokens)
            if is_all or len(seen) < sum(map(len, exchanges(said))):
                return seen
            many *= 2

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


def exchanges(messages: Iterable[Message]) -> list[list[Message]]:
    """Return each message of a user with all that follows it, from the first one on."""
    found: list[list[Message]] = []
    for message in messages:
        if isinstance(message, UserMessage):
            found.append([])
        if found:
            found[-1].append(message)
    return found


def window(messages: Iterable[Message], limit: int, tokens: int) -> tuple[Message, ...]:
    """Return the newest exchanges that a model gets to see: whole ones, and at least the last.

    Together they have at most `limit` messages, tool calls and their results not counted, and about
    `tokens` tokens. Where they would have more, what is cut first is the bulk of results, the old
    ones before the new ones.
    """
    said = [*messages]
    first = len(said)
    spoken = short = whole = size = 0
    for at in range(len(said) - 1, -1, -1):
        message = said[at]
        own = tokens_of(message)
        whole += own
        short += tokens_of(_cut(message)) if _is_large(message) else own
        spoken += _is_spoken(message)
        if first < len(said) and (spoken > limit or short > tokens):
            break
        if isinstance(message, UserMessage):
            first, size = at, whole
    seen = said[first:]
    return tuple(seen if size <= tokens else _fitted(seen, tokens))


def _is_spoken(message: Message) -> bool:
    if isinstance(message, AssistantMessage):
        return not message.tool_calls
    return not isinstance(message, ToolMessage)


def _fitted(messages: Sequence[Message], tokens: int) -> list[Message]:
    """Return messages with as many of the newest results whole as there is room for."""
    room = tokens - sum(tokens_of(_cut(message)) for message in messages)
    fitted: list[Message] = []
    for message in reversed(messages):
        short = _cut(message)
        bulk = tokens_of(message) - tokens_of(short)
        is_whole = bulk <= max(room, 0)
        room -= bulk if is_whole else 0
        fitted.append(message if is_whole else short)
    return fitted[::-1]


def _is_large(message: Message) -> TypeGuard[ToolMessage]:
    return isinstance(message, ToolMessage) and len(message.content) > _RESULT_CHARS


def _cut(message: Message) -> Message:
    """Return the beginning of a large result, marked as cut; anything else as it is."""
    if not _is_large(message):
        return message
    left = len(message.content) - _RESULT_CHARS
    content = f"{message.content[:_RESULT_CHARS]}… [{left} more characters were cut]"
    return msgspec.structs.replace(message, content=content)


def tokens_of(message: Message) -> int:
    """Return about how many tokens a message takes."""
    size = len(message.content.encode(errors="replace"))
    if isinstance(message, AssistantMessage):
        size += sum(len(call.name) + len(call.arguments) for call in message.tool_calls)
        size += sum(len(block.data) for block in message.reasoning)
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
