"""What is remembered of a user: recalled before an answer, learned from it afterwards.

An answer never waits for memory longer than a fixed time, and a stream never waits for learning.
What is to be learned from an exchange (an *extraction job*) is stored in the transaction that ends
its run, so that it survives a restart; a task of this process then takes one after the other. On
PostgreSQL each job is taken by one process.

A job that cannot be done now is tried again later; one that fails `ATTEMPTS` times, or for
which the store has no room, is dropped, and the log says so.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Self

from caller import Caller
from errors import UpstreamError
from llm import Provider
from llm.lessons import refuses_the_bound
from memory import AskModel, Memories, Memory, MemoryUnavailable, Unreadable
from memory.prompt import as_data
from memory.quotes import without_quotes
from messages import (
    EndPart,
    Message,
    ModelOptions,
    ModelRequest,
    OutputSchema,
    SystemMessage,
    TextPart,
    UserMessage,
)
from storage import ExtractionJob, StorageUnavailable
from storage.store import Store

ATTEMPTS = 5
"""How often it is tried to learn from an exchange."""

PAUSE = 5.0
"""Seconds between two looks at the jobs that wait, and after one that could not be done."""

LEARNING_WAIT = 3.0
"""Seconds that a listing of memories waits for what is still to be learned."""

CLEARING_WAIT = 10.0
"""Seconds that a clearing waits for a job of the same user."""

LEARNED_CHARS = 20_000
"""Characters of a message that are learned from; what is longer is cut."""

ANSWER_TOKENS = 8_000
LEAST_TOKENS = 500
MAX_ANSWER = 200_000
"""Tokens that a model may answer when it reads an exchange, also one that takes no higher bound,
and characters that are taken."""

PREPARING_WAIT = 10.0
"""Seconds that an answer waits for its memories while they are being prepared after a start."""

logger = logging.getLogger("parley.memory")


class Recall:
    """What is remembered for one answer, being looked for since the answer was asked for.

    `deadline`: on the loop's clock; what comes later is left out.
    """

    def __init__(self, task: "asyncio.Task[list[Memory]]", deadline: float) -> None:
        self._task = task
        self._deadline = deadline

    async def block(self) -> str:
        """Return what is remembered as a block for the instructions, empty where it is nothing."""
        try:
            async with asyncio.timeout_at(self._deadline):
                return as_data(await self._task)
        except TimeoutError:
            logger.warning("An answer goes without memories: they were not found in time")
        except MemoryUnavailable as error:
            logger.warning("An answer goes without memories: %s", error.message)
        except Exception:  # a library's mistake must not cost the answer
            logger.exception("An answer goes without memories")
        return ""

    def drop(self) -> None:
        self._task.cancel()


@dataclass
class LongTermMemory:
    """Remembers users; an async context manager, inside of which it learns.

    Args:
        memories: keeps what was learned.
        store: keeps what is to be learned.
        timeout: seconds that an answer waits for its memories.
        limit: how many of them it gets.
        may_hold: tells whether there may be any memories; where there are none, nobody waits.

    Attributes:
        not_learned: how many exchanges nothing could be learned from, since the start.
    """

    memories: Memories
    store: Store
    timeout: float
    limit: int
    may_hold: Callable[[], bool] = lambda: True
    not_learned: int = field(default=0, init=False)
    _warm: asyncio.Event = field(default_factory=asyncio.Event)
    _due: asyncio.Event = field(default_factory=asyncio.Event)
    _learning: ExtractionJob | None = None
    _learned: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: "set[asyncio.Task[object]]" = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._due.set()
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._worker.cancel()
        with suppress(asyncio.CancelledError):
            await self._worker
        for task in tuple(self._tasks):
            task.cancel()
        await self.memories.aclose()

    async def warmed(self) -> None:
        """Wait until the memories are prepared, where there may be any, or have failed to be."""
        await self._warm.wait()

    def recall(self, caller: Caller, text: str) -> Recall:
        task = asyncio.create_task(self._found(caller, text))
        self._tasks.add(task)
        task.add_done_callback(self._recalled)
        wait = self.timeout if self._warm.is_set() else max(self.timeout, PREPARING_WAIT)
        return Recall(task, asyncio.get_running_loop().time() + wait)

    async def _found(self, caller: Caller, text: str) -> list[Memory]:
        """Return what is near to a text, and as far as there is room the newest besides.

        "What do you know about me?" is near to nothing.
        """
        if not self.may_hold():
            return []
        near = await self.memories.recall(caller, text, self.limit)
        if len(near) == self.limit:
            return near
        known = {memory.id for memory in near}
        newest = await self.memories.page(caller, self.limit)
        return [*near, *(memory for memory in newest if memory.id not in known)][: self.limit]

    def _recalled(self, task: "asyncio.Task[object]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited for it has said so; nobody may have

    async def wait_until_learned(self, caller: Caller) -> None:
        """Wait until what a user has said is learned, for a while; who lists memories expects it.

        Raises `StorageUnavailable` where nobody can tell now.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(LEARNING_WAIT):
                # Another process may be the one that learns it, so there is nothing to wait on.
                while await self.store.count_extraction_jobs(caller):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

    def wake(self) -> None:
        """Look at the jobs: there is a new one."""
        self._due.set()

    async def clear(self, caller: Caller) -> int:
        """Forget all of a user's memories, and what is still to be learned; return how many.

        Where `MemoryUnavailable` or `StorageUnavailable` is raised, it is not done, or not wholly.
        """
        await self.store.forget_extraction_jobs(caller)
        if self._learning is not None and self._learning.owner == caller:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLEARING_WAIT):
                    await self._learned.wait()
        return await self.memories.clear(caller)

    async def _work(self) -> None:
        """Learn, one exchange after the other, for as long as the service runs."""
        await self._prepare()
        while True:
            self._due.clear()
            try:
                await self._learn_all()
            except StorageUnavailable as error:
                logger.warning("What there is to learn cannot be read now: %s", error.message)
            except Exception:  # a library's mistake must not end the learning
                logger.exception("Learning failed")
            with suppress(TimeoutError):
                async with asyncio.timeout(PAUSE):
                    await self._due.wait()

    async def _prepare(self) -> None:
        try:
            if self.may_hold():
                await self.memories.warm()
        except MemoryUnavailable as error:  # each call tries again
            logger.warning("The memories are not ready: %s", error.message)
        except Exception:  # a library's mistake must end neither the start nor the learning
            logger.exception("The memories are not ready")
        finally:
            self._warm.set()

    async def _learn_all(self) -> None:
        while job := await self.store.take_extraction_job():
            self._learning, self._learned = job, asyncio.Event()
            try:
                if not await self._learn(job):
                    return
            finally:
                self._learning = None
                self._learned.set()

    async def _learn(self, job: ExtractionJob) -> bool:
        """Learn from an exchange; tell whether it is worth it to go on with the next one now."""
        try:
            await self.memories.learn(job.owner, job.messages, job.run_id)
        except MemoryUnavailable as error:
            if job.attempts < ATTEMPTS and not isinstance(error, Unreadable):
                logger.warning("An exchange is learned from later: %s", error.message)
                await self.store.return_extraction_job(job)
                return False
            self.not_learned += 1
            logger.warning("Nothing is learned from run %s: %s", job.run_id, error.message)
        except Exception:  # the same exchange would fail again
            self.not_learned += 1
            logger.exception("Nothing is learned from run %s", job.run_id)
        await self.store.drop_extraction_job(job)
        return True


def asker(provider: Provider) -> AskModel:
    """Return what asks a model, in as rich a form and with as high a bound as it takes.

    The provider learns the form; a bound that is too high for the model is halved.
    """

    async def ask(messages: Sequence[Message], output: OutputSchema | None) -> str:
        most = ANSWER_TOKENS
        while True:
            request = ModelRequest(
                model=provider.default_model,
                messages=tuple(messages),
                options=ModelOptions(output=output, max_tokens=most),
            )
            try:
                return await _answer(provider, request)
            except UpstreamError as error:
                if most <= LEAST_TOKENS or not refuses_the_bound(error.refusal):
                    raise MemoryUnavailable(_told(error, messages)) from None
                most //= 2

    return ask


async def _answer(provider: Provider, request: ModelRequest) -> str:
    pieces: list[str] = []
    size, ended = 0, ""
    async with aclosing(provider.stream(request)) as batches:
        async for batch in batches:
            for part in batch:
                if isinstance(part, TextPart):
                    pieces.append(part.content)
                    size += len(part.content)
                elif isinstance(part, EndPart):
                    ended = part.finish_reason
            if size > MAX_ANSWER:
                raise Unreadable("The model's answer is too long.")
    if ended != "stop" and not size:
        raise Unreadable(f"The model answered nothing ({ended}).")
    return "".join(pieces)


def _told(error: UpstreamError, messages: Sequence[Message]) -> str:
    """Return why a model did not answer, without what it was asked about."""
    said = "\n".join(each.content for each in messages if isinstance(each, UserMessage))
    ours = "\n".join(each.content for each in messages if isinstance(each, SystemMessage))
    return f"The model did not answer: {without_quotes(error.message, said, ours)}"
