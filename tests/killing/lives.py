"""A service that is killed and started again on the same data."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.service import Event

ROOT = Path(__file__).parents[2]

START = 30.0
"""Seconds that the start of a process may take beside other tests."""

_LISTENING = "Listening on "


class Lives:
    """One service, dead or alive.

    Args:
        folder: where its data is.
        environment: its settings.

    Attributes:
        number: how often it was started.
        said: what it said in its log, greetings apart.
        dead: set while nothing runs.
    """

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.number = 0
        self.said: list[str] = []
        self.dead = asyncio.Event()
        self.dead.set()
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self._environment = kept | {"DATA_DIR": str(folder), "PORT": "0"} | environment
        self._pid = 0
        self._urls: dict[int, str] = {}
        self._changed = asyncio.Event()
        self._is_fatal: Callable[[Event], bool] = lambda event: False

    async def begin(self) -> None:
        """Start a process, without waiting for it to be up."""
        raise NotImplementedError

    async def gone(self) -> None:
        """Wait until the process that was killed has ended."""
        raise NotImplementedError

    def will_die(self, is_fatal: Callable[[Event], bool]) -> None:
        """Kill this life at an event that a client gets."""
        self._is_fatal = is_fatal

    def got(self, event: Event) -> None:
        """Take notice of an event that a client got."""
        if not self.dead.is_set() and self._is_fatal(event):
            self.kill()

    def kill(self) -> None:
        """Kill the service, now."""
        if self.dead.is_set():
            return
        os.kill(self._pid, signal.SIGKILL)
        self.dead.set()
        self._is_fatal = lambda event: False

    async def up(self) -> tuple[int, str]:
        """Wait until the service listens; return the life's number and its address."""
        async with asyncio.timeout(2 * START):
            while self.dead.is_set() or self._pid not in self._urls:
                await self._changed.wait()
        return self.number, self._urls[self._pid]

    def remains(self, to: Path) -> Path:
        """Copy what a killed service left on the disk, so that looking changes nothing there."""
        to.mkdir()
        for path in self.folder.glob("parley.db*"):
            if not path.name.endswith(("-shm", ".lock")):
                shutil.copy(path, to)
        return to / "parley.db"

    def _born(self, pid: int) -> None:
        self._pid = pid
        self.number += 1
        self.dead.clear()
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _listen(self, log: asyncio.StreamReader, pid: int | None = None) -> None:
        """Read a log to its end: of one process, or of several that begin a line with theirs."""
        while line := (await log.readline()).decode():
            if _LISTENING in line:
                self._urls[pid or int(line.split()[0])] = line.split()[-1]
                self._tell()
            elif "INFO" not in line:
                self.said.append(line)


class Started(Lives):
    """The service as it is started: `python app.py`."""

    async def begin(self) -> None:
        """Start a process."""
        self._child = await asyncio.create_subprocess_exec(
            sys.executable,
            "app.py",
            cwd=ROOT,
            env=self._environment,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        assert self._child.stderr is not None
        self._born(self._child.pid)
        self._log = asyncio.create_task(self._listen(self._child.stderr, self._child.pid))

    async def gone(self) -> None:
        """Wait until the process has ended."""
        async with asyncio.timeout(START):
            assert await self._child.wait() == -signal.SIGKILL
            await self._log


class Forked(Lives):
    """The service that `tests.killing.service` forks."""

    async def prepare(self) -> None:
        """Start the process that forks."""
        self._parent = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.killing.service",
            cwd=ROOT,
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert self._parent.stderr is not None
        self._log = asyncio.create_task(self._listen(self._parent.stderr))

    async def begin(self) -> None:
        """Fork a service."""
        assert self._parent.stdin is not None
        self._parent.stdin.write(b"\n")
        self._born(await self._number())

    async def gone(self) -> None:
        """Wait until the child has ended."""
        assert await self._number() == -signal.SIGKILL

    async def end(self) -> None:
        """End the process that forks."""
        assert self._parent.stdin is not None
        self._parent.stdin.close()
        async with asyncio.timeout(START):
            await self._parent.wait()
            await self._log

    async def _number(self) -> int:
        assert self._parent.stdout is not None
        async with asyncio.timeout(START):
            return int(await self._parent.stdout.readline())


@asynccontextmanager
async def started(folder: Path, **environment: str) -> AsyncIterator[Lives]:
    """Have `python app.py` at hand; nothing runs afterwards."""
    lives = Started(folder, **environment)
    try:
        yield lives
    finally:
        await _bury(lives)


@asynccontextmanager
async def forked(folder: Path, **environment: str) -> AsyncIterator[Lives]:
    """Have a service that forks at hand; nothing runs afterwards."""
    lives = Forked(folder, **environment)
    await lives.prepare()
    try:
        yield lives
    finally:
        await _bury(lives)
        await lives.end()


async def _bury(lives: Lives) -> None:
    if not lives.dead.is_set():
        with suppress(ProcessLookupError):
            lives.kill()
            await lives.gone()
