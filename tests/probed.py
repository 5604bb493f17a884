"""A process of the service that tells how long its event loop stood still, and what memory it has.

    async with probed(upstream="http://…", max_run_bytes=…) as service:
        before = await service.probe()

How long the loop stood still is the longest work of its thread, in processor time, between two
turns of a task that asks for one each `PERIOD` seconds: it does not count what a busy machine took
from it, nor what another thread did that held the interpreter meanwhile.
"""

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import aiohttp
import msgspec
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

import server
from app import create_app
from settings import Settings
from tools.tool import ToolContext

PERIOD = 0.002
TEN_MEGABYTES = 10_000_000


class Probe(NamedTuple):
    """What a process tells of itself, since it was last asked.

    `stall`: seconds that its loop stood still at most. `memory`: resident bytes. `logs`, `live`,
    `ended`: what it counts as bytes of logs, and of runs under way and ended; `runs`: how many
    of these it knows, or the keys of, whichever are more.
    """

    stall: float
    memory: int
    logs: int
    live: int
    ended: int
    runs: int


def long_text() -> str:
    """Return ten megabytes of text."""
    return "word " * (TEN_MEGABYTES // 5)


def some_text() -> str:
    """Return somewhat more text than a model is shown."""
    return "word " * 8_000


def long_list() -> list[int]:
    """Return a list of 400,000 numbers."""
    return list(range(400_000))


def many_objects() -> list[dict[str, Any]]:
    """Return ten megabytes of small objects."""
    return [{"name": "x" * 20, "numbers": [1, 2.5, None]} for _ in range(TEN_MEGABYTES // 50)]


class Record(msgspec.Struct):
    """An object with a name."""

    name: str


def many_records() -> list[Record]:
    """Return ten megabytes of structs."""
    return [Record("x" * 30) for _ in range(TEN_MEGABYTES // 40)]


def echo(text: str = "", items: list[Any] | None = None) -> str:
    """Return a text."""
    return text or str(len(items or ()))


async def reporting(count: int, context: ToolContext) -> str:
    """Report progress."""
    for number in range(count):
        context.progress(number)
    return "done"


TOOLS = (long_text, some_text, long_list, many_objects, many_records, echo, reporting)


class Probed:
    """The application, and what is measured of it, at `/probe`."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._stall = 0.0
        self._ticking: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") != "/probe":
            await self._app(scope, receive, send)
            return
        if self._ticking is None:
            self._ticking = asyncio.create_task(self._tick())
        body = msgspec.json.encode(self._measured())
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        if b"collect" in scope["query_string"]:
            gc.collect()

    def _measured(self) -> Probe:
        registry = self._app.state.registry
        stall, self._stall = self._stall, 0.0
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        index = registry._index
        runs = max(len(index._ended), len(index._known), len(index._keys))
        used = registry._hub.used
        return Probe(stall, pages * 4096, used, index.live_bytes, index.ended_bytes, runs)

    async def _tick(self) -> None:
        while True:
            worked = time.thread_time()
            await asyncio.sleep(PERIOD)
            self._stall = max(self._stall, time.thread_time() - worked)


def main() -> None:
    """Serve until the standard input ends; the first line out is the port."""
    settings = Settings(_env_file=None, **json.loads(sys.argv[1]))
    app: ASGIApp = Probed(create_app(settings, TOOLS, owns_process=True))
    with server.listen("127.0.0.1", 0) as listening:
        sys.stdout.write(f"{listening.getsockname()[1]}\n")
        sys.stdout.flush()
        uvicorn.Server(server.configuration(app, settings)).run(sockets=[listening])


@dataclass
class Service:
    """A probed process, and a client session for it."""

    url: str
    session: aiohttp.ClientSession

    async def probe(self) -> Probe:
        async with self.session.get(self.url + "/probe?collect") as response:
            return msgspec.json.decode(await response.read(), type=Probe)

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, bytes]:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json"} | headers
        async with self.session.post(self.url + path, data=content, headers=headers) as response:
            return response.status, await response.read()

    async def get(self, path: str) -> tuple[int, bytes]:
        async with self.session.get(self.url + path) as response:
            return response.status, await response.read()


@asynccontextmanager
async def probed(upstream: str, **settings: Any) -> AsyncIterator[Service]:
    """Serve in a process of its own, with a model at `upstream`."""
    with TemporaryDirectory() as folder:
        chosen = {
            "data_dir": folder,
            "openai_base_url": upstream,
            "openai_api_key": "sk-test",
            "log_level": "WARNING",
        } | settings
        command = (sys.executable, "-m", "tests.probed", json.dumps(chosen))
        # To measure the coverage of this process, too, would stall its loop.
        environment = os.environ | {"COVERAGE_PROCESS_CONFIG": ""}
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(60):
                port = int(await process.stdout.readline())
            async with aiohttp.ClientSession() as session:
                service = Service(f"http://127.0.0.1:{port}", session)
                await service.probe()
                yield service
        finally:
            process.terminate()
            await process.wait()


if __name__ == "__main__":
    main()
