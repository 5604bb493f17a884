"""The agent loop: ask the model, call its tools together, repeat.

`StreamingAgent.run` works on a `Turns` object, which belongs to one run: the context that the
model gets, what is to be kept of the run, and where its events go. It emits everything up to
and including `chat_complete`; where it raises instead (`ParleyError`, a cancel), the owner of
the run ends the log.

Laws, whatever happens, a cancel at any await included:

* Every tool call in `Turns.kept` has exactly one result. A call that did not finish has one
  that says so, because a provider refuses a history with an orphan, for ever.
* The text that was streamed is kept, also where the stream broke.
* Tool events come in the order in which things happen; results go back to the model in the
  order in which it asked.
* Nothing that a tool does ends the run: its failure is a result.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from errors import InvalidArguments, ToolError
from events import (
    ChatChunk,
    ChatComplete,
    CompletedCall,
    EventSink,
    FailedCall,
    FinishReason,
    ProgressingCall,
    ReasoningChunk,
    StartedCall,
    ToolCallComplete,
    ToolCallError,
    ToolCallProgress,
    ToolCallStart,
    ToolErrorCode,
    Usage,
)
from llm import Provider
from models import (
    AgentConfig,
    AssistantMessage,
    EndPart,
    Message,
    ModelRequest,
    ReasoningBlock,
    ReasoningBlockPart,
    ReasoningPart,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolCallPart,
    ToolMessage,
    clean_text,
    new_id,
)
from tools.tool import Tool, ToolContext, tool_from
from tools.values import json_value
from tools.workers import Worker, Workers

REPEATS = 3
"""How often in a row the same calls with the same arguments count as going round in circles."""

_CANCELLED = "The call was cancelled."

_SHOWN_CHARS = 2000
"""How much of arguments that are not JSON an event shows."""

_LIMIT_TEXT: dict[FinishReason, str] = {
    "max_turns": "the run's limit of questions to the model is reached",
    "max_tool_calls": "the run's limit of tool calls is reached",
    "repeated_tool_calls": "the same calls were made again and again",
}


class Reply(NamedTuple):
    """What the model said in one turn."""

    message_id: str
    text: str
    reasoning: tuple[ReasoningBlock, ...]
    calls: tuple[ToolCallPart, ...]
    end: EndPart


@dataclass
class Turns:
    """One run of an agent: its input, its progress, and where its events go.

    Args:
        context: what the model gets to see of the conversation, the new message included.
        sink: takes the events.
        message_id: the id of the model's first message.
        kept: grows by whole turns: what a conversation has to keep of this run.
        calls: the running and waiting tool calls by id; cancelling one ends that call only.
    """

    run_id: str
    conversation_id: str
    context: tuple[Message, ...]
    sink: EventSink
    message_id: str
    parallel_tools: bool = True
    kept: list[Message] = field(default_factory=list)
    calls: dict[str, asyncio.Task[ToolMessage]] = field(default_factory=dict)
    usage: Usage | None = None
    text: str = ""
    turns: int = 0
    called: int = 0
    _recent: list[tuple[tuple[str, str], ...]] = field(default_factory=list)
    _ids: set[str] = field(default_factory=set)

    def with_own_id(self, part: ToolCallPart) -> ToolCallPart:
        """Return the call with an id that no other call of the run has; some servers reuse."""
        call = part.call
        if not call.id or call.id in self._ids:
            call = msgspec.structs.replace(call, id=new_id("call"))
            part = msgspec.structs.replace(part, call=call)
        self._ids.add(call.id)
        return part

    def keep(
        self,
        text: str,
        calls: Iterable[ToolCall] = (),
        results: Iterable[ToolMessage] = (),
        reasoning: tuple[ReasoningBlock, ...] = (),
    ) -> None:
        """Keep a turn: what the model said, with the result of each of its calls."""
        calls = tuple(calls)
        if text or calls:
            self.kept.append(AssistantMessage(text, calls, reasoning))
        self.kept.extend(results)

    def repeats(self, calls: Sequence[ToolCallPart]) -> int:
        """Count in how many turns in a row, this one included, the same calls were made."""
        made = tuple(sorted((part.call.name, part.call.arguments) for part in calls))
        if self._recent and self._recent[-1] != made:
            self._recent.clear()
        self._recent.append(made)
        return len(self._recent)


class StreamingAgent:
    """A model, its instructions and its tools.

    Args:
        name: the agent's name in the service.
        config: its configuration, with `instructions` and `model` filled in.
        provider: where its answers come from.
        tools: the tools that it may call.
        workers: where the tools run.
    """

    def __init__(
        self,
        name: str,
        config: AgentConfig,
        provider: Provider,
        tools: Iterable[Tool],
        workers: Workers,
    ) -> None:
        self.name = name
        self.config = config
        self._provider = provider
        self._workers = workers
        self._tools = {tool.name: tool for tool in tools}

    @property
    def model(self) -> str:
        """The model that answers."""
        return self._provider.answering(self.config.model)

    def add_tool(self, function: Callable[..., Any]) -> None:
        """Let the agent call a function; see `tools.tool.tool_from` for what it may be."""
        tool = tool_from(function)
        self._tools[tool.name] = tool

    async def run(self, turns: Turns) -> ChatComplete:
        """Answer the last message of `turns.context`.

        Returns:
            The terminal event, which has been emitted.

        Raises:
            errors.ParleyError: the provider failed, or the sink is full.
        """
        while True:
            reply = await self._ask(turns)
            if not reply.calls:
                turns.keep(reply.text, reasoning=reply.reasoning)
                return self._complete(turns, _finish_reason(reply.end))
            limit = self._limit(turns, reply.calls)
            if limit is None:
                await self._call_together(turns, reply)
            else:
                self._refuse_all(turns, reply, _LIMIT_TEXT[limit])
                return self._complete(turns, limit)

    async def _ask(self, turns: Turns) -> Reply:
        """Stream one reply of the model; what was streamed is kept also when it breaks off."""
        message_id = turns.message_id if turns.turns == 0 else new_id("msg")
        turns.turns += 1
        pieces: list[str] = []
        calls: list[ToolCallPart] = []
        reasoning: list[ReasoningBlock] = []
        end: EndPart | None = None
        is_whole = False
        append = turns.sink.append
        try:
            async with aclosing(self._provider.stream(self._request(turns))) as batches:
                async for batch in batches:
                    for part in batch:
                        if isinstance(part, TextPart):
                            pieces.append(part.content)
                            append(ChatChunk(message_id=message_id, content=part.content))
                        elif isinstance(part, ReasoningPart):
                            append(ReasoningChunk(message_id=message_id, content=part.content))
                        elif isinstance(part, ToolCallPart):
                            calls.append(turns.with_own_id(part))
                        elif isinstance(part, ReasoningBlockPart):
                            reasoning.append(part.block)
                        else:
                            end = part
                    await turns.sink.drain()
            is_whole = True
        finally:
            turns.text = "".join(pieces)
            if end is None or not is_whole:
                turns.keep(turns.text)
        if end is None:
            raise RuntimeError("a provider's stream ended without its end part")
        if end.usage is not None:
            turns.usage = (turns.usage or Usage()) + end.usage
        return Reply(message_id, turns.text, tuple(reasoning), tuple(calls), end)

    def _request(self, turns: Turns) -> ModelRequest:
        instructions = SystemMessage(self.config.instructions or "")
        return ModelRequest(
            model=self.model,
            fallbacks=tuple(self.config.fallback_models),
            messages=(instructions, *turns.context, *turns.kept),
            tools=tuple(tool.spec for tool in self._tools.values()),
            parallel_tools=turns.parallel_tools,
            temperature=self.config.temperature,
            max_tokens=self.config.max_tokens,
        )

    def _limit(self, turns: Turns, calls: Sequence[ToolCallPart]) -> FinishReason | None:
        """Return the limit that forbids these calls, if one does."""
        if turns.turns >= self.config.max_turns:
            return "max_turns"
        if turns.called + len(calls) > self.config.max_tool_calls:
            return "max_tool_calls"
        if turns.repeats(calls) >= REPEATS:
            return "repeated_tool_calls"
        return None

    def _complete(self, turns: Turns, reason: FinishReason) -> ChatComplete:
        done = ChatComplete(final_response=turns.text, finish_reason=reason, usage=turns.usage)
        turns.sink.append(done)
        return done

    async def _call_together(self, turns: Turns, reply: Reply) -> None:
        """Run a turn's calls, as many at a time as allowed, and keep the turn with its results."""
        gate = asyncio.Semaphore(self.config.max_parallel_tools if turns.parallel_tools else 1)
        turns.called += len(reply.calls)
        tasks = [
            asyncio.create_task(self._call(turns, reply.message_id, part, gate))
            for part in reply.calls
        ]
        turns.calls = {part.call.id: task for part, task in zip(reply.calls, tasks, strict=True)}
        try:
            await asyncio.wait(tasks)
        finally:
            await _settle(tasks)
            turns.calls = {}
            calls = [part.call for part in reply.calls]
            pairs = [*zip(calls, tasks, strict=True)]
            results = [_result(call, task) for call, task in pairs]
            turns.keep(reply.text, calls, results, reply.reasoning)
            for call, task in pairs:
                if task.cancelled():  # before its first step: nothing inside it could say so
                    _failed(turns, reply.message_id, call, "cancelled", _CANCELLED)
                else:
                    task.result()

    def _refuse_all(self, turns: Turns, reply: Reply, why: str) -> None:
        """Keep a turn whose calls are not executed."""
        error = f"Not executed: {why}."
        calls = [part.call for part in reply.calls]
        results = [_error_result(call, error) for call in calls]
        turns.keep(reply.text, calls, results, reply.reasoning)
        for call in calls:
            _failed(turns, reply.message_id, call, "limit", error)

    async def _call(
        self, turns: Turns, message_id: str, part: ToolCallPart, gate: asyncio.Semaphore
    ) -> ToolMessage:
        """Run one call to its end, whatever that is, and return its result for the model."""
        call = part.call
        tool = self._tools.get(call.name)
        if tool is None:
            known = ", ".join(self._tools) or "none"
            error = f"There is no tool of the name {call.name[:100]!r}. The tools are: {known}."
            return _failed(turns, message_id, call, "unknown_tool", error)
        try:
            if part.truncated:
                raise InvalidArguments("The arguments are too large; the tool was not called.")
            arguments = tool.parse(call.arguments)
        except InvalidArguments as fault:
            return _failed(turns, message_id, call, "invalid_arguments", str(fault))
        try:
            async with gate, self._workers.place() as worker:
                return await self._execute(turns, message_id, call, tool, arguments, worker)
        except ToolError as fault:
            return _failed(turns, message_id, call, "failed", str(fault))
        except asyncio.CancelledError:
            return _failed(turns, message_id, call, "cancelled", _CANCELLED)

    async def _execute(
        self,
        turns: Turns,
        message_id: str,
        call: ToolCall,
        tool: Tool,
        arguments: dict[str, Any],
        worker: Worker,
    ) -> ToolMessage:
        """Run a call that has its place: from here its time counts."""
        context = ToolContext(
            run_id=turns.run_id,
            conversation_id=turns.conversation_id,
            agent=self.name,
            tool_call_id=call.id,
            report=_reporter(turns.sink, message_id, call),
        )
        started = StartedCall(id=call.id, name=call.name, arguments=_arguments(call))
        turns.sink.append(ToolCallStart(message_id=message_id, tool_call=started))
        began = time.perf_counter()
        code: ToolErrorCode
        try:
            async with asyncio.timeout(self.config.tool_call_timeout):
                output = await tool.call(worker, arguments, context)
        except TimeoutError:
            limit = f"{self.config.tool_call_timeout:g} s"
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
            )
            turns.sink.append(ToolCallComplete(message_id=message_id, tool_call=completed))
            return ToolMessage(call.id, call.name, output.text)
        return _failed(turns, message_id, call, code, error, _since(began))


async def _settle(tasks: Sequence[asyncio.Task[ToolMessage]]) -> None:
    """End what still runs, and wait for it; a second cancel does not shorten the wait.

    A worker lets go of a cancelled call in a fraction of a second, so the wait is short; and
    without all results there would be calls without one.
    """
    for task in tasks:
        task.cancel()
    while not all(task.done() for task in tasks):
        with suppress(asyncio.CancelledError):
            await asyncio.wait(tasks)


def _reporter(
    sink: EventSink, message_id: str, call: ToolCall
) -> Callable[[float, float | None, str | None], None]:
    """Return what makes a running call's reports events."""

    def report(progress: float, total: float | None, message: str | None) -> None:
        running = ProgressingCall(
            id=call.id, name=call.name, progress=progress, total=total, message=message
        )
        sink.append(ToolCallProgress(message_id=message_id, tool_call=running))

    return report


def _failed(
    turns: Turns,
    message_id: str,
    call: ToolCall,
    code: ToolErrorCode,
    error: str,
    duration_ms: float = 0.0,
) -> ToolMessage:
    """Say that a call failed, in the log and in the result for the model."""
    failed = FailedCall(
        id=call.id,
        name=call.name,
        arguments=_arguments(call),
        code=code,
        error=error,
        duration_ms=duration_ms,
    )
    turns.sink.append(ToolCallError(message_id=message_id, tool_call=failed))
    return _error_result(call, error)


def _error_result(call: ToolCall, error: str) -> ToolMessage:
    return ToolMessage(call.id, call.name, f"Error: {error}", is_error=True)


def _result(call: ToolCall, task: asyncio.Task[ToolMessage]) -> ToolMessage:
    """Return the result of a call whose task has ended; it failed only where its log is full."""
    if task.cancelled() or task.exception() is not None:
        return _error_result(call, _CANCELLED)
    return task.result()


def _arguments(call: ToolCall) -> Any:
    """Return the arguments for an event: the JSON, or the text that is none, cut short."""
    try:
        return json_value(msgspec.json.decode(call.arguments)) if call.arguments.strip() else {}
    except (ValueError, RecursionError):
        return clean_text(call.arguments[:_SHOWN_CHARS])


def _finish_reason(end: EndPart) -> FinishReason:
    return "stop" if end.finish_reason == "tool_calls" else end.finish_reason


def _since(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 3)
