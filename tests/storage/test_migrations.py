"""The migrations make, from nothing, the tables that the code knows."""

import asyncio
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import ClauseElement, Connection, Executable, bindparam, create_engine, text
from sqlalchemy.ext.compiler import compiles

from messages import new_id
from storage import conversations as rows
from storage import expiry
from storage.engine import connect
from storage.migrations import config, revise
from storage.store import Store
from storage.tables import FULL_TEXT, Utc, metadata
from tests.storage.servers import PostgresServer, administer, database_url
from tests.storage.support import ANN, chat, texts

ROOT = Path(__file__).parents[2]

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


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


def versions(db: Connection) -> list[str]:
    return list(db.execute(text("SELECT version_num FROM alembic_version")).scalars())


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
    async def opened(name: str) -> list[str]:
        async with Store.open(empty, instance=name) as store:
            await chat(store, f"Hi {name}", "Hello.", conversation_id=name)
            return await texts(store, name)

    said = await asyncio.gather(*map(opened, "abc"))
    assert said == [[f"Hi {name}", "Hello."] for name in "abc"]
    async with Store.open(empty, instance="test") as store:
        assert [await texts(store, name) for name in "abc"] == said
        assert await store._db.write(differences) == []
        assert len(await store._db.read(versions)) == 1


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


def upgrade_to_the_first(db: Connection) -> None:
    command.upgrade(config(db), "0001")


def leave_a_conversation(db: Connection) -> None:
    """Put in what a service of the first schema left."""
    row = {"tenant": "acme", "user_id": "ann", "id": "conv", "title": "Old", "metadata": "{}"}
    columns = [*row, "ephemeral", "created_at", "updated_at"]
    statement = f"""
        INSERT INTO conversations ({", ".join(columns)})
        VALUES (:tenant, :user_id, :id, :title, :metadata, :ephemeral, :at, :at)
    """
    values = [bindparam("ephemeral", False), bindparam("at", NOON, type_=Utc())]
    db.execute(text(statement).bindparams(*values), row)


async def test_what_was_there_stays_and_goes_on(empty: str) -> None:
    database = connect(empty, 5.0)
    await database.migrate(upgrade_to_the_first)
    await database.write(leave_a_conversation)
    await database.aclose()
    async with Store.open(empty, instance="test") as store:
        found = await store.conversation(ANN, "conv")
        assert found is not None
        assert (found.title, found.agent) == ("Old", None)
        await chat(store, "Soup", "Yes.")
        assert [hit.role for hit in await store.search(ANN, "soup", limit=9)] == ["user"]
        assert await store.delete(ANN, "conv")
        assert await store.search(ANN, "old soup", limit=9) == []


PLANNED = {
    "the first page of a list": (rows._FIRST_PAGE, "conversations_by_update"),
    "another page of it": (rows._NEXT_PAGE, "conversations_by_update"),
    "ephemeral ones to delete": (expiry._FORSAKEN, "conversations_ephemeral"),
    "old ones to delete": (expiry._OLD_CONVERSATIONS, "conversations_by_age"),
}
VALUES = {"of_tenant": "acme", "of_user": "ann", "count": 20, "id": "c", "batch": 500}


class Explained(Executable, ClauseElement):
    """How a statement would be executed."""

    inherit_cache = False

    def __init__(self, statement: ClauseElement) -> None:
        self.statement = statement


@compiles(Explained, "sqlite")
def _on_sqlite(element: Any, compiler: Any, **kwargs: Any) -> str:
    return f"EXPLAIN QUERY PLAN {compiler.process(element.statement, **kwargs)}"


@compiles(Explained, "postgresql")
def _on_postgres(element: Any, compiler: Any, **kwargs: Any) -> str:
    return f"EXPLAIN {compiler.process(element.statement, **kwargs)}"


def plan(db: Connection, statement: ClauseElement) -> str:
    """Return how a statement would be executed by a database with much in it."""
    if db.dialect.name == "postgresql":
        db.execute(text("SET LOCAL enable_seqscan = off"))
    values = VALUES | {"at": NOON, "before": NOON}
    return "\n".join(str(row) for row in db.execute(Explained(statement), values))


def definition(db: Connection, index: str) -> str:
    """Return the statement that makes an index."""
    asked = "SELECT sql FROM sqlite_master WHERE name = :name"
    if db.dialect.name == "postgresql":
        asked = "SELECT indexdef FROM pg_indexes WHERE indexname = :name"
    return str(db.execute(text(asked), {"name": index}).scalar_one())


@pytest.mark.parametrize(("statement", "index"), PLANNED.values(), ids=PLANNED)
async def test_an_index_finds(url: str, statement: ClauseElement, index: str) -> None:
    async with Store.open(url, instance="test") as store:
        planned = await store._db.read(plan, statement)
        assert index in planned
        assert "TEMP B-TREE" not in planned
        made = await store._db.read(definition, index)
        assert ("WHERE" in made) == (index != "conversations_by_age")


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


@pytest.mark.slow
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
