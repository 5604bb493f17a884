"""A circuit breaker: a provider that keeps failing is left alone for a while.

Closed, every request is let through. `failures` failures one after another, all within
`window` seconds, open it: for `cooldown` seconds none is. Then it is half-open: one request at
a time is let through on trial. The trial's first answer closes the circuit; its failure opens
it again, each time for twice as long, up to `longest`; a trial that tells nothing (it was
cancelled, or the request itself was at fault) gives its place to the next.

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


class Circuit:
    """The state of one provider.

    Args:
        failures: how many failures in a row open it.
        window: seconds within which these have to come.
        cooldown: seconds that it is open for the first time.
        longest: seconds that it is open at most.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        failures: int = 5,
        window: float = 60.0,
        cooldown: float = 5.0,
        longest: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._window = window
        self._first = cooldown
        self._longest = longest
        self._clock = clock
        self._failed: deque[float] = deque(maxlen=failures)
        self._period = object()  # outcomes count for the period in which they began
        self._cooldown = 0.0  # 0 while closed
        self._until = 0.0
        self._trial: Attempt | None = None

    def enter(self) -> "Attempt | None":
        """Let a request through, or not; the caller tells the attempt what came of it."""
        if not self._cooldown:
            return Attempt(self, self._period)
        if self.refuses:
            return None
        self._trial = Attempt(self, self._period)
        return self._trial

    @property
    def refuses(self) -> bool:
        """Whether `enter` lets nobody through now."""
        if not self._cooldown:
            return False
        return self._trial is not None or self._clock() < self._until

    @property
    def rest(self) -> float:
        """Seconds after which asking again makes sense, where `enter` let nobody through.

        While a trial is under way nobody knows; the shortest cooldown is a guess.
        """
        return self._first if self._trial is not None else self._until - self._clock()

    def _close(self) -> object:
        self._trial, self._cooldown, self._period = None, 0.0, object()
        self._failed.clear()
        return self._period

    def _open(self) -> None:
        self._cooldown = min(self._cooldown * 2 or self._first, self._longest)
        self._until = self._clock() + self._cooldown
        self._trial, self._period = None, object()

    def _count(self) -> None:
        now = self._clock()
        self._failed.append(now)
        if len(self._failed) == self._failed.maxlen and now - self._failed[0] <= self._window:
            self._open()


class Attempt:
    """One request that was let through.

    As a context it tells the outcome itself: no error is a complete answer, a retryable
    `UpstreamError` a failure, and all else tells nothing of the provider.
    """

    def __init__(self, circuit: Circuit, period: object) -> None:
        self._circuit = circuit
        self._period = period

    def answered(self) -> None:
        if self._circuit._trial is self:
            self._period = self._circuit._close()

    def completed(self) -> None:
        self.answered()
        if self._circuit._period is self._period:
            self._circuit._failed.clear()

    def failed(self) -> None:
        if self._circuit._trial is self:
            self._circuit._open()
        elif self._circuit._period is self._period:
            self._circuit._count()

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
            self.failed()
        else:
            self.dropped()
