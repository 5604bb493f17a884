"""What the tests in Node play on: services with a scripted model behind a bad network, by HTTP.

A test asks for a stage (`POST /stages`) and gets its addresses; what it then asks of the stage is
`POST /stages/{number}/{verb}` with a JSON object, see the methods of `Stage` that are listed in
`VERBS`. All of it lives in this process, but the clients.
"""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
from aiohttp import web

from tests.service import Service, running
from tests.upstream import Reply, Upstream, calls, held, paced, text
from tests.web.proxy import Proxy

ROOT = Path(__file__).parent.parent.parent
START = 30.0
"""Seconds that a service may take to start."""


def reply_of(spec: dict[str, Any]) -> Reply:
    """Return a reply of the model: `text` or `calls`; `held`, `paced`: at the stage's gate."""
    made = (
        calls(*((name, arguments) for name, arguments in spec["calls"]))
        if "calls" in spec
        else text(*spec["text"])
    )
    if spec.get("paced"):
        made = paced(made)
    return held(made) if spec.get("held") else made


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def hang() -> str:
    """Wait for ever."""
    await asyncio.Event().wait()
    return "never"


class Stage:
    """A service, its model and the way to it.

    Args:
        script: the model's replies in their order, as for `reply_of`; the last one for ever.
        settings: of the service.
        is_process: the service is at first a process of its own, which `stop` kills.
    """

    def __init__(
        self, script: list[dict[str, Any]], settings: dict[str, Any], *, is_process: bool
    ) -> None:
        self._replies = [reply_of(spec) for spec in script]
        self._settings = settings
        self._is_process = is_process
        self._tools: list[Callable[..., Any]] | None = None if is_process else [add, hang]
        self._stack = AsyncExitStack()
        self._service = AsyncExitStack()
        self._running: Service | None = None
        self._child: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> "Stage":
        self._folder = self._stack.enter_context(TemporaryDirectory())
        self.upstream = await self._stack.enter_async_context(Upstream(self._reply))
        self.proxy = await self._stack.enter_async_context(Proxy(("127.0.0.1", 0)))
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.upstream.gate.open()
        await self.stop()
        await self._stack.aclose()

    def _reply(self, body: dict[str, Any]) -> Reply:
        return self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]

    async def start(self) -> None:
        """Begin to serve, with the data that there is."""
        serving = self._as_process if self._is_process else self._in_process
        self._is_process = False
        port = await self._service.enter_async_context(serving())
        self.proxy.target = ("127.0.0.1", port)

    async def stop(self, *, politely: bool = False) -> None:
        """Stop the service as a signal does; a process is killed, but asked where `politely`."""
        if self._child is not None:
            (self._child.terminate if politely else self._child.kill)()
            await self._child.wait()
        if self._running is not None:
            self._running.registry.drain()
            self._running.registry.stop_all()
        await self._service.aclose()
        self._child = self._running = None

    @asynccontextmanager
    async def _in_process(self) -> AsyncIterator[int]:
        async with running(
            upstream=self.upstream.base_url,
            tools=self._tools,
            data_dir=self._folder,
            **({"shutdown_grace": 0} | self._settings),
        ) as self._running:
            yield int(self._running.url.rpartition(":")[2])

    @asynccontextmanager
    async def _as_process(self) -> AsyncIterator[int]:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = int(taken.getsockname()[1])
        own = {
            "PORT": str(port),
            "DATA_DIR": self._folder,
            "OPENAI_BASE_URL": self.upstream.base_url,
            "OPENAI_API_KEY": "sk-test",
            "LOG_LEVEL": "ERROR",
        }
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        child = self._child = await asyncio.create_subprocess_exec(
            sys.executable, "app.py", cwd=ROOT, env=kept | own
        )
        try:
            await answering(f"http://127.0.0.1:{port}")
            yield port
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()

    def view(self) -> dict[str, Any]:
        """Return what a test knows of the stage."""
        return {
            "url": self.proxy.url,
            "direct": f"http://127.0.0.1:{self.proxy.target[1]}",
            "asked": self.upstream.asked.value,
            "told": self.proxy.told,
        }

    async def act(self, verb: str, order: dict[str, Any]) -> None:
        """Do what a test asks for."""
        await VERBS[verb](self, **order)

    async def network(self, cut: bool = False, **state: Any) -> None:
        """Set attributes of the proxy; `cut`: break off what is open."""
        for name in ("cuts", "halves"):
            if name in state:
                queue = getattr(self.proxy, name)
                queue.clear()
                queue.extend(state.pop(name))
        for name, value in state.items():
            setattr(self.proxy, name, value)
        if cut:
            self.proxy.cut_all()

    async def let(self, count: int = 1) -> None:
        """Let so many steps pass the gate."""
        for _ in range(count):
            await self.upstream.gate.pass_one()

    async def open(self) -> None:
        """Let everything pass."""
        self.upstream.gate.open()

    async def asked(self, count: int) -> None:
        """Wait until the model was asked so often."""
        await self.upstream.asked.reach(count)

    async def drain(self) -> None:
        """Take no new work, as a service does that is about to stop."""
        assert self._running is not None
        self._running.registry.drain()

    async def expire(self, run: str) -> None:
        """Lose the log of a run that has ended."""
        assert self._running is not None
        await self._running.registry._hub.forget(run)


VERBS: dict[str, Any] = {
    "network": Stage.network,
    "let": Stage.let,
    "open": Stage.open,
    "asked": Stage.asked,
    "drain": Stage.drain,
    "expire": Stage.expire,
    "start": Stage.start,
    "stop": Stage.stop,
    "end": Stage.__aexit__,
    "view": lambda stage: asyncio.sleep(0),
}


async def answering(url: str) -> None:
    """Wait until a service answers."""
    async with asyncio.timeout(START), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{url}/health") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.05)


@asynccontextmanager
async def controls() -> AsyncIterator[str]:
    """Serve stages; yields the address that they are asked for at."""
    stages: dict[str, Stage] = {}
    ending: list[asyncio.Task[None]] = []

    async def make(request: web.Request) -> web.Response:
        order = await request.json()
        stage = Stage(
            order.get("script") or [{"text": ["Good", " day"]}],
            order.get("settings", {}),
            is_process=order.get("process", False),
        )
        await stage.__aenter__()
        number = str(len(stages) + len(ending) + 1)
        stages[number] = stage
        return web.json_response({"stage": number, **stage.view()})

    async def act(request: web.Request) -> web.Response:
        number, verb = request.match_info["stage"], request.match_info["verb"]
        if verb == "end":  # which takes a while, in which the next case can begin
            ending.append(asyncio.create_task(stages.pop(number).__aexit__()))
            return web.json_response({})
        await stages[number].act(verb, await request.json())
        return web.json_response(stages[number].view())

    app = web.Application()
    app.router.add_post("/stages", make)
    app.router.add_post("/stages/{stage}/{verb}", act)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        for stage in stages.values():
            await stage.__aexit__()
        await asyncio.gather(*ending)
        await runner.cleanup()
