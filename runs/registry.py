"""The life of every run.

The registry owns each run: a task of its own, which no reader can end by going away. Its
stations:

1. `start` decides in one step without an await: is this a repeated request, may the
   conversation take it, is there room. Then the run is in the conversation's queue.
2. Its task stores the run with the user's message, opens the log (`chat_start`), and only then
   is the run accepted. It waits for the floor, and lets the agent answer.
3. Whatever happens there, what was said is stored, exactly one terminal event ends the log, and
   the next run gets the floor.
4. Where the service stops before that, the run is suspended, and in the end the store gives all of
   these back at once.

Runs are remembered in storage, longer than their logs: a reader that comes too late for the
events still learns the outcome. A run that a crash interrupted, or that was suspended, goes on from
its last stored turn, in a new epoch.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import msgspec

from caller import Caller
from errors import Conflict, Invalid, NotFound, ParleyError, TooMany, Unavailable
from events import ChatStart, Event, stamped
from hub import Hub, LogNotFound, Reader
from llm import Provider
from memory.learning import LongTermMemory
from messages import new_id
from models import Completion, RegenerateRequest, RunRequest
from runs.agents import DEFAULT, Roster
from runs.driver import Driver, failure, left_open
from runs.index import Remembered, check_same
from runs.replay import remains
from runs.request import begin_of, decoded, encoded, entry_of, owner_of, place_of, text_of
from runs.run import Agent, Limits, Queue, Queues, Run, Work
from storage import Entry, StorageUnavailable, StoredRun
from storage.store import Store
from tools.tool import Tool
from tools.workers import Workers

HOUSEKEEPING = 10.0
"""Seconds between two rounds of what has to be done now and then."""

RETRY = 1.0
"""Seconds between two attempts to store what the database did not take."""

PATIENCE = 5.0
"""Seconds that a deletion waits for the end of the runs that it cancels."""

logger = logging.getLogger("parley.registry")


class AgentRegistry:
    """All runs of this process and the agents that they use; an async context manager.

    Args:
        provider: answers for every agent.
        hub: keeps the logs.
        store: keeps everything else. It is open for longer than the registry.
        tools: what agents may use, by name.
        limits: the bounds.
        instructions: the system prompt of agents that bring none.
        memory: remembers users; open for longer than the registry.
        allowed_models: the models that an agent may name; empty: any.
        special: makes agents of another kind, from the provider, the tools and their workers.
    """

    def __init__(
        self,
        *,
        provider: Provider,
        hub: Hub,
        store: Store,
        tools: Iterable[Tool],
        limits: Limits,
        instructions: str,
        memory: LongTermMemory | None = None,
        allowed_models: frozenset[str] = frozenset(),
        special: Callable[[Provider, Mapping[str, Tool], Workers], Iterable[Agent]] | None = None,
    ) -> None:
        self.provider = provider
        self.store = store
        self.tools: Mapping[str, Tool] = {tool.name: tool for tool in tools}
        self.draining = False
        self._hub = hub
        self._limits = limits
        self._workers = Workers(limits.tool_workers)
        self.agents = Roster(
            provider=provider,
            store=store,
            tenant="open",
            tools=self.tools,
            workers=self._workers,
            special=special(provider, self.tools, self._workers) if special else (),
            instructions=instructions,
            allowed_models=allowed_models,
            limit=limits.max_agents,
        )
        self._queues = Queues()
        self._known = Remembered(limits.run_ttl, limits.max_runs)
        self._active: set[Run] = set()
        self._driver = Driver(
            store,
            hub,
            limits,
            memory=memory,
            refuse=self._refuse,
            forget=self.forget,
            leave=self._leave,
        )
        self._stack = AsyncExitStack()
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self.agents.load()
        await self._stack.enter_async_context(self._workers)
        self._stack.push_async_callback(self.provider.aclose)
        self._stack.push_async_callback(self._give_back)
        await self._stack.enter_async_context(self._tasks)
        await self._recover()
        self._warming = self._tasks.create_task(self._warm())
        self._housekeeping = self._tasks.create_task(self._keep_house())
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
        self._housekeeping.cancel()
        await self._stack.__aexit__(kind, error, trace)

    async def warmed(self) -> None:
        """Wait until the provider is prepared, or has failed to be."""
        await asyncio.wait([self._warming])

    async def _warm(self) -> None:
        try:
            await self.provider.warm()
        except ParleyError as error:
            logger.warning("The model provider could not be prepared: %s", error.message)

    # Beginning

    @property
    def max_message_chars(self) -> int:
        """How many characters a message may have."""
        return self._limits.max_message_chars

    @property
    def active_runs(self) -> int:
        """How many runs are under way or wait."""
        return len(self._active)

    async def start(
        self,
        request: RunRequest,
        key: str | None = None,
        *,
        conversation_id: str | None = None,
        ephemeral: bool = False,
    ) -> Run:
        """Start a run, or find the one that the same request started before.

        Args:
            key: an idempotency key; the same key with the same request is the same run.
            conversation_id: the conversation of a request that names none; a new one where it
                is absent too. It is no part of the request that a key stands for.
            ephemeral: the conversation serves this run only, and is not listed.

        Raises:
            errors.NotFound: no such agent; of a request that goes on with a conversation: no
                such conversation, or no such message of a user in it.
            errors.Invalid: the message is too long.
            errors.Conflict: the conversation is busy and `if_busy` is `reject`, or the key was
                used for another request.
            errors.TooMany: too many messages wait in the conversation.
            errors.Unavailable: the service is full or stopping, or nothing can be stored now.
        """
        owner = owner_of(request)
        said = encoded(request)
        fingerprint = hashlib.sha256(said.encode()).digest() if key is not None else b""
        asked = await self._agent_of(request)
        run = self._known.asked_before(owner, key, fingerprint) if key is not None else None
        if run is None:
            place = place_of(request) or conversation_id
            queue = self._queues.of(owner, place or new_id("conv"))
            agent = self.agents.find(asked)
            entry = entry_of(request, ephemeral=ephemeral)
            stored = self._admit(request, agent, entry, said, queue, key, fingerprint)
            is_new = place is None and entry.branch is None
            work = Work(request, agent, queue, begin_of(request), entry, is_new)
            run = self._enter(Run(stored, work), work)
        await run.accepted.wait()
        if run.refusal is not None:
            raise run.refusal
        if run.twin is not None:
            check_same(run.twin.fingerprint, fingerprint)
            return self._known.find(run.twin.id) or Run.remembered(run.twin)
        return run

    async def _agent_of(self, request: RunRequest) -> str:
        """Return the name of the agent that is asked: the one named, or the last one there."""
        if request.agent is not None:
            return request.agent
        owner = owner_of(request)
        queue = self._queues.of(owner, request.conversation_id)
        if queue.runs:
            return queue.runs[-1].stored.agent
        there = await self.store.conversation(owner, request.conversation_id)
        return there.agent if there is not None and there.agent is not None else DEFAULT

    def _admit(
        self,
        request: RunRequest,
        agent: Agent,
        entry: Entry,
        said: str,
        queue: Queue,
        key: str | None,
        fingerprint: bytes,
    ) -> StoredRun:
        """Refuse a run, or return it as it is to be stored. Without an await, as is `_enter`."""
        limits = self._limits
        if self.draining:
            raise Unavailable("The service is stopping.", retry_after=limits.shutdown_grace)
        # Whose client keeps the conversation sends it whole; the body's bound is enough there.
        chars = 0 if isinstance(request, Completion) else len(text_of(request))
        if chars > limits.max_message_chars:
            fault = f"At most {limits.max_message_chars} characters."
            raise Invalid("The message is too long.", errors=[_fault("message", fault)])
        if len(self._active) >= limits.max_active_runs:
            raise Unavailable("The service is at its limit of runs under way.", retry_after=1)
        self._make_way(queue, request)
        run_id = new_id("run")
        start = ChatStart(
            conversation_id=queue.conversation_id,
            agent=agent.name,
            model=self._answering(request, agent),
            message_id=new_id("msg"),
            ephemeral=entry.ephemeral,
        )
        return StoredRun(
            id=run_id,
            owner=queue.owner,
            conversation_id=queue.conversation_id,
            agent=agent.name,
            request=said,
            start=stamped(start, run_id, 1),
            status="queued",
            created_at=datetime.now(UTC),
            key=key,
            fingerprint=fingerprint,
            replaces=isinstance(request, RegenerateRequest),
        )

    def _answering(self, request: RunRequest, agent: Agent) -> str:
        wanted = request.model if isinstance(request, Completion) else None
        return self.provider.answering(wanted) if wanted else agent.model

    def _make_way(self, queue: Queue, request: RunRequest) -> None:
        if not queue.runs:
            return
        if request.if_busy == "reject":
            raise Conflict(
                f"The conversation has a run under way: {queue.runs[0].id}.",
                code="conversation_busy",
            )
        if request.if_busy == "interrupt":
            for run in queue.runs:
                run.end("superseded")
        elif len(queue.runs) > self._limits.max_queued_messages:
            raise TooMany("Too many messages wait in this conversation.", retry_after=1)

    def _enter(self, run: Run, work: Work) -> Run:
        self._known.add(run)
        self._active.add(run)
        self._queues.enter(work.queue, run)
        work.task = self._tasks.create_task(self._driver.drive(run, work), name=run.id)
        return run

    def _refuse(self, run: Run, work: Work, error: ParleyError | None) -> None:
        """Take back a run that is not stored."""
        run.refusal = error
        self._known.forget(run.id)
        self._leave(run, work)
        run.accepted.set()

    def _leave(self, run: Run, work: Work) -> None:
        if work.recall is not None:
            work.recall.drop()
        run.work = None
        self._queues.leave(work.queue, run)
        self._active.discard(run)
        if run.refusal is None and run.terminal is not None:
            self._known.ended(run)

    async def forget(self, owner: Caller, conversation_id: str) -> None:
        """Forget the runs of a conversation that have ended, and their logs."""
        for run in self._known.ended_in(owner, conversation_id):
            self._known.forget(run.id)
            await self._hub.forget(run.id)

    # Recovering

    async def _recover(self) -> None:
        """Take up the runs that nobody works on any more."""
        for stored in await self.store.claim():
            try:
                self._resume(stored)
            except ParleyError as error:
                terminal = stamped(failure(error), stored.id, 2)
                gone = msgspec.structs.replace(stored, request="")
                await self._driver.store_end(gone, left_open(stored), terminal)

    def _resume(self, stored: StoredRun) -> None:
        self._known.forget(stored.id)
        request = decoded(stored.request)
        work = Work(
            request,
            self.agents.find(stored.agent),
            self._queues.of(stored.owner, stored.conversation_id),
            begin_of(request),
            resumed=True,
            begun=stored.status == "running",
        )
        self._enter(Run(stored, work), work)

    async def _keep_house(self) -> None:
        """Do what has to be done now and then, until the registry ends."""
        due = 0.0
        loop = asyncio.get_running_loop()
        while True:
            try:
                await self._driver.store_unsaved()
                if loop.time() >= due:
                    await self._tidy()
                    due = loop.time() + HOUSEKEEPING
            except StorageUnavailable as error:
                logger.warning("Storage cannot be tidied now: %s", error.message)
            await asyncio.sleep(RETRY if self._driver.has_unsaved else HOUSEKEEPING)

    async def _tidy(self) -> None:
        await self.store.renew()
        if not self.draining:
            await self._recover()
        await self.store.expire(
            runs_older_than=self._limits.run_ttl,
            conversations_older_than=self._limits.conversation_ttl,
        )

    async def _give_back(self) -> None:
        """Let others go on with the runs that are suspended."""
        try:
            # First the ends that are still to be stored: a run that has ended is not gone on with.
            await self._driver.store_unsaved()
            await self.store.give_back()
        except StorageUnavailable as error:  # their lease is over some time later
            logger.warning("What is suspended cannot be given back now: %s", error.message)

    # Following and ending

    async def run(self, run_id: str) -> Run:
        """Return a run.

        Raises:
            errors.NotFound: there is none of this id, or it was forgotten.
            storage.StorageUnavailable: nobody can tell now.
        """
        known = self._known.find(run_id)
        if known is not None:
            return known
        stored = await self.store.run("open", run_id)
        if stored is None or self._is_old(stored):
            raise NotFound("There is no run of this id.", code="run_not_found")
        return Run.remembered(stored)

    def _is_old(self, stored: StoredRun) -> bool:
        if stored.finished_at is None:
            return False
        age = datetime.now(UTC) - stored.finished_at
        return age.total_seconds() > self._limits.run_ttl

    def active_run(self, owner: Caller, conversation_id: str) -> Run | None:
        """Return the run that has the floor in a conversation, if there is one."""
        queue = self._queues.of(owner, conversation_id)
        return queue.runs[0] if queue.runs else None

    def open_runs(self, owner: Caller, conversation_id: str) -> list[Run]:
        """Return the accepted runs that have not ended, in their order."""
        runs = self._queues.of(owner, conversation_id).runs
        return [run for run in runs if run.accepted.is_set()]

    async def read(self, run_id: str, after: str | None = None) -> Reader:
        """Follow a run's events; see `hub.Hub.read`.

        Where the log has expired and the run is remembered, the reader gets a `reset` and
        the run's state: its start, what is stored of its turns, and its end.

        Raises:
            errors.Unavailable: it is under way in another process.
        """
        known = self._known.find(run_id)
        if known is not None:
            await known.accepted.wait()
        try:
            return await self._hub.read(run_id, after)
        except LogNotFound:
            run = await self.run(run_id)
            if run.terminal is None:
                raise _elsewhere() from None
            said = await self.store.run_messages(run.stored)
            return remains(run.start, run.terminal, said, epoch=run.stored.epoch, after=after)

    async def before(self, run_id: str, seq: int) -> list[Event]:
        """Return the events of a run up to `seq`, as they are in its log; see `hub.Hub.before`."""
        return await self._hub.before(run_id, seq)

    async def cancel(self, run_id: str) -> Run:
        """Cancel a run; one that has ended stays as it is.

        Raises:
            errors.NotFound: no such run.
            errors.Unavailable: another process works on it.
        """
        run = await self.run(run_id)
        self.check_here(run)
        run.end("cancelled")
        return run

    def check_here(self, run: Run) -> None:
        """Refuse what only the process can do that works on a run.

        Raises:
            errors.Unavailable: that is another one.
        """
        if run.work is None and run.terminal is None:
            raise _elsewhere()

    async def cancel_tool(self, run_id: str, tool_call_id: str) -> None:
        """Cancel one tool call of a run; its siblings and the run go on.

        Raises:
            errors.NotFound: no such run, or the call is not under way.
        """
        work = (await self.run(run_id)).work
        task = work.turns.calls.get(tool_call_id) if work and work.turns else None
        if task is None or task.done():
            raise NotFound("This call is not under way.", code="tool_call_not_found")
        task.cancel()

    async def quiet(self, owner: Caller, conversation_id: str, patience: float = PATIENCE) -> None:
        """Cancel all runs of a conversation, and wait until they have ended.

        Raises:
            errors.Conflict: they have not, within `patience` seconds.
        """
        runs = [*self._queues.of(owner, conversation_id).runs]
        for run in runs:
            run.end("cancelled")
        tasks = [run.work.task for run in runs if run.work and run.work.task]
        if tasks and (await asyncio.wait(tasks, timeout=patience))[1]:
            raise Conflict("A run of this conversation does not end.", code="conversation_busy")

    async def clear(self, owner: Caller, conversation_id: str) -> None:
        """Forget what was said in a conversation; its runs are cancelled, and forgotten.

        Raises:
            errors.Conflict: one of them does not end.
            storage.StorageUnavailable: nothing is forgotten now.
        """
        await self.quiet(owner, conversation_id)
        await self.store.clear(owner, conversation_id)
        await self.forget(owner, conversation_id)

    def drain(self) -> None:
        """Refuse new runs from now on."""
        self.draining = True

    def end_all(self) -> None:
        """End all runs because the service stops; what can go on later is suspended."""
        for run in list(self._active):
            run.end("shutting_down")


def _elsewhere() -> Unavailable:
    text = "Another process works on this run; ask again when it has ended."
    return Unavailable(text, code="run_elsewhere", retry_after=1)


def _fault(field: str, message: str) -> dict[str, str]:
    return {"field": field, "message": message}
