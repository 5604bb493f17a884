"""Both databases. PostgreSQL is a real server, one for all workers of a test session.

A test has a database of its own: a copy of one that was migrated once in each worker.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from messages import new_id
from storage.store import Store
from tests.storage.servers import PostgresServer, administer, database_url, server_in


async def migrate(url: str) -> None:
    async with Store.open(url, instance="template"):
        pass


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[PostgresServer]:
    base = tmp_path_factory.getbasetemp()
    session = base if worker_id == "master" else base.parent
    server = server_in(f"{session.name}-{os.getppid()}")
    asyncio.run(administer(server, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()"))
    yield server
    server.cleanup()


@pytest.fixture(scope="session")
def postgres_template(server: PostgresServer) -> str:
    name = new_id("template")
    asyncio.run(administer(server, f"CREATE DATABASE {name}"))
    asyncio.run(migrate(database_url(server, name)))
    return name


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "template.db"
    asyncio.run(migrate(f"sqlite:///{path}"))
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    path = tmp_path / "parley.db"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
async def postgres_url(server: PostgresServer, postgres_template: str) -> str:
    """Return a database that stays until its server goes."""
    name = new_id("test")
    await administer(server, f"CREATE DATABASE {name} TEMPLATE {postgres_template}")
    return database_url(server, name)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    async with Store.open(url, instance="test") as store:
        yield store
