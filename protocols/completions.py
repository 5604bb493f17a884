"""The `openai` wire: a run as a chat completion, streamed or whole (OpenAI API, "Chat").

* Every chunk has the same `id`, `created` and `model`. The first delta is the role with empty
  content; the last choice has the `finish_reason`; `[DONE]` closes what ended in order.
* A run may say several messages, because the agent calls its own tools in between: the client
  gets one, its parts set off by an empty line. These calls are not sent, because a client would
  execute them; with `tool_events` they are, each in a chunk without choices, as `tool_event`. The
  calls that are the client's are sent as `tool_calls`.
* Reasoning is `reasoning_content`, as other servers have it. What else the provider wants back with
  the client's calls is there as well (`protocols.reasoning`).
* A failure is a frame `{"error": {"message", "type", "param", "code"}}` and nothing after it.
  So is a cancel, a run that is suspended, and a stream of which the client has seen a part that
  is no longer true.
"""

import time
from typing import Any, ClassVar, Literal, TypeAlias, assert_never

import msgspec

import sse
from events import (
    AgentUpdated,
    ChatChunk,
    ChatComplete,
    ChatStart,
    FinishReason,
    ReaderEvent,
    ReasoningChunk,
    RequestedCall,
    Reset,
    RunError,
    RunProgress,
    Suspended,
    ToolCallEvent,
    Usage,
)
from protocols.reasoning import given

_encode = msgspec.json.Encoder().encode

_DONE = sse.frame("[DONE]")

BETWEEN = "\n\n"
"""What sets one message of a run off from the next."""

Finish: TypeAlias = Literal["stop", "length", "content_filter", "tool_calls"]

_FINISHES: dict[FinishReason, Finish] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "max_turns": "length",
    "max_tool_calls": "length",
    "repeated_tool_calls": "length",
}
"""How a run ended, in OpenAI's words; a cancelled one is a failure to who waits for its answer."""

CANCELLED = RunError(code="cancelled", message="The run was cancelled.", retryable=False)
LOST = RunError(
    code="stream_lost",
    message="A part of the answer that was sent is no longer true: the service was interrupted. "
    "Ask again.",
    retryable=True,
)


def completion_id(run_id: str) -> str:
    return "chatcmpl-" + run_id.removeprefix("run_")


def error_body(
    message: str, code: str | None, *, type: str = "server_error", param: str | None = None
) -> dict[str, Any]:
    """Return an error in OpenAI's shape, all four members present."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def usage_body(usage: Usage) -> dict[str, int]:
    return msgspec.to_builtins(usage)  # type: ignore[no-any-return]


def call_body(call: RequestedCall, given: dict[str, Any]) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function, **given}


class _Joiner:
    """Sets the messages of a run off from each other."""

    def __init__(self) -> None:
        self.message_id: str | None = None

    def piece(self, event: ChatChunk) -> str:
        """Return what a piece adds to the one text."""
        before, self.message_id = self.message_id, event.message_id
        is_next = before is not None and before != event.message_id
        return BETWEEN + event.content if is_next else event.content


class CompletionsEncoder:
    """Events to chunks. Its memory: what all chunks share, and which message is under way.

    Args:
        created: when the run was asked for, in Unix seconds; now where it is None.
        tell_usage: whether the usage is sent, in a chunk of its own.
        tool_events: whether the calls that the agent executes are sent.
    """

    media_type: ClassVar[str] = "text/event-stream"
    heartbeat: ClassVar[bytes] = sse.HEARTBEAT

    def __init__(
        self,
        epoch: int,
        *,
        created: int | None = None,
        tell_usage: bool = False,
        tool_events: bool = False,
    ) -> None:
        self._created = int(time.time()) if created is None else created
        self._tell_usage = tell_usage
        self._tool_events = tool_events
        self._head = b""
        self._tail = b',"usage":null}\n\n' if tell_usage else b"}\n\n"
        self._joiner = _Joiner()
        self._is_over = False

    def encode(self, event: ReaderEvent) -> bytes:
        if self._is_over:
            return b""
        if not self._head:  # a reader may have come in the middle
            self._share(event.run_id, "")
        return self._text(event) if type(event) is ChatChunk else self._other(event)

    def _text(self, event: ChatChunk) -> bytes:
        # Written out, because it is most of what a stream is.
        return b'%b[{"index":0,"delta":{"content":%b},"logprobs":null,"finish_reason":null}]%b' % (
            self._head,
            _encode(self._joiner.piece(event)),
            self._tail,
        )

    def _other(self, event: ReaderEvent) -> bytes:
        match event:
            case ChatStart():
                return self._start(event)
            case ReasoningChunk():
                return self._delta({"reasoning_content": event.content})
            case ToolCallEvent():
                return self._tool_event(event)
            case ChatComplete(finish_reason="cancelled"):
                return self._failed(CANCELLED)
            case ChatComplete():
                return self._completed(event)
            case RunError() | Suspended():
                return self._failed(event)
            case Reset():
                return self._failed(LOST) if self._joiner.message_id is not None else b""
            case AgentUpdated() | RunProgress():
                return b""
            case ChatChunk():
                return self._text(event)
            case _:
                assert_never(event)

    def _share(self, run_id: str, model: str) -> None:
        shared = {
            "id": completion_id(run_id),
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": model,
            "system_fingerprint": None,
        }
        self._head = b'data: %b,"choices":' % _encode(shared)[:-1]

    def _start(self, event: ChatStart) -> bytes:
        self._share(event.run_id, event.model)
        return self._delta({"role": "assistant", "content": ""})

    def _delta(self, delta: dict[str, Any], finish: Finish | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return b"%b%b%b" % (self._head, _encode([choice]), self._tail)

    def _tool_event(self, event: ReaderEvent) -> bytes:
        if not self._tool_events:
            return b""
        return b'%b[],"tool_event":%b%b' % (self._head, _encode(event), self._tail)

    def _completed(self, done: ChatComplete) -> bytes:
        of_message, of_calls = given(done)
        frames = [self._delta(of_message)] if of_message else []
        for index, (call, members) in enumerate(zip(done.tool_calls, of_calls, strict=True)):
            begun = {"index": index, **call_body(call, members)}
            begun["function"] = {"name": call.name, "arguments": ""}
            frames.append(self._delta({"tool_calls": [begun]}))
            rest = {"index": index, "function": {"arguments": call.arguments}}
            frames.append(self._delta({"tool_calls": [rest]}))
        frames.append(self._delta({}, _FINISHES[done.finish_reason]))
        if self._tell_usage and done.usage is not None:
            usage = _encode(usage_body(done.usage))
            frames.append(b'%b[],"usage":%b}\n\n' % (self._head, usage))
        frames.append(_DONE)
        return b"".join(frames)

    def _failed(self, error: RunError | Suspended) -> bytes:
        self._is_over = True
        kind = "rate_limit_error" if error.code == "upstream_rate_limited" else "server_error"
        return sse.frame(_encode(error_body(error.message, error.code, type=kind)).decode())


class WholeCompletion:
    """Collects events until the last one; `result` is the completion or the failure.

    `created`: when the run was asked for, in Unix seconds.
    """

    def __init__(self, created: int) -> None:
        self.result: dict[str, Any] | RunError | None = None
        self._created = created
        self._start: ChatStart | None = None
        self._joiner = _Joiner()
        self._texts: list[str] = []
        self._reasoning: list[str] = []

    def add(self, event: ReaderEvent) -> None:
        match event:
            case ChatStart():
                self._start = event
            case ChatChunk():
                self._texts.append(self._joiner.piece(event))
            case ReasoningChunk():
                self._reasoning.append(event.content)
            case Reset():
                self._joiner = _Joiner()
                self._texts.clear()
                self._reasoning.clear()
            case ChatComplete(finish_reason="cancelled"):
                self.result = CANCELLED
            case ChatComplete():
                self.result = self._completion(event)
            case RunError():
                self.result = event
            case Suspended():
                self.result = event.as_error()
            case ToolCallEvent() | AgentUpdated() | RunProgress():
                pass
            case _:
                assert_never(event)

    def _completion(self, done: ChatComplete) -> dict[str, Any]:
        if self._start is None:
            raise ValueError("a run's events begin with chat_start")
        text = "".join(self._texts)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": text if text or not done.tool_calls else None,
            "refusal": None,
        }
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        if done.tool_calls:
            of_message, of_calls = given(done)
            message["tool_calls"] = list(map(call_body, done.tool_calls, of_calls))
            message |= of_message
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": _FINISHES[done.finish_reason],
        }
        completion: dict[str, Any] = {
            "id": completion_id(done.run_id),
            "object": "chat.completion",
            "created": self._created,
            "model": self._start.model,
            "choices": [choice],
            "system_fingerprint": None,
        }
        if done.usage is not None:
            completion["usage"] = usage_body(done.usage)
        return completion
