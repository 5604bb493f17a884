"""One conversation, and how it looks in each protocol: `conversation/<protocol>.txt`.

`python -m tests.protocols.golden` writes the files anew; what changed in them has changed on
the wire.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from events import (
    ChatChunk,
    ChatComplete,
    ChatStart,
    CompletedCall,
    Event,
    FailedCall,
    ProgressingCall,
    QueuedCall,
    ReasoningChunk,
    StartedCall,
    ToolCallComplete,
    ToolCallError,
    ToolCallProgress,
    ToolCallQueued,
    ToolCallStart,
    Usage,
)
from protocols import ENCODERS, Encoder
from protocols.completions import CompletionsEncoder
from tests.logs import numbered

FOLDER = Path(__file__).with_name("conversation")

_FIRST, _SECOND = "msg_a", "msg_b"
_SUM: dict[str, Any] = {"id": "call_1", "name": "calculate"}
_WEATHER: dict[str, Any] = {"id": "call_2", "name": "get_weather"}
_EXPRESSION = {"expression": "15 + 27"}
_CITY = {"city": "Zürich"}
_CLOCK: dict[str, Any] = {"id": "call_3", "name": "get_time"}
_ZONE = {"zone": "Europe/Zurich"}
_AT = datetime(2026, 1, 2, 12, 0, 0, 250_000, tzinfo=UTC)
_LATER = datetime(2026, 1, 2, 12, 0, 0, 250_300, tzinfo=UTC)

CONVERSATION: list[Event] = numbered(
    [
        ChatStart(conversation_id="conv_1", agent="chat", model="scripted-1", message_id=_FIRST),
        ReasoningChunk(message_id=_FIRST, content="Two things are asked."),
        ChatChunk(message_id=_FIRST, content="I look"),
        ChatChunk(message_id=_FIRST, content=" at both:\n"),
        ToolCallStart(
            message_id=_FIRST,
            tool_call=StartedCall(**_SUM, arguments=_EXPRESSION, started_at=_AT),
        ),
        ToolCallStart(
            message_id=_FIRST,
            tool_call=StartedCall(**_WEATHER, arguments=_CITY, started_at=_AT),
        ),
        ToolCallQueued(message_id=_FIRST, tool_call=QueuedCall(**_CLOCK, arguments=_ZONE)),
        ToolCallProgress(
            message_id=_FIRST,
            tool_call=ProgressingCall(**_WEATHER, progress=1, total=2, message="Asking"),
        ),
        ToolCallComplete(
            message_id=_FIRST,
            tool_call=CompletedCall(
                **_SUM,
                arguments=_EXPRESSION,
                result=42,
                duration_ms=0.25,
                truncated=False,
                started_at=_AT,
            ),
        ),
        ToolCallStart(
            message_id=_FIRST,
            tool_call=StartedCall(**_CLOCK, arguments=_ZONE, started_at=_LATER),
        ),
        ToolCallComplete(
            message_id=_FIRST,
            tool_call=CompletedCall(
                **_CLOCK,
                arguments=_ZONE,
                result={"time": "13:00"},
                duration_ms=0.125,
                truncated=False,
                started_at=_LATER,
            ),
        ),
        ToolCallError(
            message_id=_FIRST,
            tool_call=FailedCall(
                **_WEATHER,
                arguments=_CITY,
                code="failed",
                error="The source cannot be reached.",
                duration_ms=12.5,
                started_at=_AT,
            ),
        ),
        ChatChunk(message_id=_SECOND, content="{15 + 27}"),
        ChatChunk(message_id=_SECOND, content=" is 42,\n\n"),
        ChatChunk(message_id=_SECOND, content="the weather in Zürich\u2028unknown. 🙂"),
        ChatComplete(
            final_response="{15 + 27} is 42,\n\nthe weather in Zürich\u2028unknown. 🙂",
            finish_reason="stop",
            usage=Usage(40, 21, 61),
        ),
    ],
    "run_1",
)
"""Two calls at a time of three; one fails, one waits; text before and behind them."""


def encoder_of(protocol: str, epoch: int) -> Encoder:
    """Return an encoder whose clock stands still."""
    if protocol == "openai":
        return CompletionsEncoder(epoch, created=1_700_000_000)
    return ENCODERS[protocol](epoch)


def encoded(protocol: str) -> bytes:
    """Return the conversation's whole stream in a protocol."""
    encoder = encoder_of(protocol, 1)
    return b"".join(map(encoder.encode, CONVERSATION))


def stored(protocol: str) -> Path:
    """Return where the expected stream of a protocol is."""
    return FOLDER / f"{protocol}.txt"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in ENCODERS:
        stored(name).write_bytes(encoded(name))
