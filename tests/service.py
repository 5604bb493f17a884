"""The service on a real socket, in the test's own event loop."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import msgspec
import uvicorn

import server
import sse
from app import create_app
from runs.registry import AgentRegistry
from settings import Settings
from tests.database import empty_database

DEADLINE = 10.0
"""Seconds that a test waits for anything."""

Event = dict[str, Any]


@dataclass
class Service:
    """A running service and a client session for it."""

    url: str
    session: aiohttp.ClientSession
    registry: AgentRegistry
    settings: Settings

    async def stream(self, path: str = "/chat/stream", **body: Any) -> list[Event]:
        """POST and return all events of the stream, decoded; each event has its cursor as `id`."""
        async with self.session.post(self.url + path, json=body) as response:
            assert response.status == 200, await response.text()
            return [event async for event in events(response)]

    async def json(self, method: str, path: str, expect: int = 200, **options: Any) -> Any:
        """Request, check the status and return the JSON body."""
        async with self.session.request(method, self.url + path, **options) as response:
            text = await response.text()
            assert response.status == expect, text
            return msgspec.json.decode(text) if text else None


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    """Yield the events of an event stream as they come, their SSE ids as `id`."""
    buffer = b""
    while True:
        async with asyncio.timeout(DEADLINE):
            data = await response.content.readany()
        if not data:
            return
        buffer += data
        *frames, buffer = buffer.split(b"\n\n")
        for frame in frames:
            decoded = sse.Decoder().feed(frame + b"\n\n")
            for payload in decoded:
                event = msgspec.json.decode(payload)
                ids = [line[4:] for line in frame.split(b"\n") if line.startswith(b"id: ")]
                yield event | ({"id": ids[0].decode()} if ids else {})


@asynccontextmanager
async def running(
    *,
    tools: Iterable[Callable[..., Any]] | None = None,
    upstream: str | None = None,
    **settings: Any,
) -> AsyncIterator[Service]:
    """Serve the application on a free port.

    Args:
        tools: as for `app.create_app`.
        upstream: the base URL of an OpenAI-compatible server; the demo answers without it.
        settings: by their field names; unset ones have their defaults, whatever the environment.
    """
    if upstream is not None:
        settings = {"openai_base_url": upstream, "openai_api_key": "sk-test"} | settings
    defaults: dict[str, Any] = {"demo_tokens_per_second": 0, "log_level": "WARNING"}
    with (
        TemporaryDirectory() as directory,
        server.listen(settings.get("host", "127.0.0.1"), 0) as listening,
    ):
        if "data_dir" not in settings:
            await empty_database(Path(directory) / "parley.db")
        chosen = Settings(_env_file=None, **(defaults | {"data_dir": directory} | settings))
        app = create_app(chosen, tools)
        host, port = listening.getsockname()[:2]
        async with (
            _served(server.configuration(app, chosen), listening),
            aiohttp.ClientSession() as session,
        ):
            yield Service(f"http://{host}:{port}", session, app.state.registry, chosen)


@asynccontextmanager
async def _served(config: uvicorn.Config, listening: socket.socket) -> AsyncIterator[None]:
    """Do what `uvicorn.Server.serve` does, but for its signals and for its pauses of 0.1 s.

    The pauses would be most of what a test takes. Signals are tested on processes.
    """
    config.load()
    process = uvicorn.Server(config)
    process.lifespan = config.lifespan_class(config)
    async with asyncio.timeout(3 * DEADLINE):  # the first one of a process loads the libraries
        await process.startup(sockets=[listening])
    await process.on_tick(0)  # makes the headers of every response
    try:
        yield
    finally:
        async with asyncio.timeout(30):
            await _shut_down(process)


async def _shut_down(process: uvicorn.Server) -> None:
    for listener in process.servers:
        listener.close()
    state = process.server_state
    for connection in [*state.connections]:
        connection.shutdown()
    try:
        async with asyncio.timeout(process.config.timeout_graceful_shutdown):
            while state.connections or state.tasks:  # noqa: ASYNC110 - uvicorn tells nobody
                await asyncio.sleep(0.005)
    except TimeoutError:
        for task in state.tasks:
            task.cancel()
    await process.lifespan.shutdown()
