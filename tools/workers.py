"""Threads on which tools run, so that no tool can stall the service's event loop.

Rules:

* A running call has a worker of its own: a daemon thread, with an asyncio event loop of its
  own from the first async function on. Whatever blocks there blocks nothing else.
* A call runs in a *place*. There are `limit` places; waiting for one is not running.
* Cancelling `Worker.run` cancels the async function's task and gives it `GRACE` seconds to
  end. What has not ended by then is *abandoned*: the caller goes on, the worker is never used
  again, and its place stays taken until its thread has ended. So there are never more than
  `limit` threads at work or idle. To make one costs more than a call, so an idle one is kept
  until nobody has needed it for `KEPT` seconds.
* A worker is used again only when it is at rest: the function returned, no task and no thread
  (`asyncio.to_thread`) that it started is left. What it leaves behind is cancelled.
* Nothing that a function raises ends a worker; it is raised at the caller. What is not an
  `Exception` (`SystemExit`, a `CancelledError` of its own) is raised there as `Escaped`.
* Hand-overs: the caller puts a job into the thread's queue; the thread posts the outcome with
  `call_soon_threadsafe`. The caller's loop may be closed by then: nobody waits any more.

All attributes of `Workers`, and of `Worker` where not said otherwise, belong to the service's
event loop.
"""

import asyncio
import contextvars
import inspect
import logging
import queue
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, ParamSpec, Self, TypeAlias, TypeVar

from errors import ToolError

GRACE = 0.2
"""Seconds that a cancelled function has before its worker is abandoned."""

KEPT = 30.0
"""Seconds that an idle worker is kept for the next call."""

EXIT_GRACE = 1.0
"""Seconds that leaving `Workers` waits for the threads to end."""

_logger = logging.getLogger("parley.tools")

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Escaped(Exception):
    """The function raised what would have ended its thread; `__cause__` is what it raised."""


class Workers:
    """All workers of the service; enter it on the service's event loop.

    Leaving it cancels what still runs and waits at most `EXIT_GRACE` seconds; a function that
    blocks its thread longer than that goes on in a daemon thread that nobody waits for.

    Args:
        limit: how many calls run at a time; abandoned ones count until they end.
    """

    def __init__(self, limit: int) -> None:
        self._places = asyncio.Semaphore(limit)
        self._idle: list[Worker] = []  # the one that has rested longest comes first
        self._tidying: asyncio.TimerHandle | None = None
        self._alive: set[Worker] = set()
        self._closed = False
        self._all_ended = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(self, *failure: object) -> None:
        self._closed = True
        if self._tidying is not None:
            self._tidying.cancel()
        for worker in self._alive:
            worker.retire()
        if self._alive:
            with suppress(TimeoutError):
                async with asyncio.timeout(EXIT_GRACE):
                    await self._all_ended.wait()

    @property
    def full(self) -> bool:
        return self._places.locked()

    @asynccontextmanager
    async def place(self) -> AsyncGenerator["Worker", None]:
        """Wait for a free place and hold it; first come, first served.

        Raises `ToolError` once these workers are closed, or where the system grants no thread.
        """
        await self._places.acquire()
        try:
            worker = self._take()
        except BaseException:
            self._places.release()
            raise
        try:
            yield worker
        finally:
            self._leave(worker)

    def _take(self) -> "Worker":
        if self._closed:
            raise ToolError("The service is stopping; no tool can start.")
        if self._idle:
            return self._idle.pop()
        try:
            worker = Worker(self._loop, self._ended)
        except RuntimeError as error:
            raise ToolError("The service cannot start another tool now; try later.") from error
        self._alive.add(worker)
        return worker

    def _leave(self, worker: "Worker") -> None:
        if worker.at_rest and not self._closed:
            worker.rests_since = self._loop.time()
            self._idle.append(worker)
            if self._tidying is None:
                self._tidying = self._loop.call_later(KEPT, self._tidy)
        else:
            worker.retire()
            worker.owes_place = worker in self._alive
        if not worker.owes_place:
            self._places.release()

    def _tidy(self) -> None:
        """Let the workers end that have been idle for long, and look again when others have."""
        self._tidying = None
        while self._idle:
            due = self._idle[0].rests_since + KEPT
            if due > self._loop.time():
                self._tidying = self._loop.call_at(due, self._tidy)
                break
            self._idle.pop(0).retire()

    def _ended(self, worker: "Worker") -> None:
        self._alive.discard(worker)
        if worker.owes_place:
            self._places.release()
        if self._closed and not self._alive:
            self._all_ended.set()


class Worker:
    """A thread that runs one function at a time; get one from `Workers.place`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_end: Callable[["Worker"], None]) -> None:
        self.owes_place = False
        self.at_rest = True
        self.rests_since = 0.0
        self._loop = loop
        self._on_end = on_end
        self._retired = False
        self._job: _Job | None = None
        self._rest = asyncio.Event()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        threading.Thread(target=self._main, name="parley-tool", daemon=True).start()

    async def run(self, function: Callable[_P, Any], *args: _P.args, **kwargs: _P.kwargs) -> Any:
        """Call `function` in the worker's thread and return what it returns.

        What it returns that can be awaited is awaited there, on the worker's event loop. The
        function sees a copy of the caller's context variables.

        Raises:
            Escaped: the function raised something that is not an `Exception`.
            RuntimeError: the worker is busy or retired.
            Exception: what the function raised.
        """
        if self._retired or not self.at_rest:
            raise RuntimeError("the worker is busy or retired")
        context = contextvars.copy_context()
        job = _Job(partial(function, *args, **kwargs), context, self._loop.create_future())
        self.at_rest = False
        self._rest.clear()
        self._job = job
        self._jobs.put(job)
        try:
            return await job.outcome
        except asyncio.CancelledError:
            job.cancel()
            with suppress(TimeoutError):
                async with asyncio.timeout(GRACE):
                    await self._rest.wait()
            raise

    def retire(self) -> None:
        """Let the thread end as soon as it can; a function that still runs is cancelled."""
        if self._job is not None:
            self._job.cancel()
        if not self._retired:
            self._retired = True
            self._jobs.put(None)

    def _settled(self, job: "_Job", result: Any, error: Exception | None, at_rest: bool) -> None:
        if at_rest:
            self.at_rest = True
            self._job = None
            self._rest.set()
        if job.outcome.done():
            return
        if error is None:
            job.outcome.set_result(result)
        else:
            job.outcome.set_exception(error)

    def _main(self) -> None:
        bench = _Bench()
        while (job := self._jobs.get()) is not None:
            self._perform(bench, job)
            del job  # an idle worker must not keep the last call's values alive
        bench.clean()
        self._post(self._on_end, self)

    def _perform(self, bench: "_Bench", job: "_Job") -> None:
        result, failure = bench.perform(job)
        is_clean = bench.is_clean
        self._post(self._settled, job, result, _for_the_caller(failure), is_clean)
        if not is_clean:
            del result, failure
            bench.clean()
            self._post(self._settled, job, None, None, True)

    def _post(self, callback: Callable[..., None], *args: Any) -> None:
        with suppress(RuntimeError):  # the service's loop is closed
            self._loop.call_soon_threadsafe(callback, *args)


class _Job:
    """One call: what to run, and the two ends of its cancellation."""

    def __init__(
        self,
        function: Callable[[], Any],
        context: contextvars.Context,
        outcome: asyncio.Future[Any],
    ) -> None:
        self.function = function
        self.context = context
        self.outcome = outcome
        self.is_cancelled = False
        self._task: asyncio.Task[Any] | None = None
        self._lock = threading.Lock()

    def cancel(self) -> None:
        """Ask the function to end; called on the service's loop, any number of times."""
        with self._lock:
            already, self.is_cancelled = self.is_cancelled, True
            task = self._task
        if task is not None and not already:
            with suppress(RuntimeError):  # the worker's loop is closed: the task has ended
                task.get_loop().call_soon_threadsafe(task.cancel)

    def attach(self, task: asyncio.Task[Any]) -> None:
        """Tell which task a cancellation is for; called in the worker's thread."""
        with self._lock:
            self._task = task
            if self.is_cancelled:
                # Behind the task's first step, so that its coroutine is at least entered.
                task.get_loop().call_soon(task.cancel)


_Outcome: TypeAlias = tuple[Any, BaseException | None]


async def _outcome(awaitable: Awaitable[Any]) -> _Outcome:
    try:
        return await awaitable, None
    except BaseException as failure:  # noqa: BLE001 - SystemExit would tear down the loop
        return None, failure


def _for_the_caller(failure: BaseException | None) -> Exception | None:
    """Return `failure` as something that a future can carry and a coroutine can raise."""
    if failure is None:
        return None
    if isinstance(failure, Exception) and not isinstance(failure, StopIteration):
        return failure
    escaped = Escaped(type(failure).__name__)
    escaped.__cause__ = failure
    return escaped


class _Bench:
    """What a worker's thread works with; all of it belongs to that thread.

    The loop is asyncio's own, whatever the service runs on, and made for the first function
    that needs one.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_is_sound = True
        self._tasks: set[asyncio.Task[Any]] = set()
        self._threads = _DaemonThreads()

    def perform(self, job: _Job) -> _Outcome:
        """Run the job's function to its end; return its result and what it raised."""
        if job.is_cancelled:
            return None, None
        try:
            result = job.context.run(job.function)
            return self._drive(result, job) if inspect.isawaitable(result) else (result, None)
        except BaseException as failure:  # noqa: BLE001 - whatever it is, it is the caller's
            return None, failure

    def _drive(self, awaitable: Awaitable[Any], job: _Job) -> _Outcome:
        if self._loop is None:
            self._loop = self._new_loop()
        loop = self._loop
        task = loop.create_task(_outcome(awaitable), context=job.context)
        job.attach(task)
        self._loop_is_sound = False  # unless it comes back in order: a task may raise SystemExit
        outcome = loop.run_until_complete(task)
        # One turn more: a connection that the function closed last is closed now, not next time.
        loop.call_soon(loop.stop)
        loop.run_forever()
        self._loop_is_sound = True
        return outcome

    @property
    def is_clean(self) -> bool:
        """Whether the next function finds nothing of the last one."""
        return self._loop_is_sound and not self._unfinished() and not self._threads.running

    def clean(self) -> None:
        """Cancel what is left, wait for its end however long it takes, and drop the loop."""
        if self._loop is not None:
            while tasks := self._unfinished():
                for task in tasks:
                    task.cancel()
                self._run_whatever(self._loop, asyncio.wait(tasks))
            for thread in tuple(self._threads.running):
                thread.join()
            self._run_whatever(self._loop, self._loop.shutdown_asyncgens())
            self._loop.close()
        self._loop = None
        self._loop_is_sound = True

    def _run_whatever(
        self, loop: asyncio.AbstractEventLoop, clean_up: Coroutine[Any, Any, Any]
    ) -> None:
        try:
            loop.run_until_complete(clean_up)
        except BaseException as failure:  # noqa: BLE001 - nothing may end this thread
            _logger.warning("a background task of a tool raised %s", type(failure).__name__)

    def _unfinished(self) -> list[asyncio.Task[Any]]:
        return [task for task in self._tasks if not task.done()]

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.SelectorEventLoop()
        loop.set_task_factory(self._new_task)
        loop.set_default_executor(self._threads)
        return loop

    def _new_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class _DaemonThreads(ThreadPoolExecutor):
    """The executor of a worker's loop: a daemon thread for each call.

    The standard pool's threads are joined when the interpreter exits, so one name look-up that
    hangs would hold up the exit of the service.
    """

    def __init__(self) -> None:
        super().__init__(max_workers=1)
        self.running: set[threading.Thread] = set()

    def submit(
        self, function: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Future[_R]:
        future: Future[_R] = Future()
        call = partial(function, *args, **kwargs)
        thread = threading.Thread(target=self._run, args=(future, call), daemon=True)
        self.running.add(thread)
        try:
            thread.start()
        except RuntimeError:  # no further thread
            self.running.discard(thread)
            raise
        return future

    def _run(self, future: Future[_R], call: Callable[[], _R]) -> None:
        try:
            settle = partial(future.set_result, call())
        except BaseException as failure:  # noqa: BLE001 - whatever it is, it is the caller's
            settle = partial(future.set_exception, failure)
        self.running.discard(threading.current_thread())
        with suppress(InvalidStateError):  # cancelled meanwhile
            settle()
