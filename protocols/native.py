"""The service's own wire: its events as they are.

Over SSE each event is one frame, `id: <run_id>:<epoch>:<seq>` and `data: {event}`. Over a
WebSocket it is one text message, `{"type", "request_id"?, "id", "data": {event}}`, where
`data` and `id` are the same as over SSE. `type` is `tool_call` for the start, the completion
and the error of a call, and the `event_type` for all others. A `reset` has no `id`: nothing
can be continued from it.

That a run is suspended is no event of this wire: the stream ends without a terminal event, or the
socket is closed, and the client comes back with its cursor.
"""

from typing import ClassVar, TypeAlias, get_args

import msgspec

import sse
from events import (
    Event,
    ReaderEvent,
    Reset,
    Suspended,
    ToolCallComplete,
    ToolCallError,
    ToolCallStart,
)

_encode = msgspec.json.Encoder().encode

NativeEvent: TypeAlias = Event | Reset
"""What a client of this wire gets."""

_TYPES = {
    kind: "tool_call"
    if kind in (ToolCallStart, ToolCallComplete, ToolCallError)
    else str(kind.__struct_config__.tag)
    for kind in get_args(NativeEvent)
}


class EventsEncoder:
    """Events of one run to SSE frames. Its only memory is the epoch, which a `reset` changes."""

    media_type: ClassVar[str] = "text/event-stream"
    heartbeat: ClassVar[bytes] = sse.HEARTBEAT

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._run = b""  # `<run_id>:<epoch>:`, made once

    def encode(self, event: ReaderEvent) -> bytes:
        if type(event) is Suspended:
            return b""
        if type(event) is Reset:
            self._epoch, self._run = event.epoch, b""
            return sse.frame(_encode(event).decode())
        if not self._run:
            self._run = f"{event.run_id}:{self._epoch}:".encode()
        return sse.json_frame(_encode(event), b"%b%d" % (self._run, event.seq))


class WebSocketEncoder:
    """Events of one run to WebSocket text messages in UTF-8, for one subscription.

    What all messages of a type begin with is made once.
    """

    def __init__(self, epoch: int, request_id: str | None) -> None:
        self._epoch = epoch
        self._request = f'"request_id":"{request_id}",' if request_id is not None else ""
        self._heads: dict[type[NativeEvent], bytes] = {}

    def encode(self, event: NativeEvent) -> bytes:
        if type(event) is Reset:
            self._epoch = event.epoch
            self._heads.clear()
            return b'{"type":"reset",%b"data":%b}' % (self._request.encode(), _encode(event))
        head = self._heads.get(type(event)) or self._head(event)
        return b'%b%d","data":%b}' % (head, event.seq, _encode(event))

    def _head(self, event: NativeEvent) -> bytes:
        place = f'"id":"{event.run_id}:{self._epoch}:'
        head = f'{{"type":"{_TYPES[type(event)]}",{self._request}{place}'.encode()
        self._heads[type(event)] = head
        return head
