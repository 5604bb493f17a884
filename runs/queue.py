"""The lock of a conversation: one run at a time has its turn, the others wait in their order.

So two messages into one conversation are never interleaved. `ConversationLocks` is what a service
of several processes replaces; `LocalLocks` serves one process, and there none of these methods
suspends: to look at the queue and to join it are one step.
"""

import asyncio
from typing import Protocol

from caller import Caller
from errors import Conflict, TooMany
from models import IfBusy


class Turn(Protocol):
    @property
    def is_held(self) -> bool: ...

    async def wait(self) -> None: ...

    async def leave(self) -> None:
        """Give the place up; the next run has its turn, if this one had it."""


class ConversationLocks(Protocol):
    async def join(
        self, owner: Caller, conversation_id: str, run_id: str, *, if_busy: IfBusy, limit: int
    ) -> Turn:
        """Put a run at the end of a queue.

        Args:
            if_busy: `reject`: only where the queue is empty; `interrupt`: whatever its length.
            limit: how many runs may wait before it, beside the one that has its turn.

        Raises:
            errors.Conflict, errors.TooMany: it may not join.
        """

    async def queue(self, owner: Caller, conversation_id: str) -> list[str]:
        """Return the ids of the runs in a queue, first the one that has its turn."""


class LocalTurn:
    def __init__(self, run_id: str, locks: "LocalLocks", place: tuple[Caller, str]) -> None:
        self.run_id = run_id
        self.is_held = False
        self._granted: asyncio.Event | None = None  # most turns are never waited for
        self._locks = locks
        self._place = place

    def grant(self) -> None:
        self.is_held = True
        if self._granted is not None:
            self._granted.set()

    async def wait(self) -> None:
        if not self.is_held:
            self._granted = self._granted or asyncio.Event()
            await self._granted.wait()

    async def leave(self) -> None:
        self._locks.remove(self._place, self)


class LocalLocks:
    def __init__(self) -> None:
        self._queues: dict[tuple[Caller, str], list[LocalTurn]] = {}

    async def join(
        self, owner: Caller, conversation_id: str, run_id: str, *, if_busy: IfBusy, limit: int
    ) -> LocalTurn:
        place = (owner, conversation_id)
        queue = self._queues.get(place, [])
        if queue and if_busy == "reject":
            text = f"The conversation has a run under way: {queue[0].run_id}."
            raise Conflict(text, code="conversation_busy")
        if if_busy == "enqueue" and len(queue) > limit:
            raise TooMany("Too many messages wait in this conversation.", retry_after=1)
        turn = LocalTurn(run_id, self, place)
        self._queues[place] = queue
        queue.append(turn)
        queue[0].grant()
        return turn

    async def queue(self, owner: Caller, conversation_id: str) -> list[str]:
        return [turn.run_id for turn in self._queues.get((owner, conversation_id), ())]

    def remove(self, place: tuple[Caller, str], turn: LocalTurn) -> None:
        queue = self._queues[place]
        queue.remove(turn)
        if queue:
            queue[0].grant()
        else:
            del self._queues[place]
