"""The service's own wire: its events as they are.

Over SSE each event is one frame, `id: <run_id>:<epoch>:<seq>` and `data: {event}`. Over a
WebSocket it is one text message, `{"type", "request_id"?, "id", "data": {event}}`, where
`data` and `id` are the same as over SSE. `type` is `tool_call` for the start, the completion
and the error of a call, and the `event_type` for all others. A `reset` has no `id`: nothing
can be continued from it.
"""

from typing import ClassVar, get_args

import msgspec

import sse
from events import ReaderEvent, Reset, ToolCallComplete, ToolCallError, ToolCallStart

_encode = msgspec.json.Encoder().encode

_TYPES = {
    kind: "tool_call"
    if kind in (ToolCallStart, ToolCallComplete, ToolCallError)
    else str(kind.__struct_config__.tag)
    for kind in get_args(ReaderEvent)
}


class EventsEncoder:
    """Events to SSE frames. Its only memory is the epoch, which a `reset` changes."""

    media_type: ClassVar[str] = "text/event-stream"
    heartbeat: ClassVar[bytes] = sse.HEARTBEAT

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    def encode(self, event: ReaderEvent) -> bytes:
        """Return one frame."""
        if type(event) is Reset:
            self._epoch = event.epoch
            return sse.frame(_encode(event).decode())
        place = b"%b:%d:%d" % (event.run_id.encode(), self._epoch, event.seq)
        return sse.json_frame(_encode(event), place)

    def end(self) -> bytes:
        """Return nothing: the terminal event is the end."""
        return b""


class WebSocketEncoder:
    """Events to WebSocket text messages in UTF-8, for one subscription."""

    def __init__(self, epoch: int, request_id: str | None) -> None:
        self._epoch = epoch
        self._request = f'"request_id":"{request_id}",' if request_id is not None else ""

    def encode(self, event: ReaderEvent) -> bytes:
        """Return one message."""
        kind = _TYPES[type(event)]
        if type(event) is Reset:
            self._epoch = event.epoch
            place = ""
        else:
            place = f'"id":"{event.run_id}:{self._epoch}:{event.seq}",'
        head = f'{{"type":"{kind}",{self._request}{place}"data":'
        return b"%b%b}" % (head.encode(), _encode(event))
