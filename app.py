"""Wiring: settings, provider, logs, tools, registry, routes. Decides nothing else.

`python app.py` serves with all protections of `server`; `uvicorn app:app` serves with
uvicorn's own options. `python app.py check-model` asks the configured model what it can do.
"""

import argparse
import asyncio
import gc
import logging
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from fastapi import FastAPI
from sqlalchemy.exc import ArgumentError, DBAPIError
from starlette.middleware.cors import CORSMiddleware

import check_model
import logs
import server
from api import agentcore, sessions, users
from api.http import documents, problems
from api.http.bodies import Bodies
from api.http.guard import Guard
from api.http.services import Streaming
from api.native import agents, chat, conversations, health, memories, page, research, runs, socket
from api.native.socket import SocketLimits
from api.openai import catalog, completions, embeddings, responses
from api.openai.errors import as_openai
from demo import DemoProvider
from hub.memory import MemoryHub
from llm import Provider
from llm.check import ModelCheck
from llm.providers import PROVIDERS, ProviderRow, configured, make_router
from llm.router import Router
from memory import Embedder
from memory.embedder import OpenAIEmbedder, WordllamaEmbedder
from memory.hosted import open_hosted
from memory.learning import LongTermMemory, asker
from memory.long_term import open_local, open_postgres
from research import ResearchAgent
from runs.observers import Observer, run_loggers
from runs.registry import AgentRegistry
from runs.run import Limits
from settings import BadSettings, Settings, load_settings
from storage import StorageUnavailable
from storage.private import own_folder
from storage.sole import sole_user
from storage.store import Store
from storage.unusable import told_at_start
from tools.builtin import built_in_tools
from tools.tool import tool_from

VERSION = "0.1.0"

DEMO = ProviderRow(
    name=DemoProvider.name,
    title="the demo",
    remedy="",
    is_configured=lambda _: True,
    default_model=lambda _: DemoProvider.default_model,
    make=lambda settings, _: DemoProvider(settings.demo_tokens_per_second),
)
"""Stands in where no model is connected. It is always there, so it comes last."""
ALL_PROVIDERS = (*PROVIDERS, DEMO)

SWITCH_INTERVAL = 0.001
"""Seconds that a thread may compute while others wait for the interpreter.

The loop waits for each busy thread of a tool in turn, so the usual 5 ms would stall it for long.
"""

SHAPES = {"/v1/": as_openai}
"""The shapes of errors of surfaces whose clients know their own."""

ROOMS = (
    chat,
    health,
    page,
    runs,
    socket,
    conversations,
    research,
    users,
    agents,
    agentcore,
    completions,
    responses,
    catalog,
    memories,
    embeddings,
)

WARM_TIMEOUT = 30.0
"""Seconds after which the service is ready although something is not loaded yet."""

logger = logging.getLogger("parley")


def make_provider(settings: Settings) -> Router:
    """Return the model providers that the settings have credentials for, as one."""
    return make_router(ALL_PROVIDERS, settings)


def make_embedder(settings: Settings) -> Embedder:
    """Return what makes vectors of texts. `BadSettings` where it needs a key that is not there."""
    if settings.memory_embedder == "wordllama":
        return WordllamaEmbedder()
    if settings.openai_api_key is None:
        text = "Bad settings: MEMORY_EMBEDDER: openai needs OPENAI_API_KEY. See .env.example."
        raise BadSettings(text)
    return OpenAIEmbedder(
        settings.openai_api_key.get_secret_value(),
        settings.openai_base_url,
        settings.memory_embedding_model,
    )


def make_memory(
    settings: Settings, store: Store, provider: Router, embedder: Embedder
) -> LongTermMemory:
    # The demo can extract nothing from an exchange: what was said is kept as it is.
    ask = None if provider.name == DEMO.name else asker(provider.apart())
    folder = settings.data_dir / "memory"
    is_local = False
    if settings.mem0_api_key is not None:
        key = settings.mem0_api_key.get_secret_value()
        memories = open_hosted(key, settings.mem0_base_url)
    elif store.kind == "postgresql":
        memories = open_postgres(settings.storage_url, embedder, ask)
    else:
        memories, is_local = open_local(folder, embedder, ask), True
    return LongTermMemory(
        memories,
        store,
        timeout=settings.recall_timeout,
        limit=settings.memory_recall_limit,
        # A folder is made when its first memory is.
        may_hold=folder.exists if is_local else lambda: True,
    )


def make_registry(
    settings: Settings,
    store: Store,
    tools: Iterable[Callable[..., Any]],
    provider: Provider,
    memory: LongTermMemory | None,
    observers: Iterable[Observer] = (),
) -> AgentRegistry:
    return AgentRegistry(
        provider=provider,
        memory=memory,
        hub=MemoryHub(
            ttl=settings.run_log_ttl,
            max_events=settings.run_log_max_events,
            max_bytes=settings.max_run_bytes // 2,
        ),
        store=store,
        tools=[tool_from(tool) for tool in tools],
        limits=Limits(**{name: getattr(settings, name) for name in Limits._fields}),
        instructions=settings.system_prompt,
        allowed_models=frozenset(settings.allowed_models),
        observers=(*observers, *run_loggers()),
        special=lambda *parts: [ResearchAgent(*parts)],
    )


def create_app(
    settings: Settings,
    tools: Iterable[Callable[..., Any]] | None = None,
    *,
    owns_process: bool = False,
    storage: Callable[[Settings], AbstractAsyncContextManager[Store]] | None = None,
    observers: Iterable[Observer] = (),
) -> FastAPI:
    """Return the application.

    Args:
        tools: functions that agents may call; the built-in five where it is absent.
        owns_process: nothing else of weight runs in the process, so that its garbage collector
            may be set to what this service needs.
        observers: are shown every run.
        storage: opens another store than the one that the settings name.

    Raises:
        BadSettings: `DATA_DIR` cannot be used.
    """
    _make_data_dir(settings)
    functions = _built_in(settings) if tools is None else tuple(tools)
    embedder = make_embedder(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        logger.info(_greeting(settings))
        async with AsyncExitStack() as stack:
            stack.push(_failed)
            store = await stack.enter_async_context((storage or _storage)(settings))
            stack.push_async_callback(embedder.aclose)
            provider, memory = make_provider(settings), None
            if settings.memory_enabled:
                memory = make_memory(settings, store, provider, embedder)
                await stack.enter_async_context(memory)
            registry = make_registry(settings, store, functions, provider, memory, observers)
            await stack.enter_async_context(registry)
            app.state.registry, app.state.memory, app.state.embedder = registry, memory, embedder
            # Its failures are no reason to leave a user without an answer, nor the other way round.
            app.state.model_check = ModelCheck(provider.apart)
            if owns_process:
                sys.setswitchinterval(SWITCH_INTERVAL)
            with _draining(registry, settings.shutdown_grace):
                await _warmed(registry, memory)
                if owns_process:
                    _tune_collector()
                yield

    app = FastAPI(
        title=settings.app_name,
        version=VERSION,
        description="A real-time chat service for tool-calling agents.",
        lifespan=lifespan,
        openapi_url=None,  # as all pages of documents, it is served by a room
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a request is never turned into another one
        debug=settings.debug,
    )
    app.state.streaming = Streaming(
        settings.heartbeat_interval, settings.slow_reader_timeout, settings.chat_stream_protocol
    )
    app.state.remembers_sessions = settings.enable_sessions
    app.state.socket_limits = SocketLimits(
        settings.websocket_max_bytes, settings.websocket_max_chats, settings.slow_reader_timeout
    )
    for router in (*(room.router for room in ROOMS), *sessions.routers):
        app.include_router(router)
    problems.install(app, SHAPES)
    documents.install(app)
    page.install(app)
    _add_middleware(app, settings)
    return app


def _failed(kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
    """Log how the service failed to start or to end; uvicorn logs no more than that it did."""
    if isinstance(error, Exception):
        logger.error("The service did not start or end in order", exc_info=error)


def _add_middleware(app: FastAPI, settings: Settings) -> None:
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["*"],
            expose_headers=["X-Run-Id"],
        )
    app.add_middleware(Bodies)
    app.add_middleware(
        Guard,
        max_body_bytes=settings.max_body_bytes,
        hosts=frozenset(settings.allowed_hosts)
        if settings.listens_on_loopback or settings.allowed_hosts
        else None,
        origins={
            "http": frozenset(settings.cors_origins),
            "websocket": frozenset(settings.websocket_origins),
        },
    )


def _make_data_dir(settings: Settings) -> None:
    """Make the folders; what is in `DATA_DIR` belongs to the service's user alone."""
    making = [("DATA_DIR", own_folder, settings.data_dir)]
    if settings.session_db_path is not None:
        folder = settings.session_db_path.parent
        making.append(("SESSION_DB_PATH", partial(Path.mkdir, parents=True, exist_ok=True), folder))
    for name, make, folder in making:
        try:
            make(folder)
        except OSError as error:
            text = f"Bad settings: {name}: {error.strerror}. See .env.example."
            raise BadSettings(text) from None


@asynccontextmanager
async def _storage(settings: Settings) -> AsyncIterator[Store]:
    """Open the database for this process.

    Raises:
        BadSettings: it is no database that the service can use.
        storage.StorageUnavailable: it cannot be opened now.
    """
    url = settings.storage_url
    timeout, jobs = settings.storage_timeout, settings.memory_queue_size
    opening = Store.open(url, instance="parley", timeout=timeout, jobs=jobs)
    async with AsyncExitStack() as stack:
        try:
            stack.enter_context(sole_user(url))
            store = await stack.enter_async_context(opening)
        except (ValueError, ArgumentError):
            text = "DATABASE_URL: give postgresql://<user>:<password>@<host>/<database>"
            raise BadSettings(f"Bad settings: {text}. See .env.example.") from None
        except (StorageUnavailable, DBAPIError) as error:
            told = told_at_start(error)
            if told is None:
                raise
            raise told from error
        yield store


async def _check_storage(settings: Settings) -> None:
    """Open the database once, so that what is wrong with it is one line before all else."""
    async with _storage(settings) as store:
        await store.agents()
        await store.count_extraction_jobs()


def _built_in(settings: Settings) -> tuple[Callable[..., Any], ...]:
    return built_in_tools(
        weather_geocoding_url=settings.weather_geocoding_url,
        weather_forecast_url=settings.weather_forecast_url,
        search_backend=settings.search_backend,
        search_url=settings.search_url,
        stock_url=settings.stock_url,
    )


def _greeting(settings: Settings) -> str:
    answering = configured(ALL_PROVIDERS, settings)[0]
    model = (
        "The demo model answers; set OPENAI_API_KEY, ANTHROPIC_API_KEY or OPENAI_BASE_URL for "
        "a real model."
        if answering is DEMO
        else f"A model of {answering.title} answers."
    )
    reach = (
        "only this machine can connect; set HOST to change that"
        if settings.listens_on_loopback
        else f"it listens on {settings.host}, and whoever can connect may use it"
    )
    return f"{settings.app_name} is open, without credentials: {reach}. {model}"


async def _warmed(registry: AgentRegistry, memory: LongTermMemory | None) -> None:
    """Wait until the first chat will find everything loaded, but no longer than a while."""
    try:
        async with asyncio.timeout(WARM_TIMEOUT):
            await registry.warmed()
            if memory is not None:
                await memory.warmed()
    except TimeoutError:
        logger.warning("The service is ready, but what the first chat needs is still being loaded")


def _tune_collector() -> None:
    """Let collections pass over what lives as long as the process, and come less often.

    A full collection with the SDK loaded takes 50 ms, in which no token moves. One of what is young
    takes 50 ms, too, where it comes after 200,000 objects instead of 50,000.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 5, 200)


@contextmanager
def _draining(registry: AgentRegistry, grace: float) -> Iterator[None]:
    """Refuse new runs from SIGTERM or SIGINT on, and end or suspend those that outlast the grace.

    Uvicorn waits for open responses, and these for their runs; so their logs have to end. A second
    signal ends the grace.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def on_signal(number: int, frame: FrameType | None) -> None:
        seconds = 0 if registry.draining else grace
        registry.drain()
        loop.call_soon_threadsafe(loop.call_later, seconds, registry.stop_all)
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> None:
    """Serve until a signal comes, or check the model; what prevents it is one line and status 2."""
    command = _commands().parse_args()
    with _one_line():
        settings = load_settings()
        if command.name == "check-model":
            sys.exit(check_model.main(settings, command.model, as_json=command.json))
        logs.set_up(settings.log_level, requests=settings.debug)
        application = create_app(settings, owns_process=True)
        asyncio.run(_check_storage(settings))
        try:
            server.run(application, settings)
        except OSError as error:
            text = f"Cannot listen on {settings.host}:{settings.port}: {error}"
            raise BadSettings(text) from None


def _commands() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="app.py", description="Serves; the settings are those of .env.example."
    )
    names = parser.add_subparsers(dest="name", metavar="check-model")
    checking = names.add_parser("check-model", help="ask the model, and tell what of it works")
    checking.add_argument("model", nargs="?", help="another model than the configured one")
    checking.add_argument("--json", action="store_true", help="print JSON")
    return parser


@contextmanager
def _one_line() -> Iterator[None]:
    """End the process with one line where the service cannot start."""
    try:
        yield
    except BadSettings as error:
        sys.exit(_last_words(str(error)))
    except StorageUnavailable as error:
        sys.exit(_last_words(f"The database cannot be used: {error.message}"))


def _last_words(text: str) -> int:
    sys.stderr.write(f"{text}\n")
    return 2


def __getattr__(name: str) -> FastAPI:
    """Make `app` on demand, so that importing this module reads no environment."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _one_line():
        settings = load_settings()
        logs.keep_discreet()
        globals()["app"] = create_app(settings)
        with ThreadPoolExecutor(1) as thread:  # an event loop may run in this one
            thread.submit(asyncio.run, _check_storage(settings)).result()
    application: FastAPI = globals()["app"]
    return application


if __name__ == "__main__":
    main()
