"""A database that cannot be used is one line that says what to do; one that breaks is told."""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app import create_app
from settings import Settings
from storage import StorageUnavailable
from storage.unusable import told_at_start
from tests.api.support import refused
from tests.database import empty_database
from tests.service import DEADLINE, running
from tests.storage.servers import PostgresServer, server_in
from tests.test_server import PYTHON, UVICORN, started

pytestmark = pytest.mark.slow


def sql(script: str) -> Callable[[Path], None]:
    def execute(path: Path) -> None:
        db = sqlite3.connect(path)
        db.executescript(script)
        db.close()

    return execute


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20_000])


def foreign(path: Path) -> None:
    path.unlink()
    sql("CREATE TABLE conversations (name)")(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def immutable(path: Path) -> None:
    path.chmod(0o400)
    if os.access(path, os.W_OK):  # as for root, but for what nobody can write
        path.unlink()
        path.symlink_to("/proc/version")


def in_no_folder(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "none" / "parley.db")


def in_a_circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "of a newer version": (sql("UPDATE alembic_version SET version_num = '9999'"), "newer version"),
    "garbage": (lambda path: path.write_bytes(bytes(range(1, 256)) * 100), "no database of SQLite"),
    "cut off": (cut, "damaged"),
    "of another program": (foreign, "not the service's"),
    "without a table": (sql("DROP TABLE runs"), "lacks some"),
    "without an index of words": (sql("DROP TABLE conversations_search"), "lacks some"),
    "without a column": (sql("ALTER TABLE runs DROP COLUMN pending"), "lacks some"),
    "a folder": (folder, "cannot be written"),
    "immutable": (immutable, "cannot be written"),
    "in no folder": (in_no_folder, "cannot be written"),
    "a link to itself": (in_a_circle, "cannot be written"),
}


async def last_words(*command: str, **environment: str) -> tuple[int, list[str]]:
    async with started(*command, **environment) as child:
        async with asyncio.timeout(3 * DEADLINE):
            _, said = await child.communicate()
        assert child.returncode is not None
        return child.returncode, said.decode().splitlines()


async def spoiled(folder: Path, kind: str) -> None:
    path = folder / "parley.db"
    await empty_database(path)
    FILES[kind][0](path)


@pytest.mark.parametrize("kind", FILES)
async def test_a_file_that_cannot_be_used_is_named_with_what_to_do(
    tmp_path: Path, kind: str
) -> None:
    await spoiled(tmp_path, kind)
    app = create_app(Settings(_env_file=None, data_dir=tmp_path))
    with pytest.raises(StorageUnavailable, match=FILES[kind][1]) as caught:
        async with app.router.lifespan_context(app):
            pass
    assert "\n" not in caught.value.message


def fill_a_disk(path: Path) -> None:
    sql("PRAGMA max_page_count = 1; CREATE TABLE a (b); CREATE TABLE c (d)")(path)


def fight_for(path: Path) -> None:
    holder = sqlite3.connect(path)
    holder.execute("BEGIN EXCLUSIVE")
    sqlite3.connect(path, timeout=0).execute("BEGIN IMMEDIATE")


@pytest.mark.parametrize(
    ("fail", "remedy"), [(fill_a_disk, "Make room"), (fight_for, "Another program holds")]
)
def test_trouble_of_the_system_is_named_with_what_to_do(
    tmp_path: Path, fail: Callable[[Path], None], remedy: str
) -> None:
    with pytest.raises(sqlite3.OperationalError) as caught:
        fail(tmp_path / "a.db")
    told = told_at_start(caught.value)
    assert told is not None
    assert remedy in told.message


@pytest.mark.parametrize("command", [PYTHON, UVICORN], ids=["python app.py", "uvicorn app:app"])
async def test_a_process_that_cannot_use_its_file_says_one_line(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    kind = "of a newer version"
    await spoiled(tmp_path, kind)
    environment = {"DATA_DIR": str(tmp_path), "LOG_LEVEL": "WARNING"}
    status, said = await last_words(*command, **environment)
    assert (status, len(said)) == (2, 1), said
    assert said[0].startswith("The database cannot be used: ")
    assert FILES[kind][1] in said[0]


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    server = server_in(f"unusable-{os.getpid()}")
    yield server
    server.cleanup()


URLS = {
    "no such database": ("postgresql://postgres@/none?host={folder}", "no such database"),
    "no such user": ("postgresql://none:hunter2@/postgres?host={folder}", "refuses the user"),
    "no such host": ("postgresql://a:hunter2@no.such.host.invalid/db", "cannot be reached"),
    "no such port": ("postgresql://a:hunter2@127.0.0.1:9/db", "cannot be reached"),
}


@pytest.mark.parametrize("kind", URLS)
async def test_a_server_that_cannot_be_used_is_named_without_a_secret(
    own_server: PostgresServer, tmp_path: Path, kind: str
) -> None:
    url, reason = URLS[kind]
    address = SecretStr(url.format(folder=own_server.pgdata))
    app = create_app(Settings(_env_file=None, data_dir=tmp_path, database_url=address))
    with pytest.raises(StorageUnavailable, match=reason) as caught:
        async with app.router.lifespan_context(app):
            pass
    assert "\n" not in caught.value.message
    assert "hunter2" not in caught.value.message


def spoil_middle(path: Path) -> None:
    """Write over every page but the first ones, as a broken disk does."""
    for part in (path, path.with_name(f"{path.name}-wal")):
        size = part.stat().st_size
        with part.open("r+b") as file:
            file.seek(8192)
            file.write(b"\xff" * (size - 8192))


async def test_a_file_that_is_damaged_meanwhile_shows_in_the_health(tmp_path: Path) -> None:
    async with running(data_dir=tmp_path, memory_enabled=False) as service:
        for number in range(20):
            body = {"message": f"{number} " * 2000, "conversation_id": f"c{number}"}
            await service.json("POST", "/chat", json=body)
        assert (await service.json("GET", "/health"))["status"] == "healthy"
        spoil_middle(tmp_path / "parley.db")
        problem = await refused(service, "GET", "/conversations/c1", 503, "storage_unavailable")
        assert (problem["retryable"], "backup" in problem["detail"]) == (False, True)
        health = await service.json("GET", "/health", expect=503)
        assert (health["status"], health["problem"]) == ("damaged", problem["detail"])
        detailed = await service.json("GET", "/api/health/detailed", expect=503)
        assert detailed["components"]["database"]["status"] == "unavailable"
