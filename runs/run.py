"""A run: one answer in the making, and afterwards what is remembered of it.

The runs of a conversation form a queue: the first has the floor, the others wait. So two messages
into one conversation are never interleaved, and the check for a free floor and the taking of it
are one step without an await between them.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple, Protocol, TypeAlias

from caller import Caller
from errors import ParleyError
from events import ChatComplete, ChatStart, RunError, TerminalEvent
from hub import Log
from loop.state import Turns
from memory.learning import Recall
from messages import Message
from models import RunFailure, RunInfo, RunRequest, RunStatus, TokenUsage
from storage import ANY_ENTRY, Begin, Entry, StoredRun
from storage.runs import status_of

Ending: TypeAlias = Literal["cancelled", "superseded", "shutting_down"]
"""Why a run is ended: somebody asked for that, another message interrupts it, the service stops.

In the last case one that can go on when the service is back is suspended instead."""


class Agent(Protocol):
    """What answers: `agent.StreamingAgent`, or anything that works on `Turns` as it does."""

    @property
    def name(self) -> str:
        """The agent's name in the service."""
        ...

    @property
    def model(self) -> str:
        """The model that answers."""
        ...

    @property
    def remembers(self) -> bool:
        """Whether it remembers users across conversations, where a request does not say."""
        ...

    async def run(self, turns: Turns) -> ChatComplete:
        """Answer; see `agent.StreamingAgent.run`."""
        ...


class Limits(NamedTuple):
    """The bounds that are kept. Durations in seconds."""

    max_message_chars: int
    max_active_runs: int
    max_queued_messages: int
    max_agents: int
    history_messages: int
    history_tokens: int
    run_timeout: float
    run_ttl: float
    max_runs: int
    conversation_ttl: float | None
    tool_workers: int
    shutdown_grace: float


@dataclass(eq=False)
class Work:
    """What a run needs until it has ended, and nobody afterwards.

    `is_new`: so is the conversation, in which nobody else has said anything.
    `begun`: the message is in the conversation. `resumed`: the run goes on where another store left
    it.
    `entry`: how it comes into its conversation.
    """

    request: RunRequest
    agent: Agent
    queue: "Queue"
    begin: Begin
    entry: Entry = ANY_ENTRY
    is_new: bool = False
    resumed: bool = False
    begun: bool = False
    floor: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None
    recall: Recall | None = None
    log: Log | None = None
    turns: Turns | None = None
    is_cancellable: bool = False
    ending: Ending | None = None

    def unsaved(self) -> list[Message]:
        """Return what is to be kept of the run and is not stored yet."""
        return self.turns.kept[self.turns.saved :] if self.turns else []


@dataclass(eq=False)
class Run:
    """A run.

    Args:
        stored: the run as it was accepted, or as it was found in storage.
        work: until it has ended.
        refusal: why it was not accepted after all.
        twin: the run that the same request started before, in this process or another.
    """

    stored: StoredRun
    work: Work | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    terminal: TerminalEvent | None = None
    refusal: ParleyError | None = None
    twin: StoredRun | None = None
    accepted: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def remembered(cls, stored: StoredRun) -> "Run":
        """Return a run that this process does not work on."""
        return cls(stored, None, stored.started_at, stored.finished_at, stored.terminal)

    @property
    def id(self) -> str:
        """The run's id."""
        return self.stored.id

    @property
    def start(self) -> ChatStart:
        """The run's first event."""
        return self.stored.start

    @property
    def status(self) -> RunStatus:
        """Where the run stands."""
        if self.terminal is None:
            return "queued" if self.started_at is None else "running"
        return status_of(self.terminal)

    def end(self, reason: Ending) -> None:
        """Cancel the run's task, once; how it ended follows from the first reason.

        A run that is about to be suspended can still be cancelled: that has been acknowledged.
        """
        work = self.work
        if work is None or work.ending is not None:
            if work is not None and (work.ending, reason) == ("shutting_down", "cancelled"):
                work.ending = reason
            return
        work.ending = reason
        # Before it is accepted the run cannot be left; it looks at `ending` then.
        if work.is_cancellable and work.task is not None:
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
            created_at=self.stored.created_at,
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
class Queue:
    """The runs of one conversation that are under way or wait."""

    owner: Caller
    conversation_id: str
    runs: deque[Run] = field(default_factory=deque)

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


class Queues:
    """The queues of all conversations that have a run."""

    def __init__(self) -> None:
        self._all: dict[tuple[Caller, str], Queue] = {}

    def of(self, owner: Caller, conversation_id: str) -> Queue:
        """Return a conversation's queue, which may be empty."""
        return self._all.get((owner, conversation_id)) or Queue(owner, conversation_id)

    def enter(self, queue: Queue, run: Run) -> None:
        """Queue a run."""
        self._all[queue.owner, queue.conversation_id] = queue
        queue.enter(run)

    def leave(self, queue: Queue, run: Run) -> None:
        """Take a run out of its queue."""
        queue.leave(run)
        if not queue.runs:
            del self._all[queue.owner, queue.conversation_id]
