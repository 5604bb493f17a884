"""Memories in a folder and in PostgreSQL, with a real embedder."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from memory import AskModel, Embedder, Memories
from memory.embedder import WordllamaEmbedder
from memory.long_term import open_local, open_postgres
from messages import new_id
from tests.storage.servers import PostgresServer, administer, database_url, server_in


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[PostgresServer]:
    base = tmp_path_factory.getbasetemp()
    session = base if worker_id == "master" else base.parent
    # One of its own, because a test stops it.
    server = server_in(f"{session.name}-{os.getppid()}-memory")
    yield server
    server.cleanup()


@pytest.fixture
def postgres_url(server: PostgresServer) -> str:
    name = new_id("memory")
    asyncio.run(administer(server, f"CREATE DATABASE {name}"))
    return database_url(server, name)


@pytest.fixture(params=["folder", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where memories are kept: a folder, or the address of a database."""
    if request.param == "folder":
        return tmp_path / "memory"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(scope="session")
def embedder() -> WordllamaEmbedder:
    return WordllamaEmbedder()


@asynccontextmanager
async def memories_in(
    place: Path | str, embedder: Embedder, ask: AskModel | None = None
) -> AsyncIterator[Memories]:
    opened = (
        open_local(place, embedder, ask)
        if isinstance(place, Path)
        else open_postgres(place, embedder, ask)
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(opened.aclose)
        async with asyncio.timeout(30):
            yield opened
