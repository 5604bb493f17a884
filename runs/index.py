"""The runs that this process knows: those under way, and for a time those that are over here.

Each has a bound in number, and all together one in bytes. Of those that have ended, the one that
ended first is forgotten first: what it said and was asked, while its place is known for `ttl`
seconds, so that its log goes with its conversation. Storage remembers all of it for longer.
"""

import asyncio
import sys
from collections import OrderedDict
from typing import Final, NamedTuple

from caller import Caller
from events import ChatComplete
from hub import Hub
from runs.run import Run
from storage import StoredRun

RUN_BYTES: Final = 4096
"""What a run takes besides its texts, roughly."""


class _Ended(NamedTuple):
    """A run that has ended. `deadline`: on the loop's clock."""

    deadline: float
    place: tuple[Caller, str]


class _Known(NamedTuple):
    """What is known of a run that has ended.

    `size`: as it was counted. The objects are not of the same size for ever: Python keeps the UTF-8
    of a text beside it, once something asked for that.
    """

    stored: StoredRun
    size: int


class RunIndex:
    """Runs by id and by key: for `ttl` seconds after their end, and `most` of these at most.

    `max_bytes`: of all runs together, roughly.
    """

    def __init__(self, hub: Hub, ttl: float, most: int, max_bytes: int) -> None:
        self.live_bytes = 0
        self.ended_bytes = 0
        self._hub = hub
        self._ttl = ttl
        self._most = most
        self._max_bytes = max_bytes
        self._live: dict[str, Run] = {}
        self._ended: OrderedDict[str, _Ended] = OrderedDict()
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._keys: dict[tuple[Caller, str], str] = {}

    def __len__(self) -> int:
        return len(self._live)

    def has_room(self, size: int, besides: int) -> bool:
        """Tell whether a run of this size may begin beside those under way; one alone may.

        `besides`: how many bytes there are of runs that are no longer under way, and must be kept.
        """
        taken = self.live_bytes + besides
        return not taken or taken + size <= self._max_bytes

    def all_live(self) -> list[Run]:
        return [*self._live.values()]

    def add(self, run: Run) -> None:
        self._live[run.id] = run
        self.live_bytes += run.size
        self._add_key(run.stored)
        self._expire()

    def live(self, run_id: str) -> Run | None:
        return self._live.get(run_id)

    def find(self, run_id: str) -> StoredRun | None:
        """Return a run that is known with what it said; others may be stored."""
        self._expire()
        live = self._live.get(run_id)
        if live is not None:
            return live.stored
        known = self._known.get(run_id)
        return None if known is None else known.stored

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
        self._pop_live(run.id)
        stored = run.stored
        deadline = asyncio.get_running_loop().time() + self._ttl
        self._ended[run.id] = _Ended(deadline, (stored.owner, stored.conversation_id))
        self._known[run.id] = known = _Known(stored, _size(stored))
        self.ended_bytes += known.size
        self._expire()

    def forget(self, run_id: str) -> None:
        live = self._pop_live(run_id)
        if live is not None:
            self._drop_key(live.stored)
        self._ended.pop(run_id, None)
        self._drop(run_id)

    async def forget_conversation(self, owner: Caller, conversation_id: str) -> None:
        """Forget the runs of a conversation that have ended, and their logs."""
        place = (owner, conversation_id)
        for run_id in [id for id, ended in self._ended.items() if ended.place == place]:
            self.forget(run_id)
            await self._hub.forget(run_id)

    def _pop_live(self, run_id: str) -> Run | None:
        run = self._live.pop(run_id, None)
        if run is not None:
            self.live_bytes -= run.size
        return run

    def _drop(self, run_id: str) -> None:
        """Let go of what a run said, and of its key; storage has both."""
        known = self._known.pop(run_id, None)
        if known is not None:
            self.ended_bytes -= known.size
            self._drop_key(known.stored)

    def _add_key(self, run: StoredRun) -> None:
        if run.key is not None:
            self._keys[run.owner, run.key] = run.id

    def _drop_key(self, run: StoredRun) -> None:
        if run.key is not None and self._keys.get((run.owner, run.key)) == run.id:
            del self._keys[run.owner, run.key]

    def _expire(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._ended:
            run_id, ended = next(iter(self._ended.items()))
            if ended.deadline > now and len(self._ended) <= self._most:
                break
            self.forget(run_id)
        while self._known and self.live_bytes + self.ended_bytes > self._max_bytes:
            self._drop(next(iter(self._known)))


def size_of(request: str) -> int:
    """Return how many bytes a run under way takes whose request has this JSON, roughly.

    The objects that are made of JSON are larger than it, the more so the more of them there are.
    """
    many = request.count("{") + request.count("[") + request.count(",")
    return RUN_BYTES + 2 * sys.getsizeof(request) + 128 * many


def _size(run: StoredRun) -> int:
    """Return how many bytes a run takes that has ended."""
    size = RUN_BYTES + sys.getsizeof(run.request)
    if isinstance(run.terminal, ChatComplete):
        size += sys.getsizeof(run.terminal.final_response)
        size += sum(sys.getsizeof(call.arguments) for call in run.terminal.tool_calls)
    return size
