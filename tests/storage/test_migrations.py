"""The migrations make, from nothing, the tables that the code knows."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, create_engine, text

from models import new_id
from storage.engine import connect
from storage.migrations import config, revise
from storage.store import Store
from storage.tables import FULL_TEXT, metadata
from tests.storage.servers import PostgresServer, administer, database_url
from tests.storage.support import chat, texts

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def empty_postgres(server: PostgresServer) -> str:
    name = new_id("empty")
    await administer(server, f"CREATE DATABASE {name}")
    return database_url(server, name)


@pytest.fixture(params=["sqlite", "postgres"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/empty.db"
    return str(request.getfixturevalue("empty_postgres"))


def differences(db: Connection) -> Any:
    def is_compared(item: object, name: str | None, *_: object) -> bool:
        return not (name or "").startswith(FULL_TEXT)

    options = {"include_object": is_compared, "compare_type": True}
    return compare_metadata(MigrationContext.configure(db, opts=options), metadata)


def downgrade(db: Connection) -> None:
    command.downgrade(config(db), "base")


def names(db: Connection) -> set[str]:
    tables = "SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"
    if db.dialect.name == "postgresql":
        tables = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    return set(db.execute(text(tables)).scalars())


async def test_an_empty_database_gets_the_tables(empty: str) -> None:
    async with Store.open(empty, instance="test") as store:
        await chat(store, "Hi", "Hello.")
        assert await store._db.write(differences) == []


async def test_a_database_at_the_newest_schema_stays_as_it_is(empty: str) -> None:
    async with Store.open(empty, instance="test") as store:
        await chat(store, "Hi", "Hello.")
    async with Store.open(empty, instance="test") as store:
        assert await texts(store) == ["Hi", "Hello."]


async def test_stores_that_open_at_once_migrate_one_after_another(empty: str) -> None:
    async def opened() -> None:
        async with Store.open(empty, instance="test") as store:
            await store.ping()

    await asyncio.gather(*(opened() for _ in range(3)))


async def test_what_the_migrations_made_they_take_away(empty: str) -> None:
    async with Store.open(empty, instance="test") as store:
        await chat(store, "Hi", "Hello.", title="Greetings")
    database = connect(empty, 5.0)
    await database.migrate(downgrade)
    left = await database.read(names)
    await database.aclose()
    assert left <= {"alembic_version", "alembic_version_pkc"}
    async with Store.open(empty, instance="test") as store:
        assert await texts(store) == []


def test_a_draft_of_a_migration_can_be_written(sqlite_url: str, tmp_path: Path) -> None:
    engine = create_engine(sqlite_url)
    with engine.begin() as connection:
        revise(connection, "Nothing new", tmp_path)
    engine.dispose()
    (draft,) = tmp_path.glob("*.py")
    written = draft.read_text()
    assert written.startswith('"""Nothing new."""')
    assert "op." not in written
    compile(written, str(draft), "exec")


def test_the_command_asks_what_the_change_is() -> None:
    command = [sys.executable, "-m", "storage.migrations"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("usage: ")


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://localhost/parley"])
async def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="sqlite"):
        async with Store.open(url, instance="test"):
            pass
