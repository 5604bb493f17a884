"""The `agents-sdk` wire: the stream events of an agents SDK, as JSON.

Each frame has a `type`: `raw_response`, `run_item`, `agent_updated`, `stream_complete` or
`error`. What front ends of this wire read stands flat beside the type (`delta`, `tool_name`,
`agent_name`, …); `data` of a raw response is the whole event of the Responses API that it
stands for, and `item` of a run item the SDK's item with its `raw_item`.

* The stream begins with the `agent_updated` of the agent that answers. Another agent that
  takes over is a `handoff_requested`, a `handoff_occured` (the wire's spelling) and one more.
* Items come when they are whole: `reasoning_item_created` and `message_output_created` when
  the model's message is complete, before the calls of that turn and before
  `stream_complete`; `tool_called` when a call begins; `tool_output` when it ended. The output
  of a call that failed is the error's text, with an `error` beside it. A call that was never
  executed has a `tool_called`, too, so that every output has its call.
* One event may be several frames. Only the last of them has the cursor as its `id`, so that
  a client that lost its connection in between gets all of them again.
* `session_id` is the conversation, or null where nothing is remembered.
* A reader that goes on from a cursor has not seen what came before: its `session_id`,
  `current_turn` and `requests` are null, a message that is under way has the status
  `incomplete` and the text from there on, and a call that is under way has its `tool_called`
  again.
* A frame of the type `reset`, which clients ignore, says that everything is sent again.
* A run that is suspended ends in `error`; its `id` is the last event's, from which one can go on.
"""

from typing import Any, ClassVar, Literal, TypeAlias, assert_never

import msgspec

import sse
from events import (
    AgentUpdated,
    ChatChunk,
    ChatComplete,
    ChatStart,
    CompletedCall,
    Event,
    FailedCall,
    ReaderEvent,
    ReasoningChunk,
    Reset,
    RunError,
    RunProgress,
    StartedCall,
    Suspended,
    ToolCallComplete,
    ToolCallError,
    ToolCallProgress,
    ToolCallQueued,
    ToolCallStart,
)

_encode = msgspec.json.Encoder().encode

_Frame: TypeAlias = dict[str, Any]
_Status: TypeAlias = Literal["completed", "incomplete"]


class _Message:
    """The model's message that is under way: what its items will have to say."""

    def __init__(self, id: str, is_whole: bool) -> None:
        self.id = id
        self.is_whole = is_whole
        self.text: list[str] = []
        self.reasoning: list[str] = []

    def items(self, status: _Status) -> list[_Frame]:
        """Return the items of what was said since the last time, and forget it."""
        status = status if self.is_whole else "incomplete"
        items = []
        if self.reasoning:
            items.append(_reasoning_item(self.id, "".join(self.reasoning), status))
        if self.text:
            items.append(_message_item(self.id, "".join(self.text), status))
        self.text, self.reasoning = [], []
        return items


class AgentsSdkEncoder:
    """Events to frames. Its memory: the message under way, and the calls that were shown."""

    media_type: ClassVar[str] = "text/event-stream"
    heartbeat: ClassVar[bytes] = sse.HEARTBEAT

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._session: str | None = None
        self._is_begun = False
        self._turns = 1
        self._message = _Message("", is_whole=False)
        self._called: set[str] = set()

    def encode(self, event: ReaderEvent) -> bytes:
        if isinstance(event, Reset):
            self._epoch = event.epoch
            reset = {"type": "reset", "run_id": event.run_id, "reason": event.reason}
            return sse.frame(_encode(reset).decode())
        frames = self._frames(event.as_error() if isinstance(event, Suspended) else event)
        if not frames:
            return b""
        *before, last = map(_encode, frames)
        place = b"%b:%d:%d" % (event.run_id.encode(), self._epoch, event.seq)
        return b"".join(
            [*(sse.frame(frame.decode()) for frame in before), sse.json_frame(last, place)]
        )

    def _begin(self, start: ChatStart) -> None:
        self._session = None if start.ephemeral else start.conversation_id
        self._is_begun = True
        self._turns = 1
        self._message = _Message(start.message_id, is_whole=True)
        self._called = set()

    def _frames(self, event: Event) -> list[_Frame]:
        match event:
            case ChatChunk():
                before = self._turn_to(event.message_id)
                self._message.text.append(event.content)
                return [*before, _text_delta(event, bool(self._message.reasoning))]
            case ReasoningChunk():
                before = self._turn_to(event.message_id)
                self._message.reasoning.append(event.content)
                return [*before, _reasoning_delta(event)]
            case ToolCallStart(message_id=message_id, tool_call=call):
                return self._calling(message_id, call)
            case ToolCallComplete(message_id=message_id, tool_call=call):
                return [*self._calling(message_id, call), _tool_output(call, call.result)]
            case ToolCallError(message_id=message_id, tool_call=call):
                error = {"code": call.code, "message": call.error}
                output = _tool_output(call, call.error) | {"error": error}
                return [*self._calling(message_id, call), output]
            case RunProgress():
                return [_progress_item(event)]
            case ToolCallQueued() | ToolCallProgress():
                return []
            case ChatStart() | AgentUpdated() | ChatComplete() | RunError():
                return self._bracket(event)
            case _:
                assert_never(event)

    def _bracket(self, event: ChatStart | AgentUpdated | ChatComplete | RunError) -> list[_Frame]:
        """Return the frames of what begins, changes or ends the whole run."""
        match event:
            case ChatStart():
                self._begin(event)
                return [_agent_updated(event.agent)]
            case AgentUpdated():
                said = [*self._turn_to(event.message_id), *self._message.items("completed")]
                return [*said, *_handoff(event), _agent_updated(event.agent)]
            case ChatComplete():
                status: _Status = "completed" if event.finish_reason == "stop" else "incomplete"
                return [*self._message.items(status), self._complete(event)]
            case RunError():
                return [self._error(event)]
            case _:
                assert_never(event)

    def _turn_to(self, message_id: str) -> list[_Frame]:
        """Turn to a message; return the items of the one before, if that is another one."""
        before = self._message
        if message_id == before.id:
            return []
        self._turns += 1
        self._message = _Message(message_id, is_whole=bool(before.id))
        return before.items("completed")

    def _calling(
        self, message_id: str, call: StartedCall | CompletedCall | FailedCall
    ) -> list[_Frame]:
        """Return what comes before the frames of a call, its own beginning included."""
        said = [*self._turn_to(message_id), *self._message.items("completed")]
        if call.id in self._called:
            return said
        self._called.add(call.id)
        return [*said, _tool_called(call)]

    def _complete(self, event: ChatComplete) -> _Frame:
        turns = self._turns if self._is_begun else None
        usage = event.usage and {
            "requests": turns,
            "input_tokens": event.usage.prompt_tokens,
            "output_tokens": event.usage.completion_tokens,
            "total_tokens": event.usage.total_tokens,
        }
        return {
            "type": "stream_complete",
            "success": True,
            "final_output": event.final_response,
            "finish_reason": event.finish_reason,
            "current_turn": turns,
            "usage": usage,
            "session_id": self._session,
            "run_id": event.run_id,
        }

    def _error(self, event: RunError) -> _Frame:
        return {
            "type": "error",
            "success": False,
            "code": event.code,
            "message": event.message,
            "retryable": event.retryable,
            "session_id": self._session,
            "run_id": event.run_id,
        }


# Frames.


def _text_delta(event: ChatChunk, is_second: bool) -> _Frame:
    place = {
        "sequence_number": event.seq,
        "delta": event.content,
        "content_index": 0,
        "item_id": event.message_id,
        "output_index": int(is_second),
    }
    kind = "response.output_text.delta"
    data = {"type": kind, **place, "logprobs": []}
    return {"type": "raw_response", "event_type": kind, **place, "data": data}


def _reasoning_delta(event: ReasoningChunk) -> _Frame:
    kind = "response.reasoning_summary_text.delta"
    place = {"sequence_number": event.seq, "delta": event.content}
    data = {
        "type": kind,
        **place,
        "item_id": _reasoning_id(event.message_id),
        "output_index": 0,
        "summary_index": 0,
    }
    return {"type": "raw_response", "event_type": kind, **place, "reasoning": True, "data": data}


def _agent_updated(agent: str) -> _Frame:
    return {"type": "agent_updated", "agent_name": agent}


def _run_item(name: str, item: _Frame, **flat: Any) -> _Frame:
    return {"type": "run_item", "name": name, "item_type": item["type"], **flat, "item": item}


def _progress_item(event: RunProgress) -> _Frame:
    progress = {
        "stage": event.stage,
        "message": event.message,
        "done": event.done,
        "total": event.total,
    }
    return _run_item("run_progress", {"type": "run_progress_item"} | progress, **progress)


def _reasoning_id(message_id: str) -> str:
    return f"rs_{message_id}"


def _reasoning_item(message_id: str, text: str, status: _Status) -> _Frame:
    raw = {
        "id": _reasoning_id(message_id),
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": text}],
        "status": status,
    }
    item = {"type": "reasoning_item", "raw_item": raw}
    return _run_item("reasoning_item_created", item, reasoning_content=text)


def _message_item(message_id: str, text: str, status: _Status) -> _Frame:
    raw = {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [{"type": "output_text", "text": text, "annotations": []}],
    }
    item = {"type": "message_output_item", "raw_item": raw}
    flat = {"role": "assistant", "status": status, "message_id": message_id}
    return _run_item("message_output_created", item, **flat)


def _tool_called(call: StartedCall | CompletedCall | FailedCall) -> _Frame:
    arguments = _text_of(call.arguments)
    raw = _function_call(call.id, call.name, arguments)
    flat = {"tool_name": call.name, "tool_arguments": arguments, "call_id": call.id}
    return _run_item("tool_called", {"type": "tool_call_item", "raw_item": raw}, **flat)


def _tool_output(call: CompletedCall | FailedCall, output: Any) -> _Frame:
    raw = _function_output(call.id, _text_of(output))
    item = {"type": "tool_call_output_item", "raw_item": raw, "output": output}
    flat = {"tool_name": call.name, "call_id": call.id, "output": output}
    return _run_item("tool_output", item, **flat)


def _handoff(event: AgentUpdated) -> list[_Frame]:
    """Return the items of a hand-off; the call that they speak of is the service's own."""
    call_id = f"handoff_{event.message_id}"
    call = _function_call(call_id, f"transfer_to_{event.agent}", "{}")
    requested = {"type": "handoff_call_item", "raw_item": call}
    occurred = {
        "type": "handoff_output_item",
        "raw_item": _function_output(call_id, _text_of({"assistant": event.agent})),
        "source_agent": event.previous_agent,
        "target_agent": event.agent,
    }
    agents = {"target_agent": event.agent, "previous_agent": event.previous_agent}
    return [
        _run_item("handoff_requested", requested, target_agent=event.agent),
        _run_item("handoff_occured", occurred, **agents),
    ]


def _function_call(call_id: str, name: str, arguments: str) -> _Frame:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def _function_output(call_id: str, output: str) -> _Frame:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def _text_of(value: Any) -> str:
    return value if isinstance(value, str) else _encode(value).decode()
