"""The `tokens` wire: named server-sent events, the answer's text as it is.

`event: token` has a piece of the answer as raw text, `event: done` ends a run in order, and
`event: error` ends one that failed or is suspended; there is no `done` after an `error`. The data
of the last two is JSON: `{"conversation_id", "run_id", "finish_reason"}` and `{"code", "message",
"retryable"}`. A reader that goes on from a cursor has not seen the run's start: its
`conversation_id` is null, and its `run_id` names the run. Nothing else of a run is sent.

`event: reset` says that the text starts over. Every other frame has the cursor as its `id`, so
that an `EventSource` goes on where it stopped. Raw text in server-sent events has one loss, by
the format: a CR or CRLF within a piece arrives as LF.
"""

from typing import ClassVar, assert_never

import msgspec

import sse
from events import (
    AgentUpdated,
    ChatChunk,
    ChatComplete,
    ChatStart,
    Event,
    ReaderEvent,
    ReasoningChunk,
    Reset,
    RunError,
    RunProgress,
    Suspended,
    ToolCallEvent,
)

_encode = msgspec.json.Encoder().encode


class TokensEncoder:
    """Events to frames. Its memory: the epoch, and the conversation for the last frame."""

    media_type: ClassVar[str] = "text/event-stream"
    heartbeat: ClassVar[bytes] = sse.HEARTBEAT

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._conversation: str | None = None

    def encode(self, event: ReaderEvent) -> bytes:
        match event:
            case ChatChunk():
                return self._frame("token", event.content, event)
            case ChatStart():
                self._conversation = event.conversation_id
                return b""
            case ChatComplete():
                done = {
                    "conversation_id": self._conversation,
                    "run_id": event.run_id,
                    "finish_reason": event.finish_reason,
                }
                return self._frame("done", _encode(done).decode(), event)
            case RunError(code=code, message=message, retryable=retryable):
                error = {"code": code, "message": message, "retryable": retryable}
                return self._frame("error", _encode(error).decode(), event)
            case Suspended():
                return self.encode(event.as_error())
            case Reset():
                self._epoch = event.epoch
                reset = {"run_id": event.run_id, "reason": event.reason}
                return sse.frame(_encode(reset).decode(), event="reset")
            case ReasoningChunk() | ToolCallEvent() | AgentUpdated() | RunProgress():
                return b""
            case _:
                assert_never(event)

    def _frame(self, name: str, data: str, event: Event) -> bytes:
        return sse.frame(data, event=name, id=f"{event.run_id}:{self._epoch}:{event.seq}")
