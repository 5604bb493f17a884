"""The runs that this process knows, and by which keys they were asked for.

A run is known while it is under way, and for a time after its end; of those that have ended, the
one that ended first is forgotten first. Storage remembers them longer.
"""

import asyncio
from collections import deque
from collections.abc import Iterator

from caller import Caller
from errors import Conflict
from runs.run import Run


class Remembered:
    """Runs by id and by key.

    Args:
        ttl: seconds for which a run that has ended is known.
        most: how many of these are.
    """

    def __init__(self, ttl: float, most: int) -> None:
        self._ttl = ttl
        self._most = most
        self._runs: dict[str, Run] = {}
        self._keys: dict[tuple[Caller, str], Run] = {}
        self._ended: deque[tuple[float, str]] = deque()

    def add(self, run: Run) -> None:
        """Know a run."""
        self._runs[run.id] = run
        if run.stored.key is not None:
            self._keys[run.stored.owner, run.stored.key] = run

    def find(self, run_id: str) -> Run | None:
        """Return a run."""
        self._expire()
        return self._runs.get(run_id)

    def asked_before(self, owner: Caller, key: str, fingerprint: bytes) -> Run | None:
        """Return the run that the same request started before.

        Raises:
            errors.Conflict: the key was used for another request.
        """
        self._expire()
        run = self._keys.get((owner, key))
        if run is not None:
            check_same(run.stored.fingerprint, fingerprint)
        return run

    def ended(self, run: Run) -> None:
        """Forget a run when its time is over."""
        deadline = asyncio.get_running_loop().time() + self._ttl
        self._ended.append((deadline, run.id))

    def ended_in(self, owner: Caller, conversation_id: str) -> Iterator[Run]:
        """Yield the runs of a conversation that have ended; they may be forgotten meanwhile."""
        place = (owner, conversation_id)
        for run in [*self._runs.values()]:
            if run.work is None and (run.stored.owner, run.stored.conversation_id) == place:
                yield run

    def forget(self, run_id: str) -> None:
        """Know a run no longer."""
        run = self._runs.pop(run_id, None)
        if run is not None and run.stored.key is not None:
            place = (run.stored.owner, run.stored.key)
            if self._keys.get(place) is run:
                del self._keys[place]

    def _expire(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._ended:
            deadline, run_id = self._ended[0]
            if deadline > now and len(self._ended) <= self._most:
                return
            self._ended.popleft()
            self.forget(run_id)


def check_same(before: bytes, fingerprint: bytes) -> None:
    """Check what a key was used for.

    Raises:
        errors.Conflict: it was another request.
    """
    if before != fingerprint:
        raise Conflict(
            "This idempotency key was used for another request.", code="idempotency_conflict"
        )
