"""The runs that this process knows: those under way, and for a time those that are over here.

Of those that have ended, the one that ended first is forgotten first. Storage remembers them
longer.
"""

import asyncio
from collections import deque

from caller import Caller
from hub import Hub
from runs.run import Run
from storage import StoredRun


class RunIndex:
    """Runs by id and by key: for `ttl` seconds after their end, and `most` of these at most."""

    def __init__(self, hub: Hub, ttl: float, most: int) -> None:
        self._hub = hub
        self._ttl = ttl
        self._most = most
        self._live: dict[str, Run] = {}
        self._ended: dict[str, StoredRun] = {}
        self._keys: dict[tuple[Caller, str], str] = {}
        self._deadlines: deque[tuple[float, str]] = deque()

    def __len__(self) -> int:
        return len(self._live)

    def all_live(self) -> list[Run]:
        return [*self._live.values()]

    def add(self, run: Run) -> None:
        self._live[run.id] = run
        if run.stored.key is not None:
            self._keys[run.stored.owner, run.stored.key] = run.id

    def live(self, run_id: str) -> Run | None:
        return self._live.get(run_id)

    def find(self, run_id: str) -> StoredRun | None:
        self._expire()
        live = self._live.get(run_id)
        return live.stored if live is not None else self._ended.get(run_id)

    def of_key(self, owner: Caller, key: str) -> str | None:
        self._expire()
        return self._keys.get((owner, key))

    def end(self, run: Run) -> None:
        """Note that a run has ended or is suspended, and forget it when its time is over.

        One that was taken over and given back meanwhile is under way once more in this process, in
        another epoch: then only that one counts.
        """
        if self._live.get(run.id) is not run:
            return
        del self._live[run.id]
        self._ended[run.id] = run.stored
        deadline = asyncio.get_running_loop().time() + self._ttl
        self._deadlines.append((deadline, run.id))

    def forget(self, run_id: str) -> None:
        live = self._live.pop(run_id, None)
        stored = live.stored if live is not None else self._ended.pop(run_id, None)
        if stored is not None and stored.key is not None:
            place = (stored.owner, stored.key)
            if self._keys.get(place) == run_id:
                del self._keys[place]

    async def forget_conversation(self, owner: Caller, conversation_id: str) -> None:
        """Forget the runs of a conversation that have ended, and their logs."""
        place = (owner, conversation_id)
        for stored in [*self._ended.values()]:
            if (stored.owner, stored.conversation_id) == place:
                self.forget(stored.id)
                await self._hub.forget(stored.id)

    def _expire(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._deadlines:
            deadline, run_id = self._deadlines[0]
            if deadline > now and len(self._deadlines) <= self._most:
                return
            self._deadlines.popleft()
            if run_id in self._ended:
                self.forget(run_id)
