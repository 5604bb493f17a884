"""Legal logs, as Hypothesis strategies and as one example of every event."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from events import (
    AgentUpdated,
    ChatChunk,
    ChatComplete,
    ChatStart,
    CompletedCall,
    Event,
    FailedCall,
    ProgressingCall,
    QueuedCall,
    ReaderEvent,
    ReasoningChunk,
    Reset,
    RunError,
    RunProgress,
    StartedCall,
    Suspended,
    TerminalEvent,
    ToolCallComplete,
    ToolCallError,
    ToolCallProgress,
    ToolCallQueued,
    ToolCallStart,
    Usage,
    stamped,
)

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""For properties on a machine that has other work to do."""

START = ChatStart(conversation_id="conv_1", agent="chat", model="scripted-1", message_id="msg_1")
DONE = ChatComplete(final_response="42", finish_reason="stop", usage=Usage(3, 2, 5))
FAILED = RunError(code="upstream_error", message="It broke.", retryable=True)
NOON = datetime(2026, 1, 2, 12, 0, 0, 250_000, tzinfo=UTC)
"""When the examples' calls were executed."""


def piece(text: str, message_id: str = "msg_1") -> ChatChunk:
    """Return a piece of an answer."""
    return ChatChunk(message_id=message_id, content=text)


def numbered(events: Sequence[Event], run_id: str = "run_1") -> list[Event]:
    """Return the events as a log has them."""
    return [stamped(event, run_id, at) for at, event in enumerate(events, 1)]


_CHARACTERS = st.sampled_from('ab1 :"\\/{}\n\r\t\0\x7f\x85é\u2028\ufeff\ufffd\U0001f600')
"""What framing and escaping may get wrong; drawn from a table, since all of Unicode is slow."""

_numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | _numbers | st.text(_CHARACTERS, max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(_CHARACTERS, max_size=4), inner)
    ),
    max_leaves=5,
)
_texts = st.text(_CHARACTERS, min_size=1, max_size=8)
_messages = st.sampled_from(["msg_1", "msg_2"])
_pieces: st.SearchStrategy[Event] = st.builds(
    ChatChunk,
    run_id=st.just(""),
    seq=st.just(0),
    first_seq=st.just(0),
    message_id=_messages,
    content=_texts,
) | st.builds(
    ReasoningChunk,
    run_id=st.just(""),
    seq=st.just(0),
    first_seq=st.just(0),
    message_id=_messages,
    content=_texts,
)
_ends: st.SearchStrategy[TerminalEvent] = st.sampled_from([DONE, FAILED])


@st.composite
def _calls(draw: st.DrawFn, number: int) -> list[Event]:
    """One tool call, whole: it may wait, then a start, any progress and one end, or an error."""
    of: dict[str, Any] = {"id": f"c{number}", "name": draw(_texts)}
    arguments = draw(json_values)
    queued = QueuedCall(**of, arguments=arguments)
    waits: list[Event] = [ToolCallQueued(message_id="msg_1", tool_call=queued)]
    waits *= draw(st.integers(0, 1))
    failed = FailedCall(
        **of, arguments=arguments, code="failed", error=draw(_texts), duration_ms=0.5
    )
    if draw(st.booleans()):
        return [*waits, ToolCallError(message_id="msg_1", tool_call=failed)]
    at: dict[str, Any] = {"started_at": draw(st.sampled_from([NOON, None]))}
    error = ToolCallError(message_id="msg_1", tool_call=msgspec.structs.replace(failed, **at))
    result, truncated = draw(json_values), draw(st.booleans())
    completed = CompletedCall(
        **of, arguments=arguments, result=result, duration_ms=1.5, truncated=truncated, **at
    )
    complete = ToolCallComplete(message_id="msg_1", tool_call=completed)
    progress = ProgressingCall(
        **of,
        progress=draw(st.integers(0, 9)),
        total=draw(st.none() | st.just(9.5)),
        message=draw(st.none() | _texts),
    )
    started = StartedCall(**of, arguments=arguments, **at)
    return [
        *waits,
        ToolCallStart(message_id="msg_1", tool_call=started),
        *[ToolCallProgress(message_id="msg_1", tool_call=progress)] * draw(st.integers(0, 2)),
        complete if draw(st.booleans()) else error,
    ]


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    """A whole log, not yet numbered: a start, anything that may happen in between, an end."""
    lanes = [draw(_calls(number)) for number in range(draw(st.integers(0, 3)))]
    middle: list[Event] = []
    for choice in draw(st.lists(st.integers(-1, 5), max_size=20)):
        if choice == -1:
            middle.append(RunProgress(stage="search", message=draw(_texts), done=2, total=3))
        elif choice == 0:
            middle.append(AgentUpdated(message_id="msg_1", agent="other", previous_agent="chat"))
        elif choice <= 3:
            middle.append(draw(_pieces))
        elif lanes:
            lane = lanes[choice % len(lanes)]
            middle.append(lane.pop(0))
            lanes = [lane for lane in lanes if lane]
    return [START, *middle, *(event for lane in lanes for event in lane), draw(_ends)]


_CALL: dict[str, Any] = {"id": "c1", "name": "calculate"}

EXAMPLES: dict[str, ReaderEvent] = {
    event.event_type: event
    for event in (
        stamped(START, "run_1", 1),
        ChatChunk(run_id="run_1", seq=3, first_seq=2, message_id="msg_1", content="é\u2028\n"),
        ReasoningChunk(run_id="run_1", seq=4, message_id="msg_1", content='"so"'),
        ToolCallQueued(
            run_id="run_1",
            seq=5,
            message_id="msg_1",
            tool_call=QueuedCall(**_CALL, arguments={"expression": "6*7"}),
        ),
        ToolCallStart(
            run_id="run_1",
            seq=5,
            message_id="msg_1",
            tool_call=StartedCall(**_CALL, arguments={"expression": "6*7"}, started_at=NOON),
        ),
        ToolCallProgress(
            run_id="run_1",
            seq=6,
            message_id="msg_1",
            tool_call=ProgressingCall(**_CALL, progress=1, total=None, message=None),
        ),
        ToolCallComplete(
            run_id="run_1",
            seq=7,
            message_id="msg_1",
            tool_call=CompletedCall(
                **_CALL,
                arguments={},
                result=42,
                duration_ms=0.5,
                truncated=False,
                started_at=NOON,
            ),
        ),
        ToolCallError(
            run_id="run_1",
            seq=8,
            message_id="msg_1",
            tool_call=FailedCall(
                **_CALL, arguments="{", code="invalid_arguments", error="No.", duration_ms=0.0
            ),
        ),
        AgentUpdated(
            run_id="run_1", seq=9, message_id="msg_1", agent="other", previous_agent="chat"
        ),
        RunProgress(run_id="run_1", seq=9, stage="search", message="Two of 3", done=2, total=3),
        stamped(DONE, "run_1", 10),
        stamped(FAILED, "run_1", 10),
        Reset(run_id="run_1", epoch=2, reason="epoch_changed"),
        Suspended(run_id="run_1", seq=10),
    )
}
"""One event of each type, as a reader gets it, by its name."""
