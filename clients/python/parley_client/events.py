"""What can happen in a run, as frozen values; see the service's protocol for the whole truth.

Each event has `event_type`, `run_id` and `seq`. `ChatStart` is the first one; exactly one of
`ChatComplete` and `RunError` is the last. An event of a type that this version does not know is
an `UnknownEvent`, and nothing of it is lost.
"""

from datetime import datetime
from typing import Any, TypeAlias

import msgspec


class Usage(msgspec.Struct, frozen=True):
    """Tokens as the provider counted them, summed over a run."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class _Call(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str


class QueuedCall(_Call, frozen=True, kw_only=True):
    """A tool call that waits for its place; `arguments` is the decoded JSON object."""

    arguments: Any = None


class StartedCall(QueuedCall, frozen=True, kw_only=True):
    """A tool call whose execution begins; `started_at` is UTC, None where it is not known."""

    started_at: datetime | None = None


class ProgressingCall(_Call, frozen=True, kw_only=True):
    """How far a running call is, in the tool's own unit; `total` is None when unknown."""

    progress: float
    total: float | None = None
    message: str | None = None


class CompletedCall(StartedCall, frozen=True, kw_only=True):
    """A call that returned; where `truncated`, `result` is a string cut at the limit."""

    result: Any = None
    duration_ms: float = 0.0
    truncated: bool = False


class FailedCall(StartedCall, frozen=True, kw_only=True):
    """A call that failed or, where `started_at` is None, was never executed.

    `code` is `unknown_tool`, `invalid_arguments`, `failed`, `timeout`, `cancelled`, `limit` or
    `interrupted`; `error` says why, for the model and for people.
    """

    code: str = "failed"
    error: str = ""
    duration_ms: float = 0.0


class RequestedCall(_Call, frozen=True, kw_only=True):
    """A call of a tool that the client executes; `arguments` is the JSON text of the model.

    `reasoning`: what the model's provider wants back with the call, as it came.
    """

    arguments: str
    reasoning: dict[str, str] | None = None


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event_type"):
    run_id: str = ""
    seq: int = 0

    @property
    def event_type(self) -> str:
        return str(self.__struct_config__.tag)


class _MessageEvent(_Event, frozen=True, kw_only=True):
    """Belongs to one message of the model."""

    message_id: str


class _Chunk(_MessageEvent, frozen=True, kw_only=True):
    """A piece of text; where `first_seq` is not 0, all pieces from that to `seq`."""

    content: str
    first_seq: int = 0


class ChatStart(_Event, frozen=True, kw_only=True, tag="chat_start"):
    """The run was accepted; it may wait its turn."""

    conversation_id: str
    agent: str
    model: str
    message_id: str
    ephemeral: bool = False


class ChatChunk(_Chunk, frozen=True, kw_only=True, tag="chat_chunk"):
    """A piece of the answer."""


class ReasoningChunk(_Chunk, frozen=True, kw_only=True, tag="reasoning_chunk"):
    """A piece of the model's reasoning."""


class ToolCallQueued(_MessageEvent, frozen=True, kw_only=True, tag="tool_call_queued"):
    """A call waits, because as many run as may at a time."""

    tool_call: QueuedCall


class ToolCallStart(_MessageEvent, frozen=True, kw_only=True, tag="tool_call_start"):
    tool_call: StartedCall


class ToolCallProgress(_MessageEvent, frozen=True, kw_only=True, tag="tool_call_progress"):
    tool_call: ProgressingCall


class ToolCallComplete(_MessageEvent, frozen=True, kw_only=True, tag="tool_call_complete"):
    tool_call: CompletedCall


class ToolCallError(_MessageEvent, frozen=True, kw_only=True, tag="tool_call_error"):
    """A call failed, was cancelled or could not be executed; the run goes on."""

    tool_call: FailedCall


class AgentUpdated(_MessageEvent, frozen=True, kw_only=True, tag="agent_updated"):
    """Another agent has taken over."""

    agent: str
    previous_agent: str


class RunProgress(_Event, frozen=True, kw_only=True, tag="run_progress"):
    """How far a run of several stages is: `done` of `total` steps of the stage."""

    stage: str
    message: str
    done: int
    total: int


class ChatComplete(_Event, frozen=True, kw_only=True, tag="chat_complete"):
    """The end of a run that ended in order; `finish_reason` says how (`stop`, `cancelled`, …).

    `reasoning`: what the model's provider wants back with `tool_calls`, as it came.
    """

    final_response: str
    finish_reason: str
    usage: Usage | None = None
    tool_calls: tuple[RequestedCall, ...] = ()
    reasoning: tuple[dict[str, str], ...] = ()


class RunError(_Event, frozen=True, kw_only=True, tag="error"):
    """The end of a run that failed; `retry_after` is in seconds, where it is known."""

    code: str
    message: str
    retryable: bool = False
    retry_after: float | None = None


class Reset(_Event, frozen=True, kw_only=True, tag="reset"):
    """Drop what you have of this run: its state so far follows.

    It comes where the service lost the run's log (`epoch_changed`) or has thrown it away
    (`log_expired`), and is no part of a log: its `seq` is 0.
    """

    epoch: int
    reason: str


class UnknownEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event that a newer service sends; `fields` is all of it."""

    event_type: str
    run_id: str = ""
    seq: int = 0
    fields: dict[str, Any]


_Known: TypeAlias = (
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
    | Reset
)

Event: TypeAlias = _Known | UnknownEvent
"""What iterating over a run gives."""

_KNOWN: msgspec.json.Decoder[_Known] = msgspec.json.Decoder(_Known)
_ANY: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])


def decode_event(data: bytes | msgspec.Raw) -> Event:
    """Read an event; raises `msgspec.DecodeError` where it is no JSON object of an event."""
    try:
        return _KNOWN.decode(data)
    except msgspec.ValidationError:
        fields = _ANY.decode(data)
        own = {name: fields.get(name) for name in ("event_type", "run_id", "seq")}
        return msgspec.convert(own | {"fields": fields}, UnknownEvent)
