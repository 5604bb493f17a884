import asyncio
import contextvars
import gc
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import uvloop

from errors import ToolError
from tools import workers as workers_module
from tools.workers import Escaped, Worker, Workers

DEADLINE = 10
ROOT = Path(__file__).parents[2]


class Release(threading.Event):
    """What blocking functions wait for, once they have said that they run."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()


@pytest.fixture
def released() -> Iterator[Release]:
    """Set at the test's end, so that no thread outlives it."""
    event = Release()
    yield event
    event.set()
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and thread.name == "parley-tool":
            thread.join(DEADLINE)


@pytest.fixture
async def workers(released: Release) -> AsyncIterator[Workers]:
    async with asyncio.timeout(DEADLINE):
        async with Workers(8) as workers:
            yield workers
            released.set()


async def in_place(workers: Workers, function: Any, *args: Any) -> Any:
    async with workers.place() as worker:
        return await worker.run(function, *args)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - other threads make it true
            await asyncio.sleep(0.001)


async def abandon(workers: Workers, function: Any, released: Release) -> None:
    """Start a function, see that it runs, and cancel its caller."""
    task = asyncio.create_task(in_place(workers, function, released))
    await until(released.entered.is_set)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def swallow_cancellation(released: Release) -> str:
    released.entered.set()
    while not released.is_set():
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            continue
    return "at last"


async def block_the_loop(released: Release) -> None:
    released.entered.set()
    released.wait(DEADLINE)


def block_plainly(released: Release) -> None:
    released.entered.set()
    released.wait(DEADLINE)


async def block_another_thread(released: Release) -> None:
    await asyncio.to_thread(block_plainly, released)


async def hang(_: Release) -> None:
    await asyncio.Event().wait()


STUBBORN = [swallow_cancellation, block_the_loop, block_plainly]


async def test_plain_and_async_functions_run_in_a_thread_of_their_own(workers: Workers) -> None:
    async def ident() -> int:
        await asyncio.sleep(0)
        return threading.get_ident()

    for function in (threading.get_ident, ident):
        assert await in_place(workers, function) != threading.get_ident()


async def test_arguments_and_the_result_are_handed_over(workers: Workers) -> None:
    async with workers.place() as worker:
        assert await worker.run(int, "ff", base=16) == 255


async def test_a_plain_function_may_run_an_event_loop_of_its_own(workers: Workers) -> None:
    assert await in_place(workers, lambda: asyncio.run(asyncio.sleep(0, "own"))) == "own"


async def test_the_callers_context_variables_are_seen_and_not_changed(workers: Workers) -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("caller")

    async def change() -> str:
        seen = variable.get()
        variable.set("tool")
        return seen

    assert await in_place(workers, change) == "caller"
    assert variable.get() == "caller"


async def test_a_worker_at_rest_is_used_again(workers: Workers) -> None:
    idents = {await in_place(workers, threading.get_ident) for _ in range(20)}
    assert len(idents) == 1


async def test_a_worker_that_ran_a_function_on_another_thread_is_used_again(
    workers: Workers,
) -> None:
    async def both() -> int:
        await asyncio.to_thread(threading.get_ident)
        return threading.get_ident()

    assert len({await in_place(workers, both) for _ in range(50)}) == 1


async def test_calls_run_side_by_side(workers: Workers) -> None:
    barrier = threading.Barrier(8, timeout=DEADLINE)
    arrived = await asyncio.gather(*[in_place(workers, barrier.wait) for _ in range(8)])
    assert sorted(arrived) == list(range(8))  # all were there before the first one went on


@pytest.mark.parametrize("new_loop", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
def test_hundreds_of_calls_share_few_places(new_loop: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(DEADLINE), Workers(16) as workers:
            results = await asyncio.gather(
                *[in_place(workers, asyncio.sleep, 0.001, number) for number in range(400)]
            )
            assert results == list(range(400))
            assert threading.active_count() <= before + 16
        assert workers._places._value == 16

    before = threading.active_count()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


async def test_a_function_that_blocks_its_loop_stalls_nobody_else(
    workers: Workers, released: Release
) -> None:
    blocked = [asyncio.create_task(in_place(workers, block_the_loop, released)) for _ in "123"]
    await until(released.entered.is_set)
    siblings = [in_place(workers, asyncio.sleep, 0.05, number) for number in range(5)]
    assert await asyncio.gather(*siblings) == list(range(5))
    assert not any(task.done() for task in blocked)
    released.set()
    await asyncio.gather(*blocked)


@pytest.mark.parametrize("function", [hang, *STUBBORN, block_another_thread])
async def test_a_deadline_holds(function: Any, workers: Workers, released: Release) -> None:
    start = time.perf_counter()
    async with workers.place() as worker:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await worker.run(function, released)
    assert time.perf_counter() - start < DEADLINE / 2


async def test_a_function_that_ends_at_its_cancellation_keeps_its_worker(
    workers: Workers, released: Release
) -> None:
    before = await in_place(workers, threading.get_ident)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await in_place(workers, hang, released)
    assert await in_place(workers, threading.get_ident) == before


@pytest.mark.parametrize("function", [*STUBBORN, block_another_thread])
async def test_an_abandoned_worker_keeps_its_place_until_it_ends(
    function: Any, released: Release
) -> None:
    async with asyncio.timeout(DEADLINE), Workers(1) as workers:
        await abandon(workers, function, released)
        waiting = asyncio.create_task(in_place(workers, threading.active_count))
        await asyncio.wait([waiting], timeout=0.05)
        assert not waiting.done()
        released.set()
        await waiting
        assert len(workers._alive) == 1


async def test_a_function_that_was_abandoned_is_never_followed_on_its_thread(
    workers: Workers, released: Release
) -> None:
    idents = []

    def block(released: Release) -> None:
        idents.append(threading.get_ident())
        block_plainly(released)

    await abandon(workers, block, released)
    thread = next(t for t in threading.enumerate() if t.ident == idents[0])
    assert await in_place(workers, threading.get_ident) != idents[0]
    released.set()
    thread.join(DEADLINE)
    assert not thread.is_alive()


async def test_waiting_for_a_place_can_be_cancelled(released: Release) -> None:
    async with asyncio.timeout(DEADLINE), Workers(1) as workers:
        async with workers.place() as worker:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await in_place(workers, threading.get_ident)
            await worker.run(threading.get_ident)
        await in_place(workers, threading.get_ident)


async def test_a_second_cancellation_ends_the_grace(
    workers: Workers, released: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "GRACE", DEADLINE)
    task = asyncio.create_task(in_place(workers, block_plainly, released))
    await until(released.entered.is_set)
    start = time.perf_counter()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert time.perf_counter() - start < DEADLINE / 2


async def test_a_cancel_from_outside_is_not_taken_for_a_time_out(
    workers: Workers, released: Release
) -> None:
    async def under_a_deadline() -> None:
        async with asyncio.timeout(DEADLINE):
            await in_place(workers, hang, released)

    task = asyncio.create_task(under_a_deadline())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_at_any_moment_is_a_result_or_a_cancellation(
    workers: Workers,
) -> None:
    async def quick() -> str:
        await asyncio.sleep(0.0005)
        return "result"

    outcomes = set()
    for attempt in range(300):
        task = asyncio.create_task(in_place(workers, quick))
        await asyncio.sleep(attempt * 0.00001)
        task.cancel()
        await asyncio.wait([task])
        outcomes.add("cancelled" if task.cancelled() else task.result())
    assert outcomes <= {"result", "cancelled"}
    assert await in_place(workers, threading.active_count)
    assert workers._places._value == 8


@pytest.mark.parametrize("exit_type", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
@pytest.mark.parametrize("style", ["plain", "async", "background task"])
async def test_what_would_end_the_thread_becomes_an_exception(
    exit_type: type[BaseException], style: str, workers: Workers
) -> None:
    def plain() -> NoReturn:
        raise exit_type("bye")

    async def asynchronous() -> NoReturn:
        plain()

    async def background() -> None:
        await asyncio.create_task(asynchronous())

    functions = {"plain": plain, "async": asynchronous, "background task": background}
    with pytest.raises(Escaped, match=exit_type.__name__):
        await in_place(workers, functions[style])
    assert await in_place(workers, asyncio.sleep, 0, "next") == "next"


async def test_stop_iteration_becomes_an_exception(workers: Workers) -> None:
    with pytest.raises(Escaped, match="StopIteration"):
        await in_place(workers, lambda: next(iter(())))


async def test_a_function_that_stops_its_loop_fails_alone(workers: Workers) -> None:
    async def stop() -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(DEADLINE)

    async with workers.place() as worker:
        with pytest.raises(RuntimeError, match="stopped before"):
            await worker.run(stop)
    assert await in_place(workers, asyncio.sleep, 0, "next") == "next"


async def test_an_exception_arrives_as_it_was_raised(workers: Workers) -> None:
    async def fail() -> NoReturn:
        raise LookupError("no such city")

    with pytest.raises(LookupError, match="no such city"):
        await in_place(workers, fail)


async def test_tasks_left_behind_are_cancelled(workers: Workers) -> None:
    ended = threading.Event()

    async def background() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    kept = []

    async def leave_a_task() -> str:
        kept.append(asyncio.create_task(background()))
        await asyncio.sleep(0)
        return "result"

    assert await in_place(workers, leave_a_task) == "result"
    assert await asyncio.to_thread(ended.wait, DEADLINE)
    assert await in_place(workers, asyncio.sleep, 0, "next") == "next"


async def test_a_busy_worker_refuses_a_second_function(workers: Workers, released: Release) -> None:
    async with workers.place() as worker:
        running = asyncio.create_task(worker.run(block_plainly, released))
        await until(released.entered.is_set)
        with pytest.raises(RuntimeError, match="busy"):
            await worker.run(threading.get_ident)
        released.set()
        await running


async def test_an_idle_worker_keeps_no_value_alive(workers: Workers) -> None:
    class Value:
        pass

    references = []

    def make() -> Value:
        value = Value()
        references.append(weakref.ref(value))
        return value

    assert await in_place(workers, make) is not None
    await asyncio.sleep(0)
    gc.collect()
    assert references[0]() is None


async def side_by_side(workers: Workers, count: int) -> set[int]:
    """Run calls that need so many threads at once; return the threads' identities."""
    barrier = threading.Barrier(count, timeout=DEADLINE)

    def meet() -> int:
        barrier.wait()
        return threading.get_ident()

    return set(await asyncio.gather(*[in_place(workers, meet) for _ in range(count)]))


async def test_all_threads_are_used_again(workers: Workers) -> None:
    assert await side_by_side(workers, 8) == await side_by_side(workers, 8)


async def test_a_worker_that_is_idle_for_long_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "KEPT", 0.1)
    async with asyncio.timeout(DEADLINE), Workers(8) as workers:
        await side_by_side(workers, 8)
        busy = await in_place(workers, threading.get_ident)
        while len(workers._alive) > 1:
            assert await in_place(workers, threading.get_ident) == busy
        await until(lambda: not workers._alive)
        assert await in_place(workers, threading.get_ident)
        assert workers._places._value == 8


async def test_leaving_ends_the_threads(released: Release) -> None:
    before = threading.active_count()
    async with Workers(8) as workers:
        await asyncio.gather(*[in_place(workers, asyncio.sleep, 0.01) for _ in range(8)])
        threads = [t for t in threading.enumerate() if t.name == "parley-tool"]
    for thread in threads:
        thread.join(DEADLINE)
    assert threading.active_count() <= before


async def test_leaving_cancels_what_runs_and_waits_a_second_at_most(
    released: Release,
) -> None:
    begun = threading.Event()

    async def hang_on(_: Release) -> None:
        begun.set()
        await asyncio.Event().wait()

    start = time.perf_counter()
    async with Workers(2) as workers:
        tasks = [
            asyncio.create_task(in_place(workers, function, released))
            for function in (hang_on, block_the_loop)
        ]
        await until(lambda: begun.is_set() and released.entered.is_set())
    assert time.perf_counter() - start < DEADLINE / 2
    released.set()
    done, _ = await asyncio.wait(tasks, timeout=DEADLINE)
    assert done == set(tasks)
    assert isinstance(tasks[0].exception(), Escaped)


async def test_closed_workers_refuse(released: Release) -> None:
    async with Workers(1) as workers, workers.place():
        waiting = asyncio.create_task(in_place(workers, threading.get_ident))
        await asyncio.sleep(0)
        await workers.__aexit__(None, None, None)
    with pytest.raises(ToolError, match="stopping"):
        await waiting
    with pytest.raises(ToolError, match="stopping"):
        await in_place(workers, threading.get_ident)


def test_a_worker_that_ends_after_the_services_loop_ends_quietly(
    released: Release,
) -> None:
    async def main() -> None:
        async with Workers(1) as workers:
            await abandon(workers, block_plainly, released)

    asyncio.run(main())
    (thread,) = [t for t in threading.enumerate() if t.name == "parley-tool"]
    released.set()
    thread.join(DEADLINE)
    assert not thread.is_alive()


@pytest.mark.slow
def test_blocked_functions_do_not_hold_up_the_interpreters_exit() -> None:
    script = """
        import asyncio, time
        from tools.workers import Workers

        async def elsewhere():
            await asyncio.to_thread(time.sleep, 60)

        async def run(workers, function):
            async with workers.place() as worker, asyncio.timeout(0.05):
                await worker.run(function)

        async def main():
            async with Workers(4) as workers:
                functions = [elsewhere, lambda: time.sleep(60)]
                runs = [run(workers, function) for function in functions]
                print(await asyncio.gather(*runs, return_exceptions=True))

        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert done.stdout == "[TimeoutError(), TimeoutError()]\n"
    assert done.stderr == ""


async def test_a_warm_hand_over_takes_less_than_a_millisecond(workers: Workers) -> None:
    async def measured(worker: Worker) -> float:
        start = time.perf_counter()
        await worker.run(asyncio.sleep, 0)
        return time.perf_counter() - start

    async with workers.place() as worker:
        times = sorted([await measured(worker) for _ in range(200)])
    # The quickest tenth: another process on the machine does not count.
    assert times[20] < 0.001
