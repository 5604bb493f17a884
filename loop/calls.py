"""The tool calls of one turn: executed together, each with exactly one result.

The laws, a cancel at any await included:

* Every call has exactly one result. A call that did not finish has one that says so, because a
  provider refuses a history with an orphan, for ever.
* Tool events come in the order in which things happen; results are in the order in which the
  model asked.
* Nothing that a tool does ends the run: its failure is a result.
* A call's time counts from the start of its execution, not while it waits for a place.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

import msgspec

from errors import InvalidArguments, NotFound, ToolError
from events import (
    CompletedCall,
    EventSink,
    FailedCall,
    ProgressingCall,
    QueuedCall,
    StartedCall,
    ToolCallComplete,
    ToolCallError,
    ToolCallProgress,
    ToolCallQueued,
    ToolCallStart,
    ToolErrorCode,
)
from loop.state import INTERRUPTED, Reply, RunState, settle
from messages import ToolCall, ToolCallPart, ToolMessage, ToolSpec, clean_text
from models import AgentConfig, is_deep
from offload import offload
from tools.tool import Tool, ToolContext
from tools.values import MAX_DEPTH, json_value
from tools.workers import Worker, Workers

Handoffs: TypeAlias = Mapping[str, Callable[[], object]]
"""An agent's name to what raises `NotFound` where there is no such agent any more."""

_CANCELLED = "The call was cancelled."

_SHOWN_CHARS = 2000
"""How much of arguments that are not JSON an event shows."""

_LONG_CHARS = 16_384
"""From how many characters arguments are parsed in a thread."""

_HANDOFF = "transfer_to_"
_AGENT_CHARS = 64 - len(_HANDOFF)
_NOT_NAME = re.compile(r"[^a-zA-Z0-9_-]")


def handoff_tool(agent: str) -> str:
    """Return the name of the tool that hands over to an agent.

    What another agent's name would come to as well, because a tool's has fewer letters and digits,
    ends in a part of its hash.
    """
    plain = _NOT_NAME.sub("_", agent)
    if plain == agent and len(agent) <= _AGENT_CHARS:
        return _HANDOFF + agent
    mark = hashlib.sha256(agent.encode()).hexdigest()[:8]
    return f"{_HANDOFF}{plain[: _AGENT_CHARS - 9]}_{mark}"


class Calls:
    """What an agent can call: tools, and other agents to hand over to. `config` has its bounds."""

    def __init__(
        self,
        agent: str,
        config: AgentConfig,
        tools: Iterable[Tool],
        workers: Workers,
        handoffs: Handoffs,
    ) -> None:
        self._agent = agent
        self._config = config
        self._workers = workers
        self._tools = {tool.name: tool for tool in tools}
        self._handoffs = {handoff_tool(name): (name, find) for name, find in handoffs.items()}

    def add(self, tool: Tool) -> None:
        self._tools[tool.name] = tool

    def specs(self) -> tuple[ToolSpec, ...]:
        transfers = [
            ToolSpec(
                call,
                f"Hand the conversation over to the agent {name!r}, which goes on with it.",
                {"type": "object", "properties": {}, "additionalProperties": False},
            )
            for call, (name, _) in self._handoffs.items()
        ]
        return (*(tool.spec for tool in self._tools.values()), *transfers)

    def may_be_repeated(self, calls: Sequence[ToolCall]) -> bool:
        """Tell whether all of these calls do no harm when they are executed twice."""
        tools = [self._tools.get(call.name) for call in calls]
        return all(tool is None or tool.idempotent for tool in tools)

    async def together(self, state: RunState, reply: Reply) -> None:
        """Run a turn's calls, as many at a time as allowed, and keep the turn with its results."""
        at_once = self._config.max_parallel_tools if state.prompt.parallel_tools else 1
        gate = asyncio.Semaphore(at_once)
        state.counts.calls += len(reply.calls)
        tasks = [
            asyncio.create_task(self._call(state, reply.message_id, part, gate))
            for part in reply.calls
        ]
        state.calls = {part.call.id: task for part, task in zip(reply.calls, tasks, strict=True)}
        try:
            await asyncio.wait(tasks)
        finally:
            await settle(tasks)
            state.calls = {}
            pairs = [(part.call, task) for part, task in zip(reply.calls, tasks, strict=True)]
            state.transcript.keep(reply.message, [_result(call, task) for call, task in pairs])
            for call, task in pairs:
                if task.cancelled():  # before its first step: nothing inside it could say so
                    _failed(state, reply.message_id, call, "cancelled", _CANCELLED)
                else:
                    task.result()

    def refuse(self, state: RunState, reply: Reply, code: ToolErrorCode, error: str) -> None:
        """Keep a turn whose calls are not executed."""
        calls = [part.call for part in reply.calls]
        state.transcript.keep(reply.message, [_error_result(call, error) for call in calls])
        for call in calls:
            _failed(state, reply.message_id, call, code, error)

    async def again(self, state: RunState, reply: Reply) -> None:
        """Take up the calls of a turn that a crash interrupted.

        A tool that is not idempotent may have done its work already, so it is not executed: the
        model is told that the outcome is not known.
        """
        if self.may_be_repeated(reply.message.tool_calls):
            await self.together(state, reply)
        else:
            self.refuse(state, reply, "interrupted", INTERRUPTED)

    async def _call(
        self, state: RunState, message_id: str, part: ToolCallPart, gate: asyncio.Semaphore
    ) -> ToolMessage:
        """Run one call to its end, whatever that is, and return its result for the model."""
        call = part.call
        if call.name in self._handoffs:
            return self._hand_over(state, message_id, call)
        tool = self._tools.get(call.name)
        if tool is None:
            known = ", ".join([*self._tools, *self._handoffs]) or "none"
            error = f"There is no tool of the name {call.name[:100]!r}. The tools are: {known}."
            return _failed(state, message_id, call, "unknown_tool", error)
        try:
            arguments = await _parsed(tool, part)
            if gate.locked() or self._workers.full:
                waits = QueuedCall(id=call.id, name=call.name, arguments=_arguments(call))
                state.sink.append(ToolCallQueued(message_id=message_id, tool_call=waits))
            async with gate, self._workers.place() as worker:
                return await self._execute(state, message_id, call, tool, arguments, worker)
        except InvalidArguments as fault:
            return _failed(state, message_id, call, "invalid_arguments", str(fault))
        except ToolError as fault:
            return _failed(state, message_id, call, "failed", str(fault))
        except asyncio.CancelledError:
            return _failed(state, message_id, call, "cancelled", _CANCELLED)

    def _hand_over(self, state: RunState, message_id: str, call: ToolCall) -> ToolMessage:
        """Name the agent that takes over; the first of several in one turn does."""
        name, find = self._handoffs[call.name]
        if state.successor is not None:
            error = f"The conversation was handed over to {state.successor!r} already."
            return _failed(state, message_id, call, "failed", error)
        try:
            find()
        except NotFound as fault:
            return _failed(state, message_id, call, "failed", fault.message)
        state.successor = name
        text = f"The agent {name!r} goes on from here."
        return ToolMessage(call.id, call.name, text, successor=name)

    async def _execute(
        self,
        state: RunState,
        message_id: str,
        call: ToolCall,
        tool: Tool,
        arguments: dict[str, Any],
        worker: Worker,
    ) -> ToolMessage:
        """Run a call that has its place: from here its time counts."""
        context = ToolContext(
            run_id=state.run_id,
            conversation_id=state.conversation_id,
            agent=self._agent,
            tool_call_id=call.id,
            report=_reporter(state.sink, message_id, call),
        )
        started = StartedCall(
            id=call.id,
            name=call.name,
            arguments=_arguments(call),
            started_at=datetime.now(UTC),
        )
        state.sink.append(ToolCallStart(message_id=message_id, tool_call=started))
        began = time.perf_counter()
        code: ToolErrorCode
        try:
            async with asyncio.timeout(self._config.tool_call_timeout):
                output = await tool.call(worker, arguments, context)
        except TimeoutError:
            limit = f"{self._config.tool_call_timeout:g} s"
            code, error = "timeout", f"The tool did not answer within its limit of {limit}."
        except asyncio.CancelledError:
            code, error = "cancelled", _CANCELLED
        except ToolError as fault:
            code, error = "failed", str(fault)
        else:
            completed = CompletedCall(
                id=call.id,
                name=call.name,
                arguments=started.arguments,
                result=output.value,
                duration_ms=_since(began),
                truncated=output.truncated,
                started_at=started.started_at,
            )
            state.sink.append(ToolCallComplete(message_id=message_id, tool_call=completed))
            return ToolMessage(
                call.id,
                call.name,
                output.text,
                started_at=started.started_at,
                duration_ms=completed.duration_ms,
            )
        return _failed(state, message_id, call, code, error, _since(began), started.started_at)


async def _parsed(tool: Tool, part: ToolCallPart) -> dict[str, Any]:
    """Return the arguments of a call; `InvalidArguments` where they do not fit."""
    if part.truncated:
        raise InvalidArguments("The arguments are too large; the tool was not called.")
    text = part.call.arguments
    return await offload(tool.parse, text) if len(text) > _LONG_CHARS else tool.parse(text)


def _reporter(
    sink: EventSink, message_id: str, call: ToolCall
) -> Callable[[float, float | None, str | None], None]:
    def report(progress: float, total: float | None, message: str | None) -> None:
        running = ProgressingCall(
            id=call.id, name=call.name, progress=progress, total=total, message=message
        )
        sink.append(ToolCallProgress(message_id=message_id, tool_call=running))

    return report


def _failed(
    state: RunState,
    message_id: str,
    call: ToolCall,
    code: ToolErrorCode,
    error: str,
    duration_ms: float = 0.0,
    started_at: datetime | None = None,
) -> ToolMessage:
    """Say that a call failed, in the log and in the result for the model."""
    failed = FailedCall(
        id=call.id,
        name=call.name,
        arguments=_arguments(call),
        code=code,
        error=error,
        duration_ms=duration_ms,
        started_at=started_at,
    )
    state.sink.append(ToolCallError(message_id=message_id, tool_call=failed))
    return _error_result(call, error, failed)


def _error_result(call: ToolCall, error: str, failed: FailedCall | None = None) -> ToolMessage:
    return ToolMessage(
        call.id,
        call.name,
        f"Error: {error}",
        is_error=True,
        started_at=failed.started_at if failed else None,
        duration_ms=failed.duration_ms if failed else 0.0,
    )


def _result(call: ToolCall, task: asyncio.Task[ToolMessage]) -> ToolMessage:
    """Return the result of a call whose task has ended; it failed only where its log is full."""
    if task.cancelled() or task.exception() is not None:
        return _error_result(call, _CANCELLED)
    return task.result()


def _arguments(call: ToolCall) -> Any:
    """Return the arguments for an event: the JSON, or the text that is none, cut short."""
    text = call.arguments
    try:
        decoded = msgspec.json.decode(text) if text.strip() else {}
        is_plain = "\\u" not in text and not is_deep(decoded, MAX_DEPTH)
        return decoded if is_plain else json_value(decoded)
    except (ValueError, RecursionError):
        return clean_text(text[:_SHOWN_CHARS])


def _since(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 3)
