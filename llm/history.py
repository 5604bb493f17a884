"""A conversation as every provider takes it: pure functions of messages.

A stored conversation has what runs left that failed or were cancelled, what clients sent, and what
other providers made up. Each server refuses something else of that, and what it refuses once it
refuses for ever. So what is sent keeps the rules of the strictest, always:

* One system message, at the beginning, of all that there are (Qwen's chat templates).
* A user begins, users and assistants take turns, an assistant follows the results of its calls,
  and a user or a result is last (Mistral's API and templates, Gemma's templates; Anthropic).
* No text is blank (Anthropic, Gemini; of an assistant also Kimi and Mistral).
* A message's calls are followed by exactly one result each, in their order (all).
* Ids of calls are nine letters and digits (Mistral), and none comes twice (Anthropic). Names are
  letters, digits, `_` and `-`, at most 64, and arguments are a JSON object (OpenAI, vLLM).
* No tool comes twice (Anthropic, DeepSeek, Gemini).

A stand-in says what it stands for. What is replaced is replaced alike each time, so that a provider
finds the beginning of a request in its cache.
"""

import hashlib
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TypeAlias

import msgspec

from llm.tool_calls import sendable_arguments, sendable_name
from messages import (
    AssistantMessage,
    Content,
    Message,
    TextContent,
    ToolCall,
    ToolMessage,
    ToolSpec,
    UserMessage,
)

BLANK = "(blank)"
"""Stands for a text of a user or a tool that is blank, and for a question that is not there."""
NO_ANSWER = "(no answer)"
"""Stands between results and the next question, where the run ended before its answer."""
GO_ON = "(go on)"
"""Stands for the question where the assistant spoke last."""
NO_RESULT = "Error: The result of this call is not known."

NINE = re.compile("[a-zA-Z0-9]{9}")
"""The ids of calls that every provider takes."""

MAX_NAME = 64

_BETWEEN = "\n\n"
_NOT_IN_NAME = re.compile(r"[\s<|\\/>]")  # of a user (OpenAI, "Chat": `name`)


Spoken: TypeAlias = UserMessage | AssistantMessage | ToolMessage


class History(msgspec.Struct, frozen=True):
    """What is sent: instructions, empty where there are none, and at least one message."""

    instructions: str
    messages: list[Spoken]


def normalized(messages: Iterable[Message], ids: re.Pattern[str] | None = NINE) -> History:
    """Return a conversation that every provider takes.

    `ids`: those of calls that stay as they are; others become nine digits. None: all become
    `functions.<name>:<number>`, counted through the conversation.
    """
    rules: list[str] = []
    thread = _Thread(ids)
    for message in messages:
        if isinstance(message, ToolMessage):
            thread.take(message)
        elif isinstance(message, AssistantMessage):
            thread.answer(message)
        elif isinstance(message, UserMessage):
            thread.ask(message)
        elif not _is_blank(message.content):
            rules.append(message.content)
    return History(_BETWEEN.join(rules), thread.whole())


def once(tools: Iterable[ToolSpec]) -> list[ToolSpec]:
    """Return tools without those whose name one before has."""
    named: dict[str, ToolSpec] = {}
    for tool in tools:
        named.setdefault(tool.name, tool)
    return [*named.values()]


class _Thread:
    """The messages so far. The last calls wait for their results until something else is said.

    What one side says in a row becomes one message, once the other side speaks.
    """

    def __init__(self, ids: re.Pattern[str] | None) -> None:
        self._messages: list[Spoken] = []
        self._asked: list[UserMessage] = []
        self._answered: list[AssistantMessage] = []
        self._ids = ids
        self._taken: set[str] = set()
        self._waiting: list[tuple[str, ToolCall]] = []  # under the ids that they had
        self._results: defaultdict[str, deque[ToolMessage]] = defaultdict(deque)

    def ask(self, message: UserMessage) -> None:
        self._settle()
        if not self._asked:
            self._end_answer()
            if self._messages and isinstance(self._messages[-1], ToolMessage):
                self._messages.append(AssistantMessage(NO_ANSWER))
        self._asked.append(message)

    def answer(self, message: AssistantMessage) -> None:
        self._settle()
        content = "" if _is_blank(message.content) else message.content
        if not content and not message.tool_calls:
            return
        if not self._answered:
            self._end_question()
        calls = tuple([self._sendable(call) for call in message.tool_calls])
        self._answered.append(AssistantMessage(content, calls, message.reasoning))
        if calls:
            self._end_answer()

    def take(self, result: ToolMessage) -> None:
        """Take the result of a call; one that nobody waits for is left out."""
        if self._waiting:
            self._results[result.tool_call_id].append(result)

    def whole(self) -> list[Spoken]:
        self._settle()
        if self._answered:
            self._end_answer()
            self._messages.append(UserMessage(GO_ON))
        else:
            self._end_question()
        return self._messages

    def _settle(self) -> None:
        """Put the result of each call behind the calls."""
        if not self._waiting:
            return
        for id, call in self._waiting:
            there = self._results[id]
            self._messages.append(_result(call, there.popleft() if there else None))
        self._waiting.clear()
        self._results.clear()

    def _end_question(self) -> None:
        """Add what was asked; something is, before the assistant speaks first."""
        if self._asked:
            self._messages.append(_filled(_asked(self._asked)))
            self._asked.clear()
        elif not self._messages:
            self._messages.append(UserMessage(BLANK))

    def _end_answer(self) -> None:
        if self._answered:
            self._messages.append(_answered(self._answered))
            self._answered.clear()

    def _sendable(self, call: ToolCall) -> ToolCall:
        name = sendable_name(call.name, MAX_NAME)
        id = self._own_id(call.id, name)
        self._taken.add(id)
        sent = ToolCall(id, name, sendable_arguments(call.arguments), call.reasoning)
        self._waiting.append((call.id, sent))
        return sent

    def _own_id(self, id: str, name: str) -> str:
        """Return an id that no call before has."""
        taken = self._taken
        if self._ids is None:
            return f"functions.{name}:{len(taken)}"
        if id not in taken and self._ids.fullmatch(id):
            return id
        number = 0
        while (own := _digits(id, number)) in taken:
            number += 1
        return own


def _digits(id: str, number: int) -> str:
    """Return nine digits, the same ones for the same id and number."""
    return hashlib.sha256(f"{number}:{id}".encode(errors="replace")).hexdigest()[:9]


def _result(call: ToolCall, result: ToolMessage | None) -> ToolMessage:
    if result is None:
        return ToolMessage(call.id, call.name, NO_RESULT, is_error=True)
    content = BLANK if _is_blank(result.content) else result.content
    return ToolMessage(call.id, call.name, content, result.is_error)


def _asked(said: Sequence[UserMessage]) -> UserMessage:
    """Return messages as one; each user says who spoke where there are several."""
    users = [_of_one(name, [*each]) for name, each in groupby(said, lambda each: each.name)]
    return users[0] if len(users) == 1 else _of_one(None, [_signed(user) for user in users])


def _of_one(name: str | None, said: Sequence[UserMessage]) -> UserMessage:
    if len(said) == 1:
        return said[0]
    content = _BETWEEN.join(each.content for each in said if not _is_blank(each.content))
    has_parts = any(each.parts for each in said)
    parts = tuple(part for each in said for part in _parts(each)) if has_parts else ()
    return UserMessage(content, parts, name)


def _answered(said: Sequence[AssistantMessage]) -> AssistantMessage:
    """Return messages as one; only the last of them has calls."""
    if len(said) == 1:
        return said[0]
    content = _BETWEEN.join(each.content for each in said if each.content)
    reasoning = tuple(block for each in said for block in each.reasoning)
    return AssistantMessage(content, said[-1].tool_calls, reasoning)


def _signed(message: UserMessage) -> UserMessage:
    if message.name is None:
        return message
    content = f"{message.name}: {message.content}"
    parts = (TextContent(f"{message.name}:"), *message.parts) if message.parts else ()
    return UserMessage(content, parts)


def _parts(message: UserMessage) -> tuple[Content, ...]:
    return message.parts or (TextContent(message.content),)


def _filled(message: UserMessage) -> UserMessage:
    """Return a message in which no text is blank."""
    content = BLANK if _is_blank(message.content) else message.content
    if not message.parts and message.name is None:
        return message if content is message.content else UserMessage(content)
    parts = tuple([part for part in message.parts if not _is_nothing(part)])
    name = _NOT_IN_NAME.sub("_", message.name) if message.name else None
    return UserMessage(content, parts, name)


def _is_nothing(part: Content) -> bool:
    return isinstance(part, TextContent) and _is_blank(part.text)


def _is_blank(text: str) -> bool:
    return not text or text.isspace()
