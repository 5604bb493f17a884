"""A circuit breaker: a provider that keeps failing is left alone for a while.

Closed, every request is let through. `failures` failures one after another, all within
`window` seconds, open it: for `cooldown` seconds none is. Then it is half-open: one request at
a time is let through on trial. The trial's first answer closes the circuit; its failure opens
it again, each time for twice as long, up to `longest`; a trial that tells nothing (it was
cancelled, or the request itself was at fault) gives its place to the next.

Whoever has nobody else to ask gains nothing by an open circuit. So once in `pace` seconds one of
these is let through all the same; its answer closes the circuit, its failure changes nothing.

A failure that the request itself may have caused is doubtful. It counts once for all requests
that share a mark, such as their conversation, so one of these opens the circuit for nobody.

Only outcomes of the present state count. A request that was let through before the circuit
opened says nothing about the provider of later, whatever comes of it. A complete answer ends a
row of failures; one that only begins does not, or a provider that breaks off every answer
would be taken for a good one.

Nothing here waits: time is a clock that is asked.
"""

import time
from collections import deque
from collections.abc import Callable

from errors import UpstreamError

Marks = frozenset[str]


class Circuit:
    """The state of one provider.

    Args:
        failures: how many failures in a row open it.
        window: seconds within which these have to come.
        cooldown: seconds that it is open for the first time.
        longest: seconds that it is open at most.
        pace: seconds between two of those that are let through for want of another provider.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        failures: int = 5,
        window: float = 60.0,
        cooldown: float = 5.0,
        longest: float = 60.0,
        pace: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._window = window
        self._first = cooldown
        self._longest = longest
        self._pace = pace
        self._clock = clock
        self._failed: deque[tuple[float, Marks]] = deque(maxlen=failures)
        self._row: deque[float] = deque(maxlen=failures)  # of all failures, doubtful or not
        self._period = object()  # outcomes count for the period in which they began
        self._cooldown = 0.0  # 0 while closed
        self._until = 0.0
        self._next_spare = 0.0
        self._trial: Attempt | None = None

    def enter(self, marks: Marks = frozenset(), *, is_last: bool = False) -> "Attempt | None":
        """Let a request through, or not; the caller tells the attempt what came of it.

        `is_last`: there is nobody else to ask.
        """
        attempt = Attempt(self, self._period, marks)
        if not self._cooldown:
            return attempt
        if not self.refuses:
            self._trial = attempt
        elif not is_last or self._clock() < self._next_spare:
            return None
        self._next_spare = self._clock() + self._pace
        return attempt

    @property
    def refuses(self) -> bool:
        """Whether `enter` lets nobody through now who has somebody else to ask."""
        if not self._cooldown:
            return False
        return self._trial is not None or self._clock() < self._until

    @property
    def is_failing(self) -> bool:
        """Whether it is open, or would be if all the latest failures were beyond doubt."""
        row, now = self._row, self._clock()
        is_row = len(row) == row.maxlen and row[-1] - row[0] <= self._window
        return self.refuses or (is_row and now - row[-1] < self._first)

    def rest(self, *, is_last: bool = False) -> float:
        """Return the seconds after which asking again makes sense for who was not let through.

        While a trial is under way nobody knows; the shortest cooldown is a guess.
        """
        rest = self._first if self._trial is not None else self._until - self._clock()
        return min(rest, self._next_spare - self._clock()) if is_last else rest

    def _close(self) -> object:
        self._trial, self._cooldown, self._period = None, 0.0, object()
        self._forget()
        return self._period

    def _forget(self) -> None:
        self._failed.clear()
        self._row.clear()

    def _open(self) -> None:
        self._cooldown = min(self._cooldown * 2 or self._first, self._longest)
        self._until = self._clock() + self._cooldown
        self._next_spare = self._clock() + self._pace
        self._trial, self._period = None, object()

    def _count(self, marks: Marks) -> None:
        """Count a failure; `marks` are those of a doubtful one."""
        now = self._clock()
        self._row.append(now)
        if self._has_failed(marks):
            return
        self._failed.append((now, marks))
        if len(self._failed) == self._failed.maxlen and now - self._failed[0][0] <= self._window:
            self._open()

    def _has_failed(self, marks: Marks) -> bool:
        """Tell whether a failure with one of the marks is counted already."""
        since = self._clock() - self._window
        return any(marks & seen and at >= since for at, seen in self._failed)


class Attempt:
    """One request that was let through.

    As a context it tells the outcome itself: no error is a complete answer, a retryable
    `UpstreamError` a failure, and all else tells nothing of the provider.
    """

    def __init__(self, circuit: Circuit, period: object, marks: Marks) -> None:
        self._circuit = circuit
        self._period = period
        self._marks = marks

    def answered(self) -> None:
        circuit = self._circuit
        if circuit._cooldown and circuit._period is self._period:
            self._period = circuit._close()

    def completed(self) -> None:
        self.answered()
        if self._circuit._period is self._period:
            self._circuit._forget()

    def failed(self, *, is_doubtful: bool = False) -> None:
        circuit = self._circuit
        marks = self._marks if is_doubtful else frozenset()
        if circuit._trial is self and circuit._has_failed(marks):
            self.dropped()
        elif circuit._trial is self:
            circuit._failed.append((circuit._clock(), marks))
            circuit._open()
        elif circuit._period is self._period and not circuit._cooldown:
            circuit._count(marks)

    def dropped(self) -> None:
        """It ended in a way that tells nothing of the provider."""
        if self._circuit._trial is self:
            self._circuit._trial = None

    def __enter__(self) -> "Attempt":
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            self.completed()
        elif isinstance(error, UpstreamError) and error.retryable:
            self.failed(is_doubtful=error.is_doubtful)
        else:
            self.dropped()
