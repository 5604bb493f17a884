"""Conversations and the runs in them, in memory.

A conversation's runs form a queue: the first has the floor, the others wait. So two messages
into one conversation are never interleaved, and the check for a free floor and the taking of
it are one step without an await between them.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from agent import StreamingAgent, Turns
from errors import Unavailable
from events import ChatComplete, ChatStart, RunError, TerminalEvent
from hub import Log
from models import (
    AssistantMessage,
    ChatRequest,
    Message,
    RunFailure,
    RunInfo,
    RunStatus,
    TokenUsage,
    UserMessage,
    new_id,
)

KEPT_MESSAGES = 1000
KEPT_BYTES = 1_048_576
"""How much of a conversation is kept in memory; the oldest messages go first."""


_MESSAGE_BYTES = 200
"""What a message occupies besides its text, roughly."""


@dataclass(eq=False)
class Work:
    """What a run needs until it has ended, and nobody afterwards."""

    request: ChatRequest
    agent: StreamingAgent
    conversation: "Conversation"
    floor: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None
    log: Log | None = None
    turns: Turns | None = None
    began: bool = False
    ending: Literal["cancelled", "shutting_down"] | None = None


@dataclass(eq=False)
class Run:
    """One answer in the making, and afterwards what is remembered of it."""

    id: str
    key: str | None
    start: ChatStart
    work: Work | None
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started_at: datetime | None = None
    finished_at: datetime | None = None
    terminal: TerminalEvent | None = None
    epoch: int = 1
    accepted: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def status(self) -> RunStatus:
        """Where the run stands."""
        match self.terminal:
            case None:
                return "queued" if self.started_at is None else "running"
            case RunError():
                return "failed"
            case ChatComplete(finish_reason="cancelled"):
                return "cancelled"
            case ChatComplete():
                return "completed"

    def end(self, reason: Literal["cancelled", "shutting_down"]) -> None:
        """Cancel the run's task, once; how it ended follows from the first reason."""
        work = self.work
        if work is None or work.ending is not None:
            return
        work.ending = reason
        # A task that is cancelled before its first step would never get to end its run.
        if work.began and work.task is not None:
            work.task.cancel()

    async def wait(self, seconds: float) -> None:
        """Wait until the run has ended, at most `seconds`."""
        if self.work is not None and self.work.task is not None:
            await asyncio.wait([self.work.task], timeout=seconds)

    def info(self) -> RunInfo:
        """Return the run as the API shows it."""
        done = self.terminal if isinstance(self.terminal, ChatComplete) else None
        failed = self.terminal if isinstance(self.terminal, RunError) else None
        return RunInfo(
            run_id=self.id,
            status=self.status,
            agent=self.start.agent,
            model=self.start.model,
            conversation_id=self.start.conversation_id,
            created_at=self.created_at,
            started_at=self.started_at,
            finished_at=self.finished_at,
            finish_reason=done.finish_reason if done else None,
            final_response=done.final_response if done else None,
            usage=TokenUsage.model_validate(done.usage, from_attributes=True)
            if done and done.usage
            else None,
            error=RunFailure(code=failed.code, message=failed.message, retryable=failed.retryable)
            if failed
            else None,
        )


@dataclass(eq=False)
class Conversation:
    """What was said, and the runs that are under way or wait."""

    id: str
    messages: list[Message] = field(default_factory=list)
    runs: deque[Run] = field(default_factory=deque)
    size: int = 0
    counted: int = 0

    def enter(self, run: Run) -> None:
        """Queue a run; the first one has the floor at once."""
        self.runs.append(run)
        self._give_floor()

    def leave(self, run: Run) -> None:
        """Take a run out, and give the floor to the next if it had it."""
        self.runs.remove(run)
        self._give_floor()

    def _give_floor(self) -> None:
        if self.runs and self.runs[0].work is not None:
            self.runs[0].work.floor.set()

    def keep(self, messages: Sequence[Message]) -> None:
        """Add what was said; of a long conversation the newest half stays."""
        self.messages.extend(messages)
        self.size += sum(map(_size, messages))
        if len(self.messages) > KEPT_MESSAGES or self.size > KEPT_BYTES:
            self.messages = list(context(self.messages, len(self.messages) // 2))
            self.size = sum(map(_size, self.messages))

    def clear(self) -> None:
        """Forget what was said."""
        self.messages.clear()
        self.size = 0


class Conversations:
    """The conversations that were used last.

    Args:
        limit: how many are kept; past that the one unused for the longest time goes.
        max_bytes: how much text they hold in all, likewise.
    """

    def __init__(self, limit: int, max_bytes: int = 2**28) -> None:
        self._limit = limit
        self._max_bytes = max_bytes
        self._bytes = 0
        self._all: OrderedDict[str, Conversation] = OrderedDict()

    def get_or_create(self, conversation_id: str | None) -> Conversation:
        """Return the conversation of this id, begun now if there is none.

        Raises:
            errors.Unavailable: every conversation that is kept has a run under way.
        """
        if conversation_id is not None and conversation_id in self._all:
            self._all.move_to_end(conversation_id)
            return self._all[conversation_id]
        if len(self._all) >= self._limit:
            self._drop_oldest_idle()
        conversation = Conversation(conversation_id or new_id("conv"))
        self._all[conversation.id] = conversation
        return conversation

    def count(self, conversation: Conversation) -> None:
        """Take note of a conversation's size, and drop others where all are too large."""
        if self._all.get(conversation.id) is not conversation:
            return
        self._bytes += conversation.size - conversation.counted
        conversation.counted = conversation.size
        while self._bytes > self._max_bytes and (oldest := self._oldest_idle()) is not None:
            self._drop(oldest)

    def _drop_oldest_idle(self) -> None:
        oldest = self._oldest_idle()
        if oldest is None:
            text = "The service is at its limit of conversations under way."
            raise Unavailable(text, retry_after=1)
        self._drop(oldest)

    def _oldest_idle(self) -> Conversation | None:
        return next((each for each in self._all.values() if not each.runs), None)

    def _drop(self, conversation: Conversation) -> None:
        del self._all[conversation.id]
        self._bytes -= conversation.counted


def _size(message: Message) -> int:
    """Return the bytes that a message occupies, roughly."""
    calls = message.tool_calls if isinstance(message, AssistantMessage) else ()
    return _MESSAGE_BYTES + len(message.content) + sum(len(call.arguments) for call in calls)


def context(messages: Sequence[Message], limit: int) -> tuple[Message, ...]:
    """Return the newest messages that a model gets to see.

    That is at most `limit`, beginning with a user's message, so that no tool call is parted
    from its result. Where one turn alone is longer than `limit`, the whole of it.
    """
    users = [at for at, message in enumerate(messages) if isinstance(message, UserMessage)]
    fitting = [at for at in users if len(messages) - at <= limit]
    start = fitting[0] if fitting else users[-1] if users else len(messages)
    return tuple(messages[start:])
