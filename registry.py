"""Agents by name, and the life of every run.

The registry owns each run: a task of its own, which no reader can end by going away. Its
stations:

1. `start` decides in one step without an await: is this a repeated request, may the
   conversation take it, is there room. Then the run is in the conversation's queue.
2. Its task opens the log (`chat_start`), waits for the floor, and lets the agent answer.
3. Whatever happens there, exactly one terminal event ends the log, what was said is kept, and
   the next run gets the floor.

Runs are remembered after their end, longer than their logs: a reader that comes too late for
the events still learns the outcome.
"""

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import NamedTuple, Self

from agent import StreamingAgent, Turns
from conversations import Conversation, Conversations, Run, Work, context
from errors import (
    Conflict,
    Invalid,
    NotFound,
    ParleyError,
    RunTimeout,
    TooMany,
    Unavailable,
)
from events import ChatChunk, ChatComplete, ChatStart, Reset, RunError, TerminalEvent, stamped
from hub import Hub, Log, LogNotFound, Reader, parse_cursor
from hub.fixed import FixedReader
from llm import Provider
from models import AgentConfig, AgentInfo, ChatRequest, UserMessage, new_id
from tools.tool import Tool
from tools.workers import Workers

DEFAULT_AGENT = "chat"

logger = logging.getLogger("parley.registry")


class Limits(NamedTuple):
    """The bounds that the registry keeps. Durations in seconds."""

    max_message_chars: int
    max_active_runs: int
    max_queued_messages: int
    max_conversations: int
    conversations_max_bytes: int
    max_agents: int
    history_messages: int
    run_timeout: float
    run_ttl: float
    max_runs: int
    tool_workers: int
    shutdown_grace: float


class AgentRegistry:
    """All agents and all runs of this process; an async context manager that owns them.

    Args:
        provider: answers for every agent.
        hub: keeps the logs.
        tools: what agents may use, by name.
        limits: the bounds.
        instructions: the system prompt of agents that bring none.
        allowed_models: the models that an agent may name; empty: any.
    """

    def __init__(
        self,
        *,
        provider: Provider,
        hub: Hub,
        tools: Iterable[Tool],
        limits: Limits,
        instructions: str,
        allowed_models: frozenset[str] = frozenset(),
    ) -> None:
        self.provider = provider
        self.tools: Mapping[str, Tool] = {tool.name: tool for tool in tools}
        self.draining = False
        self._hub = hub
        self._limits = limits
        self._instructions = instructions
        self._allowed_models = allowed_models
        self._workers = Workers(limits.tool_workers)
        self._agents: dict[str, StreamingAgent] = {}
        self._conversations = Conversations(
            limits.max_conversations, limits.conversations_max_bytes
        )
        self._runs: dict[str, Run] = {}
        self._active: set[Run] = set()
        self._finished: deque[tuple[float, str]] = deque()
        self._keys: dict[str, tuple[bytes, str]] = {}
        self._stack = AsyncExitStack()
        self._tasks = asyncio.TaskGroup()
        self._agents[DEFAULT_AGENT] = self._build(DEFAULT_AGENT, AgentConfig())

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._workers)
        self._stack.push_async_callback(self.provider.aclose)
        await self._stack.enter_async_context(self._tasks)
        self._warming = self._tasks.create_task(self._warm())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.draining = True
        self.end_all()
        self._warming.cancel()
        await self._stack.__aexit__(kind, error, trace)

    async def warmed(self) -> None:
        """Wait until the provider is prepared, or has failed to be."""
        await asyncio.wait([self._warming])

    async def _warm(self) -> None:
        try:
            await self.provider.warm()
        except ParleyError as error:
            logger.warning("The model provider could not be prepared: %s", error.message)

    # Agents

    def agents(self) -> list[AgentInfo]:
        """Return all agents, by name."""
        return [self._info(self._agents[name]) for name in sorted(self._agents)]

    def agent(self, name: str) -> AgentInfo:
        """Return one agent.

        Raises:
            errors.NotFound: there is none of this name.
        """
        return self._info(self._find_agent(name))

    def put_agent(self, name: str, config: AgentConfig) -> bool:
        """Create an agent, or replace the one of this name; runs under way keep the old one.

        Returns:
            Whether it is new.

        Raises:
            errors.Invalid: an unknown tool, or a model outside the allowlist.
            errors.TooMany: there are as many agents as there may be.
        """
        faults = [
            {"field": "tools", "message": f"There is no tool of the name {tool!r}."}
            for tool in config.tools or ()
            if tool not in self.tools
        ]
        if config.model and self._allowed_models and config.model not in self._allowed_models:
            allowed = ", ".join(sorted(self._allowed_models))
            faults.append({"field": "model", "message": f"Not allowed here; allowed: {allowed}."})
        if faults:
            raise Invalid("The agent's configuration is not valid.", errors=faults)
        new = name not in self._agents
        if new and len(self._agents) >= self._limits.max_agents:
            raise TooMany(f"There may be at most {self._limits.max_agents} agents.")
        self._agents[name] = self._build(name, config)
        return new

    def delete_agent(self, name: str) -> None:
        """Delete an agent; runs under way go on.

        Raises:
            errors.NotFound: there is none of this name.
            errors.Conflict: it is the default agent.
        """
        self._find_agent(name)
        if name == DEFAULT_AGENT:
            raise Conflict("The default agent can be replaced, not deleted.")
        del self._agents[name]

    def _build(self, name: str, config: AgentConfig) -> StreamingAgent:
        names = self.tools if config.tools is None else config.tools
        filled = config.model_copy(
            update={
                "name": config.name or name,
                "instructions": config.instructions or self._instructions,
                "model": config.model or self.provider.default_model,
                "tools": list(dict.fromkeys(names)),
            }
        )
        tools = [self.tools[tool] for tool in filled.tools or ()]
        return StreamingAgent(name, filled, self.provider, tools, self._workers)

    def _find_agent(self, name: str) -> StreamingAgent:
        if name not in self._agents:
            raise NotFound(f"There is no agent of the name {name!r}.", code="agent_not_found")
        return self._agents[name]

    def _info(self, agent: StreamingAgent) -> AgentInfo:
        return AgentInfo(
            agent_name=agent.name,
            built_in=agent.name == DEFAULT_AGENT,
            **agent.config.model_dump(),
        )

    # Runs

    @property
    def active_runs(self) -> int:
        """How many runs are under way or wait."""
        return len(self._active)

    async def start(
        self,
        request: ChatRequest,
        key: str | None = None,
        *,
        conversation_id: str | None = None,
    ) -> Run:
        """Start a run, or find the one that the same request started before.

        Args:
            key: an idempotency key; the same key with the same request is the same run.
            conversation_id: the conversation of a request that names none; a new one where it
                is absent too. It is no part of the request that a key stands for.

        Raises:
            errors.NotFound: no such agent.
            errors.Invalid: the message is too long.
            errors.Conflict: the conversation is busy and `if_busy` is `reject`, or the key was
                used for another request.
            errors.TooMany: too many messages wait in the conversation.
            errors.Unavailable: the service is full or stopping.
        """
        self._expire()
        said = request.model_dump_json(include=set(ChatRequest.model_fields))
        fingerprint = hashlib.sha256(said.encode()).digest()
        run = self._known(key, fingerprint) if key is not None else None
        if run is None:
            run, work = self._admit(request, key, request.conversation_id or conversation_id)
            if key is not None:
                self._keys[key] = (fingerprint, run.id)
            work.task = self._tasks.create_task(self._drive(run, work), name=run.id)
        await run.accepted.wait()
        return run

    def _known(self, key: str, fingerprint: bytes) -> Run | None:
        if key not in self._keys:
            return None
        before, run_id = self._keys[key]
        if before != fingerprint:
            raise Conflict(
                "This idempotency key was used for another request.", code="idempotency_conflict"
            )
        return self._runs[run_id]

    def _admit(
        self, request: ChatRequest, key: str | None, conversation_id: str | None
    ) -> tuple[Run, Work]:
        """Put a new run into its conversation's queue, or refuse it. Atomic: no await."""
        limits = self._limits
        if self.draining:
            raise Unavailable("The service is stopping.", retry_after=limits.shutdown_grace)
        if len(request.message) > limits.max_message_chars:
            fault = f"At most {limits.max_message_chars} characters."
            raise Invalid("The message is too long.", errors=[_fault("message", fault)])
        agent = self._find_agent(request.agent)
        if len(self._active) >= limits.max_active_runs:
            raise Unavailable("The service is at its limit of runs under way.", retry_after=1)
        conversation = self._conversations.get_or_create(conversation_id)
        self._make_way(conversation, request)
        run_id = new_id("run")
        start = ChatStart(
            conversation_id=conversation.id,
            agent=agent.name,
            model=agent.model,
            message_id=new_id("msg"),
        )
        work = Work(request, agent, conversation)
        run = Run(run_id, key, stamped(start, run_id, 1), work)
        self._runs[run_id] = run
        self._active.add(run)
        conversation.enter(run)
        return run, work

    def _make_way(self, conversation: Conversation, request: ChatRequest) -> None:
        if not conversation.runs:
            return
        if request.if_busy == "reject":
            raise Conflict(
                f"The conversation has a run under way: {conversation.runs[0].id}.",
                code="conversation_busy",
            )
        if request.if_busy == "interrupt":
            for run in conversation.runs:
                run.end("cancelled")
        elif len(conversation.runs) > self._limits.max_queued_messages:
            raise TooMany("Too many messages wait in this conversation.", retry_after=1)

    async def _drive(self, run: Run, work: Work) -> None:
        """Take a run from its acceptance to its terminal event. Never raises."""
        terminal: TerminalEvent
        try:
            work.began = True
            work.log = log = await self._hub.create(run.id)
            run.epoch = log.epoch
            log.append(run.start)
            run.accepted.set()
            if work.ending is not None:
                raise asyncio.CancelledError
            await work.floor.wait()
            run.started_at = datetime.now(UTC)
            async with asyncio.timeout(self._limits.run_timeout):
                terminal = await self._answer(run, work, log)
        except TimeoutError:
            limit = f"{self._limits.run_timeout:g} s"
            terminal = _error(RunTimeout(f"The run took longer than its limit of {limit}."))
        except asyncio.CancelledError:
            terminal = _ended_early(work)
        except ParleyError as error:
            terminal = _error(error)
        except Exception:  # a mistake of ours must end this run, and only it
            logger.exception("Run %s failed", run.id)
            terminal = _error(ParleyError("The service made a mistake; it has been logged."))
        self._finish(run, work, terminal)

    async def _answer(self, run: Run, work: Work, log: Log) -> ChatComplete:
        conversation = work.conversation
        if work.request.reset_history:
            conversation.clear()
        conversation.keep([UserMessage(work.request.message)])
        work.turns = turns = Turns(
            run_id=run.id,
            conversation_id=conversation.id,
            context=context(conversation.messages, self._limits.history_messages),
            sink=log,
            message_id=run.start.message_id,
            parallel_tools=work.request.parallel_tools,
        )
        try:
            return await work.agent.run(turns)
        finally:
            conversation.keep(turns.kept)

    def _finish(self, run: Run, work: Work, terminal: TerminalEvent) -> None:
        if work.log is not None:
            if not work.log.ended:
                work.log.append(terminal)
            run.terminal = stamped(terminal, run.id, work.log.last_seq)
        else:
            run.terminal = stamped(terminal, run.id, run.start.seq + 1)
        run.finished_at = datetime.now(UTC)
        run.work = None
        run.accepted.set()
        work.conversation.leave(run)
        self._conversations.count(work.conversation)
        self._active.discard(run)
        deadline = asyncio.get_running_loop().time() + self._limits.run_ttl
        self._finished.append((deadline, run.id))

    def _expire(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._finished:
            deadline, run_id = self._finished[0]
            if deadline > now and len(self._finished) <= self._limits.max_runs:
                return
            self._finished.popleft()
            run = self._runs.pop(run_id)
            if run.key is not None:
                self._keys.pop(run.key, None)

    def run(self, run_id: str) -> Run:
        """Return a run.

        Raises:
            errors.NotFound: there is none of this id, or it was forgotten.
        """
        self._expire()
        if run_id not in self._runs:
            raise NotFound("There is no run of this id.", code="run_not_found")
        return self._runs[run_id]

    async def read(self, run_id: str, after: str | None = None) -> Reader:
        """Follow a run's events; see `hub.Hub.read`.

        Where the log has expired and the run is remembered, the reader gets a `reset` and
        the run's state: its start, its answer as one piece, and its end.
        """
        try:
            return await self._hub.read(run_id, after)
        except LogNotFound:
            run = self.run(run_id)
            if run.terminal is None:
                raise
            return _remains(run, run.terminal, after)

    def cancel(self, run_id: str) -> Run:
        """Cancel a run; one that has ended stays as it is.

        Raises:
            errors.NotFound: no such run.
        """
        run = self.run(run_id)
        run.end("cancelled")
        return run

    def cancel_tool(self, run_id: str, tool_call_id: str) -> None:
        """Cancel one tool call of a run; its siblings and the run go on.

        Raises:
            errors.NotFound: no such run, or the call is not under way.
        """
        work = self.run(run_id).work
        task = work.turns.calls.get(tool_call_id) if work and work.turns else None
        if task is None or task.done():
            raise NotFound("This call is not under way.", code="tool_call_not_found")
        task.cancel()

    def drain(self) -> None:
        """Refuse new runs from now on."""
        self.draining = True

    def end_all(self) -> None:
        """End all runs: their clients are told that the service stops."""
        for run in list(self._active):
            run.end("shutting_down")


def _ended_early(work: Work) -> TerminalEvent:
    if work.ending == "cancelled":
        text, usage = (work.turns.text, work.turns.usage) if work.turns else ("", None)
        return ChatComplete(final_response=text, finish_reason="cancelled", usage=usage)
    return _error(
        Unavailable("The service stopped before the answer was done.", code="shutting_down")
    )


def _error(error: ParleyError) -> RunError:
    return RunError(code=error.code, message=error.message, retryable=error.retryable)


def _fault(field: str, message: str) -> dict[str, str]:
    return {"field": field, "message": message}


def _remains(run: Run, terminal: TerminalEvent, after: str | None) -> FixedReader:
    if after is not None and parse_cursor(after, run.id)[1] >= terminal.seq:
        return FixedReader([], run.epoch)
    text = terminal.final_response if isinstance(terminal, ChatComplete) else ""
    piece = ChatChunk(
        run_id=run.id,
        seq=terminal.seq - 1,
        first_seq=2,
        message_id=run.start.message_id,
        content=text,
    )
    reset = Reset(run_id=run.id, epoch=run.epoch, reason="log_expired")
    middle = [piece] if text else []
    return FixedReader([reset, run.start, *middle, terminal], run.epoch)
