"""The state of one run: what the model sees, what is kept, where the events go, what is counted.

A run is made of turns. A turn is one message of the model and, where it calls tools, the result
of each call. What a turn adds is kept together and stored together.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias, TypeVar

import msgspec

from events import EventSink, ReasoningBlock, Usage
from messages import (
    AS_CONFIGURED,
    AssistantMessage,
    EndPart,
    Message,
    ModelOptions,
    ToolCallPart,
    ToolMessage,
    ToolSpec,
    new_id,
)

T = TypeVar("T")

INTERRUPTED = (
    "The service was interrupted while this call was under way. Its outcome is not known: it may "
    "have happened, or not."
)

Journal: TypeAlias = Callable[[Sequence[Message], AssistantMessage | None], Awaitable[Any]]
"""Stores messages of a run, and the message whose calls are about to be executed."""


class Reply(NamedTuple):
    """What the model said in one turn. `for_client`: calls of tools that the client executes."""

    message_id: str
    text: str
    reasoning: tuple[ReasoningBlock, ...]
    calls: tuple[ToolCallPart, ...]
    end: EndPart
    for_client: tuple[ToolCallPart, ...] = ()

    @property
    def message(self) -> AssistantMessage:
        """The reply as a message, without the calls that are the client's."""
        return AssistantMessage(self.text, tuple(part.call for part in self.calls), self.reasoning)


async def _not_stored(messages: Sequence[Message], pending: AssistantMessage | None) -> None:
    """Store nothing: the run's owner takes all from the transcript."""


@dataclass
class Prompt:
    """What the model sees.

    Args:
        messages: of the conversation, the new message included.
        knowledge: what is known about the user, for the instructions.
        model: answers in the place of the first agent's own.
        options: what the request says about how to answer.
        client_tools: those that the client executes; they hide the agent's of the same names.
        parallel_tools: whether the calls of a turn may run at the same time.
    """

    messages: tuple[Message, ...]
    knowledge: str = ""
    model: str | None = None
    options: ModelOptions = AS_CONFIGURED
    client_tools: tuple[ToolSpec, ...] = ()
    parallel_tools: bool = True


@dataclass
class Transcript:
    """What the run has said, which the conversation has to keep.

    Args:
        journal: stores messages.
        messages: grows by whole turns.
        saved: how many of `messages` are stored.
        text: of the newest turn.
        usage: tokens of all turns; None where not all of them were counted.
    """

    journal: Journal = _not_stored
    messages: list[Message] = field(default_factory=list)
    saved: int = 0
    text: str = ""
    usage: Usage | None = None
    is_counted: bool = True

    def count(self, usage: Usage | None) -> None:
        """Add the tokens of a turn; None: its provider did not say."""
        if usage is None:
            self.is_counted = False
        self.usage = (self.usage or Usage()) + usage if usage and self.is_counted else None

    @property
    def unsaved(self) -> list[Message]:
        return self.messages[self.saved :]

    def keep(self, message: AssistantMessage, results: Iterable[ToolMessage] = ()) -> None:
        """Keep a turn: what the model said, if it did, with the result of each of its calls."""
        if message.content.strip() or message.tool_calls:
            self.messages.append(message)
        self.messages.extend(results)

    async def save(self, pending: AssistantMessage | None = None) -> None:
        """Store what is new, and the message whose calls begin, or raise `errors.Unavailable`."""
        new = self.unsaved
        storing = asyncio.ensure_future(self.journal(new, pending))
        try:
            await to_its_end(storing)
        finally:
            if not storing.cancelled() and storing.exception() is None:
                self.saved += len(new)


@dataclass
class Counts:
    """What the limits of an agent are held against."""

    turns: int = 0
    calls: int = 0
    _recent: list[tuple[tuple[str, str], ...]] = field(default_factory=list)
    _ids: set[str] = field(default_factory=set)

    def with_own_id(self, part: ToolCallPart) -> ToolCallPart:
        """Return the call with an id that no other call of the run has; some servers reuse."""
        call = part.call
        if not call.id or call.id in self._ids:
            call = msgspec.structs.replace(call, id=new_id("call"))
            part = msgspec.structs.replace(part, call=call)
        self._ids.add(call.id)
        return part

    def add(self, message: AssistantMessage) -> None:
        """Count a turn that was made before, with its calls."""
        self.reserve(message)
        self.calls += len(message.tool_calls)

    def reserve(self, message: AssistantMessage) -> None:
        """Count a turn whose calls are about to be counted, and give their ids to no other call."""
        self.turns += 1
        self._ids |= {call.id for call in message.tool_calls}

    def repeats(self, calls: Sequence[ToolCallPart]) -> int:
        """Count in how many turns in a row, this one included, the same calls were made."""
        made = tuple(sorted((part.call.name, part.call.arguments) for part in calls))
        if self._recent and self._recent[-1] != made:
            self._recent.clear()
        self._recent.append(made)
        return len(self._recent)


@dataclass
class Resumption:
    """Where a run goes on after a crash: the message whose calls were being executed, and the
    agents that had taken over, in order.
    """

    pending: AssistantMessage | None = None
    successors: Sequence[str] = ()


@dataclass
class RunState:
    """The state of one run.

    Args:
        message_id: the id of the model's first message.
        sink: where the events go.
        calls: the running and waiting tool calls by id; cancelling one ends that call only.
        successor: the name of the agent that takes over after this turn.
    """

    run_id: str
    conversation_id: str
    message_id: str
    sink: EventSink
    prompt: Prompt
    transcript: Transcript = field(default_factory=Transcript)
    counts: Counts = field(default_factory=Counts)
    resumption: Resumption = field(default_factory=Resumption)
    calls: dict[str, asyncio.Task[ToolMessage]] = field(default_factory=dict)
    successor: str | None = None


async def to_its_end(future: "asyncio.Future[T]") -> T:
    """Wait for a future that must not be left in the middle; a cancel counts when it is done."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as error:
            cancelled = error
        except Exception:  # noqa: BLE001, S110 - raised by `result` below
            pass
    if cancelled is not None:
        raise cancelled
    return future.result()


async def settle(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """End what still runs, and wait for it; a second cancel does not shorten the wait.

    A worker lets go of a cancelled call in a fraction of a second, so the wait is short; and
    without all results there would be calls without one.
    """
    for task in tasks:
        task.cancel()
    while not all(task.done() for task in tasks):
        with suppress(asyncio.CancelledError):
            await asyncio.wait(tasks)
