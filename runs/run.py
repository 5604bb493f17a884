"""A run under way in this process, and what it works with. Of a past one there is a `StoredRun`."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NamedTuple, Protocol, TypeAlias

import msgspec

from errors import ParleyError
from events import ChatComplete, TerminalEvent
from loop.state import RunState
from memory.learning import Recall
from runs.request import RunRequest
from storage import StoredRun
from storage.runs import status_of

StopReason: TypeAlias = Literal["cancelled", "superseded", "shutting_down"]
"""Why a run is stopped: somebody asked for that, another message interrupts it, the service stops.

In the last case one that can go on when the service is back is suspended instead."""


class Agent(Protocol):
    """What answers: `agent.StreamingAgent`, or anything that works on a `RunState` as it does."""

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def remembers(self) -> bool:
        """Whether it remembers users across conversations, where a request does not say."""

    async def run(self, state: RunState) -> ChatComplete:
        """Answer; see `agent.StreamingAgent.run`."""


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
    max_run_bytes: int
    conversation_ttl: float | None
    tool_workers: int
    shutdown_grace: float


class Refused(NamedTuple):
    error: ParleyError


class Repeated(NamedTuple):
    """A run was not accepted, because the same request had started another one before."""

    twin: StoredRun


class Suspended(NamedTuple):
    """A run stopped with its service; whoever claims it goes on with it."""


class Ended(NamedTuple):
    """A run has ended; how, its stored run says."""


Outcome: TypeAlias = Refused | Repeated | Suspended | Ended


@dataclass(eq=False)
class Run:
    """A run under way.

    Args:
        stored: the run as it is stored, kept up to date; of its request, once it is accepted, only
            what stays of that after the end.
        size: how many bytes it takes while it is under way, its log apart.
        is_new: so is its conversation, in which nobody else has said anything.
        resumed: it goes on where another process, or this one before a restart, left it.
        accepted: set when it is stored, or will not be: then `refusal` says why.
        stopping: why it is to stop, once somebody has said so.
        is_cancellable: its task may be cancelled; before it is accepted, it may not.
    """

    stored: StoredRun
    request: RunRequest
    agent: Agent
    size: int
    is_new: bool = False
    resumed: bool = False
    accepted: asyncio.Event = field(default_factory=asyncio.Event)
    refusal: Refused | Repeated | None = None
    task: "asyncio.Task[None] | None" = None
    state: RunState | None = None
    recall: Recall | None = None
    stopping: StopReason | None = None
    is_cancellable: bool = False

    @property
    def id(self) -> str:
        return self.stored.id

    @property
    def begun(self) -> bool:
        """Whether its messages are in the conversation; asked until it has ended."""
        return self.stored.status == "running"

    @property
    def remembers(self) -> bool:
        return self.agent.remembers if self.request.memory is None else self.request.memory

    @property
    def has_saved(self) -> bool:
        return self.state is not None and self.state.transcript.saved > 0

    def update(self, **changes: object) -> None:
        self.stored = msgspec.structs.replace(self.stored, **changes)

    def begins(self) -> None:
        self.update(status="running", started_at=datetime.now(UTC))

    def ends(self, terminal: TerminalEvent) -> None:
        self.update(
            status=status_of(terminal),
            terminal=terminal,
            finished_at=datetime.now(UTC),
        )

    def stop(self, reason: StopReason) -> None:
        """Cancel the run's task, once; how it ended follows from the first reason.

        A run that is about to be suspended can still be cancelled: that has been acknowledged.
        """
        if self.stopping is not None:
            if (self.stopping, reason) == ("shutting_down", "cancelled"):
                self.stopping = reason
            return
        self.stopping = reason
        # Before it is accepted the run cannot be left; it looks at `stopping` then.
        if self.is_cancellable and self.task is not None:
            self.task.cancel()
