"""The vocabulary: everything that can happen in a run, as frozen values.

A run is a log of these events. Rules that hold for every log:

* `seq` counts from 1 without gaps within one `epoch` of a run. An epoch ends only when the
  service lost a run's log, or suspended it as it stopped, and began another one; a cursor names
  run, epoch and seq.
* The first event is `chat_start`; exactly one of `chat_complete` and `error` is the last, over a
  run's whole life: a log that was suspended has neither, and the next epoch goes on.
* Events carry their own brackets: `run_id` on all of them, `message_id` on all that belong to
  one message of the model (one turn), the call's `id` on all that belong to one tool call.
* `tool_call_start` says that execution begins. A call that is never executed (unknown tool,
  bad arguments, a limit, a cancel while it waits) has a `tool_call_error` and no start. One that
  has to wait for others has a `tool_call_queued` before.
* A started call has exactly one of `tool_call_complete` and `tool_call_error`.

The agent makes events without a place in a log; the log stamps `run_id` and `seq` when it
appends them. The names are the wire's names and are for ever.

This module imports nothing of the project.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import msgspec

FinishReason: TypeAlias = Literal[
    "stop",
    "length",
    "content_filter",
    "tool_calls",
    "cancelled",
    "max_turns",
    "max_tool_calls",
    "repeated_tool_calls",
]

ToolErrorCode: TypeAlias = Literal[
    "unknown_tool",
    "invalid_arguments",
    "failed",
    "timeout",
    "cancelled",
    "limit",
    "interrupted",
]


class Usage(msgspec.Struct, frozen=True):
    """Tokens as the provider counted them, summed over the turns of a run."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.total_tokens + other.total_tokens,
        )


class ReasoningBlock(msgspec.Struct, frozen=True):
    """Reasoning that `provider` wants back unchanged in the next request. `data` is its JSON.

    `provider` is the kind of a server and, behind a colon, which one it is; the kind alone where
    that is not known, because a client has sent it.
    """

    provider: str
    data: str

    @property
    def kind(self) -> str:
        return self.provider.partition(":")[0]


class QueuedCall(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call that waits for its place. `arguments` is the decoded JSON object."""

    id: str
    name: str
    arguments: Any


class StartedCall(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call whose execution begins. `arguments` is the decoded JSON object.

    `started_at` is null, here and below, where that is not known any more.
    """

    id: str
    name: str
    arguments: Any
    started_at: datetime | None = None


class ProgressingCall(msgspec.Struct, frozen=True, kw_only=True):
    """How far a running call is, in the tool's own unit; `total` is null when unknown."""

    id: str
    name: str
    progress: float
    total: float | None
    message: str | None


class CompletedCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that returned. `result` is JSON; where `truncated`, a string cut at the limit."""

    id: str
    name: str
    arguments: Any
    result: Any
    duration_ms: float
    truncated: bool
    started_at: datetime | None = None


class FailedCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that failed or was never executed.

    `arguments` is the decoded JSON, or the text that the model sent where it is not JSON.
    `duration_ms` is 0, and `started_at` null, for a call that was never executed.
    """

    id: str
    name: str
    arguments: Any
    code: ToolErrorCode
    error: str
    duration_ms: float
    started_at: datetime | None = None


class RequestedCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A call of a tool that the client executes. `arguments` is the JSON text of the model.

    `reasoning`: what the provider wants back with the call.
    """

    id: str
    name: str
    arguments: str
    reasoning: ReasoningBlock | None = None


class _Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event_type"):
    """What every event has. Both fields are stamped by the log."""

    run_id: str = ""
    seq: int = 0

    @property
    def event_type(self) -> str:
        """The name on the wire."""
        return str(self.__struct_config__.tag)


class ChatStart(_Event, frozen=True, kw_only=True, tag="chat_start"):
    """The run was accepted (it may wait its turn); `message_id` is that of the first message.

    `ephemeral`: the conversation is there for this run only.
    """

    conversation_id: str
    agent: str
    model: str
    message_id: str
    ephemeral: bool = False


class ChatChunk(_Event, frozen=True, kw_only=True, gc=False, tag="chat_chunk"):
    """A piece of the answer.

    Where a lagging reader gets several pieces as one, `seq` is the last piece's and
    `first_seq` the first one's; otherwise `first_seq` is absent.
    """

    message_id: str
    content: str
    first_seq: int = 0


class ReasoningChunk(_Event, frozen=True, kw_only=True, gc=False, tag="reasoning_chunk"):
    """A piece of the model's reasoning; merged like `chat_chunk`."""

    message_id: str
    content: str
    first_seq: int = 0


class ToolCallEvent(_Event, frozen=True, kw_only=True):
    """What happens to a tool call of the message `message_id`."""

    message_id: str


class ToolCallQueued(ToolCallEvent, frozen=True, kw_only=True, tag="tool_call_queued"):
    """A call waits: as many run as may at a time."""

    tool_call: QueuedCall


class ToolCallStart(ToolCallEvent, frozen=True, kw_only=True, tag="tool_call_start"):
    """The execution of a call begins."""

    tool_call: StartedCall


class ToolCallProgress(ToolCallEvent, frozen=True, kw_only=True, tag="tool_call_progress"):
    """A running call reports how far it is."""

    tool_call: ProgressingCall


class ToolCallComplete(ToolCallEvent, frozen=True, kw_only=True, tag="tool_call_complete"):
    """A call returned a result."""

    tool_call: CompletedCall


class ToolCallError(ToolCallEvent, frozen=True, kw_only=True, tag="tool_call_error"):
    """A call failed, timed out, was cancelled, or could not be executed."""

    tool_call: FailedCall


class AgentUpdated(_Event, frozen=True, kw_only=True, tag="agent_updated"):
    """Another agent has taken over the run. `message_id` is that of the message that said so."""

    message_id: str
    agent: str
    previous_agent: str


class RunProgress(_Event, frozen=True, kw_only=True, tag="run_progress"):
    """How far a run of several stages is; `done` of `total` steps of the stage are finished."""

    stage: str
    message: str
    done: int
    total: int


class ChatComplete(_Event, frozen=True, kw_only=True, tag="chat_complete"):
    """The end of a run that ended in order. `finish_reason` names the limit, if one ended it.

    `tool_calls`, where that is `tool_calls`: what the client is to execute and to say in its next
    request. `reasoning`: what the provider wants back with these.
    """

    final_response: str
    finish_reason: FinishReason
    usage: Usage | None
    tool_calls: tuple[RequestedCall, ...] = ()
    reasoning: tuple[ReasoningBlock, ...] = ()


class RunError(_Event, frozen=True, kw_only=True, tag="error"):
    """The end of a run that failed. `retryable`: the same request may succeed later.

    `retry_after`: in so many seconds, where that is known.
    """

    code: str
    message: str
    retryable: bool
    retry_after: float | None = None


class Reset(_Event, frozen=True, kw_only=True, tag="reset"):
    """For one reader: drop what you have of this run; its state so far follows.

    Sent where a cursor cannot be continued; never part of a log. `epoch` is the one of the
    events that follow.
    """

    epoch: int
    reason: Literal["epoch_changed", "log_expired"]


class Suspended(_Event, frozen=True, kw_only=True, tag="suspended"):
    """For one reader, the last that it gets: the run goes on in another epoch.

    Sent where the service stops before the run has ended; never part of a log. `seq` is that of the
    last event, from which a client can go on. What else it says is for one that cannot come back.
    """

    code: str = "shutting_down"
    message: str = "The service stops; it goes on with this run when it is back."
    retryable: bool = True

    def as_error(self) -> RunError:
        """Return it as the end of the run, which it is to a client that cannot come back."""
        return RunError(
            run_id=self.run_id,
            seq=self.seq,
            code=self.code,
            message=self.message,
            retryable=self.retryable,
        )


Event: TypeAlias = (
    ChatStart
    | ChatChunk
    | ReasoningChunk
    | ToolCallQueued
    | ToolCallStart
    | ToolCallProgress
    | ToolCallComplete
    | ToolCallError
    | AgentUpdated
    | RunProgress
    | ChatComplete
    | RunError
)
"""What a log holds."""

ReaderEvent: TypeAlias = Event | Reset | Suspended
"""What a reader of a log gets."""

TerminalEvent: TypeAlias = ChatComplete | RunError

TERMINAL = (ChatComplete, RunError)


class EventSink(Protocol):
    """Where the events of one run go."""

    def append(self, event: Event) -> None:
        """Take an event; it is numbered and visible to readers at once."""

    def append_text(
        self, kind: "type[ChatChunk | ReasoningChunk]", message_id: str, content: str
    ) -> None:
        """Take a piece of text as an event of its kind, which is made with its number."""

    async def drain(self) -> None:
        """Wait while the sink lags; a producer calls it after each batch of events."""


_E = TypeVar("_E", bound=_Event)


def stamped(event: _E, run_id: str, seq: int) -> _E:
    """Return `event` with its place in a log."""
    return msgspec.structs.replace(event, run_id=run_id, seq=seq)


def merged(events: Iterable[Event]) -> Iterator[Event]:
    """Yield `events` with each run of adjacent text pieces of one message made one event.

    Nothing else changes: no other event is dropped, moved or merged, and the texts joined are
    the same as before.
    """
    run: list[ChatChunk | ReasoningChunk] = []
    for event in events:
        is_text = isinstance(event, ChatChunk | ReasoningChunk)
        if run and not (is_text and _continues(run[-1], event)):
            yield _joined(run)
            run = []
        if isinstance(event, ChatChunk | ReasoningChunk):
            run.append(event)
        else:
            yield event
    if run:
        yield _joined(run)


def _continues(last: ChatChunk | ReasoningChunk, event: Event) -> bool:
    return type(last) is type(event) and last.message_id == getattr(event, "message_id", None)


def _joined(run: list[ChatChunk | ReasoningChunk]) -> ChatChunk | ReasoningChunk:
    if len(run) == 1:
        return run[0]
    return msgspec.structs.replace(
        run[-1],
        content="".join(piece.content for piece in run),
        first_seq=run[0].first_seq or run[0].seq,
    )
