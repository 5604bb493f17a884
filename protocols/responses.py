"""A run as a response, streamed or whole (OpenAI API, "Responses").

* A response's output is one message for each message of the run that has text, and one call for
  each that is the client's to execute. Before these there is an item of reasoning where the
  provider wants something back with them; no other reasoning is sent. The calls that the agent
  executes itself are not sent, because a client would execute them too. An item's id follows from
  the run and from its place, so that it is the same in a stream, in storage and after a crash.
* Each frame has a `sequence_number`. It follows from the run's log alone: from 0 on, each frame
  of each event is one more. Where a lagging reader gets several pieces of text as one, that
  frame has the number of the last of them; so each reader finds the same number at the same
  place. The log of a new epoch, after a crash, numbers from `EPOCH` on, the next one from twice
  that: a number says which log it is of, and one of a log that is lost is never continued.
* The last frame has the whole response: `response.completed`, `response.incomplete`, or
  `response.failed`, which is also how a cancelled one ends, as there is no name for that. A
  stream that cannot be continued ends in `error`, and so does one whose response is not done when
  the service stops: the response goes on afterwards. There is no `[DONE]`.
"""

import re
from collections.abc import Sequence
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
    TerminalEvent,
    ToolCallEvent,
    Usage,
)
from protocols.reasoning import seal

_encode = msgspec.json.Encoder().encode

EPOCH = 1_000_000_000
"""How many numbers one log of a run may use; a log's bound on events is far below."""

Status: TypeAlias = Literal[
    "queued", "in_progress", "completed", "incomplete", "failed", "cancelled"
]
ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]

_INCOMPLETE: dict[FinishReason, str] = {
    "length": "max_output_tokens",
    "max_turns": "max_output_tokens",
    "max_tool_calls": "max_output_tokens",
    "repeated_tool_calls": "max_output_tokens",
    "content_filter": "content_filter",
}
"""Why a response is not complete, in OpenAI's words, by how its run ended."""

_RATE_LIMITED = ("upstream_rate_limited", "upstream_quota")

_RUN, _RESPONSE = "run_", "resp_"


def response_id(run_id: str) -> str:
    return _RESPONSE + run_id.removeprefix(_RUN)


def run_id_of(response_id: str) -> str | None:
    """Return the id of a response's run; None where it is no response's id."""
    found = re.fullmatch(_RESPONSE + "([0-9A-Za-z]{1,64})", response_id)
    return None if found is None else _RUN + found[1]


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What stays the same of a response.

    Args:
        created_at: when it was asked for, in Unix seconds.
        echo: the members that say how it was asked for.
    """

    run_id: str
    created_at: int
    model: str
    echo: dict[str, Any]


def response_body(
    head: Head,
    status: Status,
    output: Sequence[dict[str, Any]] = (),
    *,
    usage: Usage | None = None,
    error: RunError | None = None,
    incomplete: str | None = None,
) -> dict[str, Any]:
    return {
        "id": response_id(head.run_id),
        "object": "response",
        "created_at": head.created_at,
        "status": status,
        "error": None if error is None else {"code": _code(error), "message": error.message},
        "incomplete_details": None if incomplete is None else {"reason": incomplete},
        "model": head.model,
        "output": list(output),
        "usage": None if usage is None else _usage(usage),
        **head.echo,
    }


def unfinished(head: Head, status: Status, texts: Sequence[str]) -> dict[str, Any]:
    """Return a response under way, with the messages so far."""
    return response_body(head, status, _messages(head, texts, "in_progress"))


def ended(head: Head, texts: Sequence[str], end: TerminalEvent) -> dict[str, Any]:
    """Return a response that has ended. `texts`: of the run's messages that have one, in order."""
    status = status_of(end)
    output = _messages(head, texts, _closing(status))
    if isinstance(end, RunError):
        return response_body(head, status, output, error=end)
    if sealed := seal(end):
        output.append(_reasoning(head, len(output), sealed))
    output += [
        _call(head, at, call, call.arguments, "completed")
        for at, call in enumerate(end.tool_calls, len(output))
    ]
    why = _INCOMPLETE.get(end.finish_reason)
    return response_body(head, status, output, usage=end.usage, incomplete=why)


def status_of(end: TerminalEvent) -> Status:
    if isinstance(end, RunError):
        return "failed"
    if end.finish_reason == "cancelled":
        return "cancelled"
    return "incomplete" if end.finish_reason in _INCOMPLETE else "completed"


def lost_frame(number: int) -> bytes:
    """Return the frame that ends a stream which cannot be continued; `number` is that frame's."""
    text = (
        "The stream cannot be continued: the service was interrupted and has begun the answer "
        "anew. Read the response again from its start."
    )
    return _error_frame("stream_lost", text, number)


def _error_frame(code: str, message: str, number: int) -> bytes:
    fault = {
        "type": "error",
        "code": code,
        "message": message,
        "param": None,
        "sequence_number": number,
    }
    return sse.frame(_encode(fault).decode(), event="error")


def end_frame(body: dict[str, Any], number: int) -> bytes:
    kind = _END[body["status"]]
    data = {"type": kind, "sequence_number": number, "response": body}
    return sse.frame(_encode(data).decode(), event=kind)


_END: dict[Status, str] = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    "failed": "response.failed",
    "cancelled": "response.failed",
}


def _code(error: RunError) -> str:
    return "rate_limit_exceeded" if error.code in _RATE_LIMITED else "server_error"


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }


def _closing(status: Status) -> ItemStatus:
    return "completed" if status == "completed" else "incomplete"


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _item_id(head: Head, kind: str, at: int) -> str:
    return f"{kind}_{head.run_id.removeprefix(_RUN)}_{at}"


def _message(head: Head, at: int, text: str | None, status: ItemStatus) -> dict[str, Any]:
    """Return a message as an item; without a text it has only begun."""
    return {
        "id": _item_id(head, "msg", at),
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [] if text is None else [_part(text)],
    }


def _messages(head: Head, texts: Sequence[str], last: ItemStatus) -> list[dict[str, Any]]:
    """Return all messages; `last` is the status of the last one."""
    end = len(texts) - 1
    return [
        _message(head, at, text, last if at == end else "completed")
        for at, text in enumerate(texts)
    ]


def _reasoning(head: Head, at: int, sealed: str) -> dict[str, Any]:
    return {
        "id": _item_id(head, "rs", at),
        "type": "reasoning",
        "summary": [],
        "encrypted_content": sealed,
    }


def _call(
    head: Head, at: int, call: RequestedCall, arguments: str, status: ItemStatus
) -> dict[str, Any]:
    return {
        "id": _item_id(head, "fc", at),
        "type": "function_call",
        "status": status,
        "call_id": call.id,
        "name": call.name,
        "arguments": arguments,
    }


class WholeResponse:
    """Collects events; `end` is the terminal one, or `suspended` the last, once it was there."""

    def __init__(self, head: Head) -> None:
        self.end: TerminalEvent | None = None
        self.suspended: Suspended | None = None
        self._head = head
        self._message_id: str | None = None
        self._texts: list[list[str]] = []

    @property
    def size(self) -> int:
        """How many characters of text it has."""
        return sum(len(piece) for pieces in self._texts for piece in pieces)

    def add(self, event: ReaderEvent) -> None:
        match event:
            case ChatChunk():
                if event.message_id != self._message_id:
                    self._message_id = event.message_id
                    self._texts.append([])
                self._texts[-1].append(event.content)
            case Reset():
                self._message_id = None
                self._texts.clear()
            case ChatComplete() | RunError():
                self.end = event
            case Suspended():
                self.suspended = event
            case ChatStart() | ReasoningChunk() | ToolCallEvent() | AgentUpdated() | RunProgress():
                pass
            case _:
                assert_never(event)

    def body(self, status: Status) -> dict[str, Any]:
        """Return the response; `status` is its status while it has not ended."""
        texts = ["".join(pieces) for pieces in self._texts]
        if self.end is None:
            return unfinished(self._head, status, texts)
        return ended(self._head, texts, self.end)


class ResponsesEncoder:
    """Events to frames. Its memory: the messages so far, and the next frame's number, `next`.

    Args:
        epoch: of the log.
        head: what is known of the response before.
        after: the number of the last frame that the client has; none of those is sent.
    """

    media_type: ClassVar[str] = "text/event-stream"
    heartbeat: ClassVar[bytes] = sse.HEARTBEAT

    def __init__(self, epoch: int, head: Head, after: int = -1) -> None:
        self.next = (epoch - 1) * EPOCH
        self._head = head
        self._after = after
        self._is_over = False
        self._message_id: str | None = None
        self._texts: list[list[str]] = []
        self._delta_head = b""

    def encode(self, event: ReaderEvent) -> bytes:
        if self._is_over:
            return b""
        match event:
            case ChatChunk():
                return self._text(event)
            case ChatStart():
                body = response_body(self._head, "in_progress")
                created = self._frame("response.created", response=body)
                return created + self._frame("response.in_progress", response=body)
            case ChatComplete() | RunError():
                return self._end(event)
            case Suspended():
                self._is_over = True
                return _error_frame(event.code, event.message, max(self.next, self._after + 1))
            case Reset():
                self._is_over = True
                return lost_frame(max(self.next, self._after + 1))
            case ReasoningChunk() | ToolCallEvent() | AgentUpdated() | RunProgress():
                return b""
            case _:
                assert_never(event)

    def _frame(self, kind: str, **members: Any) -> bytes:
        number, self.next = self.next, self.next + 1
        if number <= self._after:
            return b""
        data = {"type": kind, "sequence_number": number, **members}
        return sse.frame(_encode(data).decode(), event=kind)

    def _text(self, event: ChatChunk) -> bytes:
        opening = b""
        if event.message_id != self._message_id:
            opening = self._close("completed") + self._open()
            self._message_id = event.message_id
        self._texts[-1].append(event.content)
        number = self.next + (event.seq - event.first_seq if event.first_seq else 0)
        self.next = number + 1
        if number <= self._after:
            return opening
        # Written out, because it is most of what a stream is.
        delta = b'%b%d,"delta":%b}\n\n' % (self._delta_head, number, _encode(event.content))
        return opening + delta

    def _open(self) -> bytes:
        at = len(self._texts)
        self._texts.append([])
        item = _message(self._head, at, None, "in_progress")
        place = {"item_id": item["id"], "output_index": at, "content_index": 0}
        kind = "response.output_text.delta"
        head = _encode({"type": kind, **place, "logprobs": []})[:-1]
        self._delta_head = b'event: %b\ndata: %b,"sequence_number":' % (kind.encode(), head)
        added = self._frame("response.output_item.added", output_index=at, item=item)
        return added + self._frame("response.content_part.added", **place, part=_part(""))

    def _close(self, status: ItemStatus) -> bytes:
        """End the message that is under way, if there is one."""
        if not self._texts:
            return b""
        at, text = len(self._texts) - 1, "".join(self._texts[-1])
        item = _message(self._head, at, text, status)
        place = {"item_id": item["id"], "output_index": at, "content_index": 0}
        return b"".join(
            (
                self._frame("response.output_text.done", **place, text=text, logprobs=[]),
                self._frame("response.content_part.done", **place, part=_part(text)),
                self._frame("response.output_item.done", output_index=at, item=item),
            )
        )

    def _end(self, end: TerminalEvent) -> bytes:
        self._is_over = True
        frames = [self._close(_closing(status_of(end)))]
        if isinstance(end, ChatComplete):
            first = len(self._texts)
            if sealed := seal(end):
                frames.append(self._reasoning(first, sealed))
                first += 1
            for at, call in enumerate(end.tool_calls, first):
                frames.append(self._call(at, call))
        body = ended(self._head, ["".join(pieces) for pieces in self._texts], end)
        frames.append(self._frame(_END[body["status"]], response=body))
        return b"".join(frames)

    def _reasoning(self, at: int, sealed: str) -> bytes:
        item = _reasoning(self._head, at, sealed)
        added = self._frame("response.output_item.added", output_index=at, item=item)
        return added + self._frame("response.output_item.done", output_index=at, item=item)

    def _call(self, at: int, call: RequestedCall) -> bytes:
        begun = _call(self._head, at, call, "", "in_progress")
        done = _call(self._head, at, call, call.arguments, "completed")
        place = {"item_id": begun["id"], "output_index": at}
        kind, said = "response.function_call_arguments", call.arguments
        return b"".join(
            (
                self._frame("response.output_item.added", output_index=at, item=begun),
                self._frame(f"{kind}.delta", **place, delta=said),
                self._frame(f"{kind}.done", **place, name=call.name, arguments=said),
                self._frame("response.output_item.done", output_index=at, item=done),
            )
        )
