"""What is kept, as rows: those of earlier releases, and what a search sees of those that come."""

import asyncio
from array import array
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from caller import Caller
from memory import rows
from memory.embedder import WordllamaEmbedder
from messages import UserMessage
from storage.engine import connect
from tests.memory.conftest import memories_in

ANN = Caller("open", "ann")
SAID = "I love cooking Italian food!"
MEMORY_ID = "509dd783-a598-4dc7-b5c2-17e49bab9779"
HASH = "5320da39c196e9944ca79485380f90d8"
PAYLOAD = (
    f'{{"learned_from":"run_1","user_id":"open/ann","role":"user","data":"{SAID}",'
    f'"hash":"{HASH}","created_at":"2026-11-30T07:00:16.100049+00:00",'
    f'"updated_at":"2026-11-30T07:00:16.100049+00:00","text_lemmatized":"{SAID}"}}'
)
TABLES = """
CREATE TABLE {schema}memories (
    position {serial} NOT NULL, id TEXT NOT NULL, owner TEXT NOT NULL, hash TEXT NOT NULL,
    payload TEXT NOT NULL, embedder TEXT NOT NULL, vector {vector} NOT NULL,
    PRIMARY KEY (position), UNIQUE (id)
);
CREATE TABLE {schema}learned (
    position {serial} NOT NULL, owner TEXT NOT NULL, run_id TEXT NOT NULL,
    PRIMARY KEY (position), UNIQUE (owner, run_id)
);
CREATE TABLE {schema}cleared (
    owner TEXT NOT NULL, times INTEGER NOT NULL, PRIMARY KEY (owner)
);
CREATE INDEX memories_of_owner ON {schema}memories (owner, position);
CREATE INDEX memories_by_hash ON {schema}memories (owner, hash);
CREATE INDEX memories_by_embedder ON {schema}memories (owner, embedder)
"""
"""What 0.1 made, as it stands in its databases."""


def write_rows(db: Connection, vector: list[float]) -> None:
    """Write what 0.1 would have written."""
    kind = {"schema": "", "serial": "INTEGER", "vector": "BLOB"}
    is_postgres = db.dialect.name == "postgresql"
    if is_postgres:
        kind = {"schema": "parley_memory.", "serial": "BIGSERIAL", "vector": "vector"}
        db.execute(text("CREATE EXTENSION vector"))
        db.execute(text("CREATE SCHEMA parley_memory"))
    for statement in TABLES.format(**kind).split(";"):
        db.execute(text(statement))
    memory: dict[str, Any] = {"id": MEMORY_ID, "owner": "open/ann", "hash": HASH}
    memory |= {"payload": PAYLOAD, "embedder": WordllamaEmbedder.name}
    named = ", ".join(memory)
    values = ", ".join(f":{name}" for name in memory)
    written = f"'{vector}'" if is_postgres else f"X'{array('f', vector).tobytes().hex()}'"
    schema = kind["schema"]
    insert = f"INSERT INTO {schema}memories ({named}, vector) VALUES ({values}, {written})"
    db.execute(text(insert), memory)
    db.execute(text(f"INSERT INTO {schema}learned (owner, run_id) VALUES ('open/ann', 'run_1')"))


def address(place: Path | str) -> str:
    """Return the address of the database of memories; its folder is made."""
    if isinstance(place, str):
        return place
    place.mkdir(exist_ok=True)
    return f"sqlite:///{place / 'memories.db'}"


async def test_what_an_earlier_release_kept_is_found_and_changed(
    place: Path | str, embedder: WordllamaEmbedder
) -> None:
    [vector] = await embedder.embed([SAID])
    database = connect(address(place), 5.0)
    await database.migrate(lambda db: write_rows(db, vector))
    async with memories_in(place, embedder) as memories:
        [found] = await memories.recall(ANN, "Which pasta recipe is good?", 5)
        assert (found.id, found.text) == (MEMORY_ID, SAID)
        assert found.created_at == found.updated_at
        assert found.created_at.isoformat() == "2026-11-30T07:00:16.100049+00:00"
        assert await memories.learn(ANN, [UserMessage("I live in Lima now")], "run_1") == 0
        assert await memories.learn(ANN, [UserMessage(SAID)], "run_2") == 0
        changed = await memories.change(ANN, MEMORY_ID, "I love Thai food")
        assert changed == await memories.find(ANN, MEMORY_ID)
    table = "memories" if isinstance(place, Path) else "parley_memory.memories"
    query = text(f"SELECT payload FROM {table}")
    payload = await database.read(lambda db: str(db.execute(query).scalar_one()))
    await database.aclose()
    assert "Thai" in payload
    assert "Italian" not in payload


async def test_a_search_finds_also_what_was_added_for_a_caller_who_has_gone(
    tmp_path: Path, embedder: WordllamaEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_begun = asyncio.Event()

    def add(*args: Any) -> rows.Added:
        has_begun.set()
        return insert(*args)

    insert = rows.add
    async with memories_in(tmp_path / "memory", embedder) as memories:
        assert await memories.search(ANN, SAID, 5) == []  # the vectors are at hand from here
        monkeypatch.setattr(rows, "add", add)
        adding = asyncio.create_task(memories.add(ANN, SAID))
        await has_begun.wait()
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
        second = await memories.add(ANN, "My dog is called Bruno")
        found = [memory.text for memory in await memories.search(ANN, SAID, 5)]
        assert found == [SAID, second.text]


async def test_a_row_of_another_length_is_left_out_of_a_search(
    tmp_path: Path, embedder: WordllamaEmbedder
) -> None:
    async with memories_in(tmp_path, embedder) as memories:
        kept = await memories.add(ANN, SAID)
        await memories.add(ANN, "My dog is called Bruno")
    database = connect(address(tmp_path), 5.0)
    cut = text("UPDATE memories SET vector = X'00000000' WHERE id != :id")
    await database.write(lambda db: db.execute(cut, {"id": kept.id}))
    await database.aclose()
    async with memories_in(tmp_path, embedder) as memories:
        assert [memory.id for memory in await memories.search(ANN, SAID, 5)] == [kept.id]


async def test_a_search_sees_at_once_what_was_changed_and_what_took_a_deleted_place(
    place: Path | str, embedder: WordllamaEmbedder
) -> None:
    async with memories_in(place, embedder) as memories:
        first = await memories.add(ANN, SAID)
        second = await memories.add(ANN, "My dog is called Bruno")
        assert await memories.recall(ANN, "playing the violin", 1) == []
        changed = await memories.change(ANN, first.id, "I play the violin in an orchestra")
        assert [each.id for each in await memories.recall(ANN, "playing the violin", 1)] == [
            first.id
        ]
        assert changed is not None
        assert await memories.remove(ANN, second.id)
        third = await memories.add(ANN, SAID)
        assert [each.id for each in await memories.recall(ANN, "Italian food", 1)] == [third.id]


async def test_a_text_that_several_exchanges_say_at_once_is_kept_once(
    place: Path | str, embedder: WordllamaEmbedder
) -> None:
    async with memories_in(place, embedder) as memories:
        await memories.warm()
        runs = [f"run_{number}" for number in range(8)]
        learning = (memories.learn(ANN, [UserMessage(SAID)], run) for run in runs)
        assert sorted(await asyncio.gather(*learning)) == [0] * 7 + [1]
        assert len(await memories.page(ANN, 9)) == 1
