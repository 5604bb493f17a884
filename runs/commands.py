"""Commands to runs, wherever they are under way.

Each method tells whether the run was found. A service of several processes replaces
`LocalCommands`, which reaches the runs of this process.
"""

import asyncio
from typing import Protocol

from runs.index import RunIndex
from runs.run import StopReason


class Commands(Protocol):
    async def stop(self, run_id: str, reason: StopReason) -> bool:
        """Stop a run, at its next await."""

    async def cancel_call(self, run_id: str, tool_call_id: str) -> bool:
        """Cancel one tool call; its siblings and the run go on. False also: no such call."""

    async def wait(self, run_ids: list[str], seconds: float) -> bool:
        """Wait until runs have ended, for some seconds at most; tell whether they have."""


class LocalCommands:
    def __init__(self, index: RunIndex) -> None:
        self._index = index

    async def stop(self, run_id: str, reason: StopReason) -> bool:
        run = self._index.live(run_id)
        if run is not None:
            run.stop(reason)
        return run is not None

    async def cancel_call(self, run_id: str, tool_call_id: str) -> bool:
        run = self._index.live(run_id)
        task = run.state.calls.get(tool_call_id) if run and run.state else None
        if task is None or task.done():
            return False
        task.cancel()
        return True

    async def wait(self, run_ids: list[str], seconds: float) -> bool:
        live = [self._index.live(run_id) for run_id in run_ids]
        tasks = [run.task for run in live if run is not None and run.task is not None]
        return not tasks or not (await asyncio.wait(tasks, timeout=seconds))[1]
