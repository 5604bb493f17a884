"""Units of work: plain functions of a `Connection`, each a transaction, and their time limits."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from storage import StorageUnavailable

_P = ParamSpec("_P")
_T = TypeVar("_T")

Unit = Callable[Concatenate[Connection, _P], _T]


class Begun:
    """Units that have begun, each in a task that its caller's cancellation does not reach."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def do(self, unit: Coroutine[Any, Any, _T]) -> _T:
        task = asyncio.create_task(unit)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def end(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Reads:
    """Reads under way: each has so many `seconds` in all, and `end` gives all of them up."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._under_way: dict[asyncio.Timeout, asyncio.Future[None]] = {}

    @asynccontextmanager
    async def limited(self) -> AsyncIterator[None]:
        """Raise `StorageUnavailable` from the block once its time is over."""
        over = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._seconds) as limit:
                self._under_way[limit] = over
                try:
                    yield
                finally:
                    del self._under_way[limit]
                    over.set_result(None)
        except TimeoutError as error:
            text = "The database takes too long to answer this."
            raise StorageUnavailable(text, retry_after=1) from error

    async def end(self) -> None:
        """Give up what is under way, and return when it has ended."""
        now = asyncio.get_running_loop().time()
        under_way = dict(self._under_way)
        for limit in under_way:
            if not limit.expired():
                limit.reschedule(now)
        if under_way:
            await asyncio.wait(under_way.values())
