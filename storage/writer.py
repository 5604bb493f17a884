"""One thread that writes, several units in one transaction.

A commit waits for the disk, which costs more than the unit. So all units that wait when the
thread is free share one: each in a savepoint, so that one that fails takes nothing of the others
along, and every caller learns of its outcome after the commit (group commit).
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

MOST = 64
"""How many units share a transaction at most."""


class Task(NamedTuple):
    """A unit that waits, and who waits for it: until it has begun, its future can be cancelled."""

    unit: Callable[[Any], Any]
    future: "Future[Any]"


class GroupWriter:
    """The thread.

    Args:
        perform: does units in their order, and resolves their futures. A unit whose future was
            cancelled is left out; it says of the others when they begin.
    """

    def __init__(self, perform: Callable[[Sequence[Task]], None]) -> None:
        self._perform = perform
        self._queue: SimpleQueue[Task | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="storage-writer", daemon=True)
        self._thread.start()

    def submit(self, unit: Callable[[Any], Any]) -> "Future[Any]":
        """Queue a unit."""
        future: Future[Any] = Future()
        self._queue.put(Task(unit, future))
        return future

    def close(self) -> None:
        """Do what is queued, and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            batch, is_last = self._next()
            wanted = [task for task in batch if not task.future.cancelled()]
            if wanted:
                self._perform(wanted)
            if is_last:
                return

    def _next(self) -> tuple[list[Task], bool]:
        """Return what waits, at least one unit, and whether the thread is to end after it."""
        batch: list[Task] = []
        task = self._queue.get()
        while task is not None:
            batch.append(task)
            if len(batch) == MOST:
                return batch, False
            try:
                task = self._queue.get_nowait()
            except Empty:
                return batch, False
        return batch, True
