"""The `chunks` wire: `{"content", "done"}` objects, closed by `[DONE]`.

Every JSON frame has `content`, because its clients read that of each frame without asking what
the frame is; where there is no text it is empty.

* A piece of the answer: `{"content": "…", "done": false}`.
* The end in order: `{"content": "", "done": true, "conversation_id", "run_id",
  "finish_reason"}`, and with it `[DONE]`. A reader that goes on from a cursor has not seen the
  run's start: its `conversation_id` is null.
* A failure: `{"content": "", "done": false, "error": {"code", "message", "retryable"}}` and
  nothing after it. A client that knows no `error` sees a stream that ended without `done` and
  without `[DONE]`, which is what happened. A run that is suspended ends so, too; the frame's `id`
  is the last event's, from which one can go on.
* Start over: `{"content": "", "done": false, "reset": {"run_id", "reason"}}`.

Nothing else of a run is sent. Frames have the cursor as their `id`, except those from which
nothing can be continued: a reset and `[DONE]`.
"""

from typing import Any, ClassVar, assert_never

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

_DONE = sse.frame("[DONE]")


class ChunksEncoder:
    """Events to frames. Its memory: the epoch and the conversation."""

    media_type: ClassVar[str] = "text/event-stream"
    heartbeat: ClassVar[bytes] = sse.HEARTBEAT

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._conversation: str | None = None

    def encode(self, event: ReaderEvent) -> bytes:
        match event:
            case ChatChunk():
                return self._frame({"content": event.content, "done": False}, event)
            case ChatStart():
                self._conversation = event.conversation_id
                return b""
            case ChatComplete():
                done = {
                    "content": "",
                    "done": True,
                    "conversation_id": self._conversation,
                    "run_id": event.run_id,
                    "finish_reason": event.finish_reason,
                }
                return self._frame(done, event) + _DONE
            case RunError(code=code, message=message, retryable=retryable):
                error = {"code": code, "message": message, "retryable": retryable}
                return self._frame({"content": "", "done": False, "error": error}, event)
            case Suspended():
                return self.encode(event.as_error())
            case Reset():
                self._epoch = event.epoch
                reset = {"run_id": event.run_id, "reason": event.reason}
                restart = {"content": "", "done": False, "reset": reset}
                return sse.frame(_encode(restart).decode())
            case ReasoningChunk() | ToolCallEvent() | AgentUpdated() | RunProgress():
                return b""
            case _:
                assert_never(event)

    def _frame(self, chunk: dict[str, Any], event: Event) -> bytes:
        place = b"%b:%d:%d" % (event.run_id.encode(), self._epoch, event.seq)
        return sse.json_frame(_encode(chunk), place)
