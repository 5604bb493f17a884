"""A run's events as one whole answer, for clients that do not stream."""

from typing import assert_never

from events import (
    AgentUpdated,
    ChatChunk,
    ChatComplete,
    ChatStart,
    ReaderEvent,
    ReasoningChunk,
    Reset,
    RunError,
    RunProgress,
    Suspended,
    ToolCallComplete,
    ToolCallError,
    ToolCallEvent,
)
from models import ChatResponse, TokenUsage, ToolCallRecord


class WholeAnswer:
    """Collects events until the last one; `result` is the answer or the failure."""

    def __init__(self) -> None:
        self.result: ChatResponse | RunError | None = None
        self._start: ChatStart | None = None
        self._agent = ""
        self._calls: list[ToolCallRecord] = []

    def add(self, event: ReaderEvent) -> None:
        match event:
            case ChatStart():
                self._start, self._agent = event, event.agent
            case ToolCallComplete() | ToolCallError():
                call = ToolCallRecord.model_validate(event.tool_call, from_attributes=True)
                self._calls.append(call)
            case AgentUpdated():
                self._agent = event.agent
            case Reset():
                self._calls.clear()
            case ChatComplete():
                self.result = self._response(event)
            case RunError():
                self.result = event
            case Suspended():
                self.result = event.as_error()
            case ChatChunk() | ReasoningChunk() | ToolCallEvent() | RunProgress():
                pass
            case _:
                assert_never(event)

    def _response(self, done: ChatComplete) -> ChatResponse:
        if self._start is None:
            raise ValueError("a run's events begin with chat_start")
        return ChatResponse(
            response=done.final_response,
            conversation_id=self._start.conversation_id,
            run_id=done.run_id,
            agent=self._agent,
            model=self._start.model,
            finish_reason=done.finish_reason,
            tool_calls=self._calls,
            usage=TokenUsage.model_validate(done.usage, from_attributes=True)
            if done.usage
            else None,
        )
