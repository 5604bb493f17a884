"""What the tests of the agent loop share."""

import asyncio
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
import pytest

from agent import StreamingAgent
from errors import ToolError, UpstreamError
from events import (
    ChatChunk,
    ChatComplete,
    Event,
    ToolCallComplete,
    ToolCallError,
    ToolCallProgress,
    ToolCallQueued,
    ToolCallStart,
)
from loop.state import Prompt, RunState
from messages import AssistantMessage, Message, ModelRequest, ToolMessage, UserMessage
from models import AgentConfig
from tests.scripted import (
    DEADLINE,
    Recorder,
    Script,
    ScriptedProvider,
)
from tools.tool import ToolContext, tool_from
from tools.workers import Workers

BROKEN = UpstreamError("The stream broke off.", code="upstream_truncated")


class Held:
    """A tool that blocks its thread until the test lets it go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.released = threading.Event()

    def held(self) -> str:
        """Wait."""
        self.entered.set()
        self.released.wait(DEADLINE)
        return "released"


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def hang() -> None:
    """Never end."""
    await asyncio.Event().wait()


def fail() -> None:
    """Fail."""
    raise ToolError("The source cannot be reached.")


def crash() -> None:
    """Raise."""
    raise ZeroDivisionError("by zero")


def leave() -> None:
    """Exit."""
    sys.exit(3)


async def count(context: ToolContext) -> str:
    """Report progress."""
    for number in range(5):
        context.progress(number, 5, "on the way")
        await asyncio.sleep(0)
    return "counted"


TOOLS: tuple[Callable[..., Any], ...] = (add, hang, fail, crash, leave, count)


class Bench:
    """An agent, one run of it, and what came of it."""

    def __init__(
        self,
        workers: Workers,
        *replies: Script,
        tools: Iterable[Callable[..., Any]] = TOOLS,
        parallel_tools: bool = True,
        sink: Recorder | None = None,
        reply_to: Callable[[ModelRequest], Script] | None = None,
        **config: Any,
    ) -> None:
        self.provider = ScriptedProvider(*replies, reply_to=reply_to)
        config = {"instructions": "Be brief."} | config
        self.agent = StreamingAgent(
            "chat", AgentConfig(**config), self.provider, map(tool_from, tools), workers
        )
        self.sink = sink or Recorder()
        self.state = RunState(
            run_id="run_1",
            conversation_id="conv_1",
            message_id="msg_first",
            sink=self.sink,
            prompt=Prompt((UserMessage("Go."),), parallel_tools=parallel_tools),
        )

    async def run(self) -> ChatComplete:
        """Run to the end and check the laws."""
        async with asyncio.timeout(DEADLINE):
            done = await self.agent.run(self.state)
        self.check()
        self.sink.append(done)
        return done

    async def fails(self, kind: type[BaseException]) -> None:
        """Run to its failure and check the laws."""
        async with asyncio.timeout(DEADLINE):
            with pytest.raises(kind):
                await self.agent.run(self.state)
        self.check()

    def check(self) -> None:
        """Check what holds however a run ended."""
        check_history(self.state.transcript.messages)
        check_calls(self.sink.events)
        streamed: dict[str, str] = {}
        for event in self.sink.of(ChatChunk):
            streamed[event.message_id] = streamed.get(event.message_id, "") + event.content
        kept = [message.content for message in self.said() if message.content.strip()]
        assert kept == [text for text in streamed.values() if text.strip()]
        assert self.provider.open_streams == 0
        assert self.state.calls == {}

    def said(self) -> list[AssistantMessage]:
        return [
            message
            for message in self.state.transcript.messages
            if isinstance(message, AssistantMessage)
        ]

    def results(self) -> list[ToolMessage]:
        return [
            message
            for message in self.state.transcript.messages
            if isinstance(message, ToolMessage)
        ]

    def errors(self) -> list[tuple[str, str]]:
        """Return id and code of each call that failed, in the order of events."""
        return [(event.tool_call.id, event.tool_call.code) for event in self.sink.of(ToolCallError)]


def timeless(messages: Iterable[Message]) -> list[Message]:
    """Return messages without the times at which their calls were executed."""
    return [
        msgspec.structs.replace(message, started_at=None, duration_ms=0.0)
        if isinstance(message, ToolMessage)
        else message
        for message in messages
    ]


def check_history(messages: Sequence[Message]) -> None:
    """Every call has exactly one result, directly behind it and in the same order."""
    due: list[str] = []
    seen: set[str] = set()
    for message in messages:
        if isinstance(message, ToolMessage):
            assert due, f"a result without a call: {message}"
            assert message.tool_call_id == due.pop(0)
            continue
        assert not due, f"calls without a result: {due}"
        if isinstance(message, AssistantMessage):
            due = [call.id for call in message.tool_calls]
            assert not seen & set(due)
            seen |= set(due)
    assert not due, f"calls without a result: {due}"


def check_calls(events: Iterable[Event]) -> None:
    """A started call has one end, and its progress lies between; no call is told of twice.

    One that waits says so before anything else, and ends in any case.
    """
    waiting: set[str] = set()
    running: set[str] = set()
    ended: set[str] = set()
    starts: dict[str, datetime | None] = {}
    for event in events:
        if isinstance(event, ToolCallQueued):
            assert event.tool_call.id not in waiting | running | ended
            waiting.add(event.tool_call.id)
        elif isinstance(event, ToolCallStart):
            assert event.tool_call.id not in running | ended
            waiting.discard(event.tool_call.id)
            running.add(event.tool_call.id)
            starts[event.tool_call.id] = event.tool_call.started_at
        elif isinstance(event, ToolCallProgress):
            assert event.tool_call.id in running
        elif isinstance(event, ToolCallComplete | ToolCallError):
            assert event.tool_call.id not in ended
            assert event.tool_call.id in running or isinstance(event, ToolCallError)
            assert event.tool_call.started_at == starts.get(event.tool_call.id)
            waiting.discard(event.tool_call.id)
            running.discard(event.tool_call.id)
            ended.add(event.tool_call.id)
    assert not waiting | running, f"told of and never ended: {waiting | running}"


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - threads make it true
            await asyncio.sleep(0.001)
