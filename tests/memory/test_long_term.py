import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from caller import Caller
from memory import MemoryUnavailable, Unreadable, rows
from memory.embedder import WordllamaEmbedder, unit
from messages import AssistantMessage, Message, OutputSchema, SystemMessage, UserMessage
from tests.memory.conftest import memories_in
from tests.storage.servers import PostgresServer, start, stop

ANN = Caller("open", "ann")
BOB = Caller("open", "bob")
ITALIAN = UserMessage("I love cooking Italian food!")
QUESTION = "What pasta recipe would you recommend?"


class OtherEmbedder:
    """Vectors of another length and meaning: letters counted."""

    name = "letters"
    dimensions = 26

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        letters = "abcdefghijklmnopqrstuvwxyz"
        return [unit([float(text.lower().count(letter)) for letter in letters]) for text in texts]

    async def counted(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        return await self.embed(texts), len(texts)

    async def aclose(self) -> None:
        """Hold nothing."""


class Model:
    """A model that waits until it may answer."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.asked: list[Sequence[Message]] = []
        self.was_asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, messages: Sequence[Message], output: OutputSchema | None) -> str:
        assert output is not None
        assert output.name == "memories"
        self.asked.append(messages)
        self.was_asked.set()
        await self.may_answer.wait()
        return self.answer


def texts(memories: Sequence[Any]) -> list[str]:
    return [memory.text for memory in memories]


async def test_what_was_told_is_recalled_by_its_meaning_also_after_a_restart(
    place: Path | str, embedder: WordllamaEmbedder
) -> None:
    async with memories_in(place, embedder) as memories:
        said: list[Message] = [ITALIAN, AssistantMessage("Lovely. The capital of Peru is Lima.")]
        assert await memories.learn(ANN, said, "run_1") == 1
        await memories.add(ANN, "My car broke down on the motorway")
    async with memories_in(place, embedder) as memories:
        (found,) = await memories.recall(ANN, QUESTION, 5)
        assert found.text == ITALIAN.content
        assert found.score is not None
        assert 0.2 < found.score <= 1
        assert await memories.recall(ANN, "Explain quantum entanglement", 5) == []
        assert await memories.recall(ANN, " ", 5) == []


async def test_a_search_ranks_also_what_is_too_far_to_help(
    place: Path | str, embedder: WordllamaEmbedder
) -> None:
    async with memories_in(place, embedder) as memories:
        for text in ("The car broke down again.", ITALIAN.content):
            await memories.add(ANN, text)
        assert texts(await memories.search(ANN, "pasta", 5))[0] == ITALIAN.content
        assert len(await memories.search(ANN, "pasta", 5)) == 2
        assert len(await memories.search(ANN, "pasta", 1)) == 1
        assert await memories.search(BOB, "pasta", 5) == []
        assert await memories.recall(ANN, "quantum physics", 5) == []


async def test_who_has_too_many_memories_is_recalled_what_is_left(
    tmp_path: Path, embedder: WordllamaEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MAX_MEMORIES", 20)
    async with memories_in(tmp_path / "memory", embedder) as memories:
        for number in range(30):
            await memories.add(ANN, f"I love pasta number {number}")
            await memories.recall(ANN, "pasta", 1)  # its vectors are at hand from here
        found = texts(await memories.search(ANN, "I love pasta", 20))
        kept = texts(await memories.page(ANN, 40))
        assert len(kept) <= 20
        assert set(found) == set(kept)
        assert "I love pasta number 29" in kept


async def test_nobody_reaches_the_memories_of_another_user(
    place: Path | str, embedder: WordllamaEmbedder
) -> None:
    strangers = [BOB, Caller("other", "ann"), Caller("open/ann", ""), Caller("", "open/ann")]
    async with memories_in(place, embedder) as memories:
        mine = await memories.add(ANN, ITALIAN.content)
        for stranger in strangers:
            assert await memories.recall(stranger, QUESTION, 5) == []
            assert await memories.page(stranger, 5) == []
            assert await memories.find(stranger, mine.id) is None
            assert await memories.change(stranger, mine.id, "I hate pasta") is None
            assert await memories.remove(stranger, mine.id) is False
            assert await memories.clear(stranger) == 0
        assert await memories.find(ANN, mine.id) == mine


async def test_a_memory_can_be_changed_and_removed_and_is_found_as_it_is_now(
    place: Path | str, embedder: WordllamaEmbedder
) -> None:
    async with memories_in(place, embedder) as memories:
        first = await memories.add(ANN, "My dog is called Bruno")
        second = await memories.add(ANN, ITALIAN.content)
        assert texts(await memories.recall(ANN, "What is my dog's name?", 1)) == [first.text]
        changed = await memories.change(ANN, first.id, "My cat is called Mia")
        assert changed is not None
        assert (changed.id, changed.created_at) == (first.id, first.created_at)
        assert changed.updated_at > first.updated_at
        assert texts(await memories.recall(ANN, "What is my cat's name?", 1)) == [changed.text]
        assert texts(await memories.page(ANN, 5)) == [second.text, changed.text]
        assert await memories.remove(ANN, first.id) is True
        assert await memories.remove(ANN, first.id) is False
        assert await memories.change(ANN, first.id, "again") is None
        assert texts(await memories.recall(ANN, "What is my cat's name?", 5)) == []
        assert texts(await memories.page(ANN, 5)) == [second.text]


async def test_what_comes_after_a_search_is_found_by_the_next(
    place: Path | str, embedder: WordllamaEmbedder
) -> None:
    async with memories_in(place, embedder) as memories:
        assert await memories.recall(ANN, QUESTION, 5) == []
        for number in range(40):
            await memories.add(ANN, f"My car {number} broke down on the motorway")
        await memories.learn(ANN, [ITALIAN], "run_1")
        assert texts(await memories.recall(ANN, QUESTION, 5)) == [ITALIAN.content]


async def test_an_exchange_is_learned_once_and_a_text_is_kept_once(
    place: Path | str, embedder: WordllamaEmbedder
) -> None:
    async with memories_in(place, embedder) as memories:
        assert await memories.learn(ANN, [ITALIAN], "run_1") == 1
        assert await memories.learn(ANN, [UserMessage("I moved to Lisbon")], "run_1") == 0
        assert await memories.learn(ANN, [ITALIAN], "run_2") == 0
        assert texts(await memories.page(ANN, 5)) == [ITALIAN.content]


async def test_questions_greetings_and_other_voices_are_not_kept(
    tmp_path: Path, embedder: WordllamaEmbedder
) -> None:
    said: list[Message] = [
        SystemMessage("You are a helpful assistant."),
        UserMessage("hello there"),
        UserMessage("   "),
        UserMessage("Where can I buy good olive oil?"),
        AssistantMessage("In the shop at the corner of the street."),
        UserMessage("My kitchen is tiny. What do I do?"),
        UserMessage("私は東京に住んでいます"),
    ]
    async with memories_in(tmp_path, embedder) as memories:
        assert await memories.learn(ANN, said, "run_1") == 2
        assert set(texts(await memories.page(ANN, 9))) == {
            "My kitchen is tiny. What do I do?",
            "私は東京に住んでいます",
        }


@pytest.fixture
def plain_sqlite() -> Iterator[None]:
    """SQLite as most builds have it: what is deleted is not overwritten."""

    def connected(connection: sqlite3.Connection, _record: object) -> None:
        connection.cursor().execute("PRAGMA secure_delete = OFF")

    event.listen(Engine, "connect", connected)
    yield
    event.remove(Engine, "connect", connected)


@pytest.mark.usefixtures("plain_sqlite")
async def test_what_is_cleared_is_gone_from_every_file(
    tmp_path: Path, embedder: WordllamaEmbedder
) -> None:
    async with memories_in(tmp_path / "m", embedder) as memories:
        for number in range(30):
            await memories.learn(
                ANN, [UserMessage(f"zanzibar fact {number} is mine")], f"r{number}"
            )
        one = await memories.add(ANN, "zanzibar is where I live")
        await memories.change(ANN, one.id, "marrakesh is where I live")
        await memories.add(BOB, "I keep this one")
        assert await memories.clear(ANN) == 31
        kept = b"".join(path.read_bytes() for path in (tmp_path / "m").rglob("*") if path.is_file())
        assert b"zanzibar" not in kept
        assert b"marrakesh" not in kept
        assert b"I keep this one" in kept
        assert await memories.recall(ANN, "where do I live, in zanzibar", 5) == []


async def test_a_model_words_the_memories_and_is_told_what_is_known(
    place: Path | str, embedder: WordllamaEmbedder
) -> None:
    model = Model('```json\n{"memory": [{"id": "0", "text": "User loves Italian food"}]}\n```')
    async with memories_in(place, embedder, model) as memories:
        await memories.add(ANN, "Has a tiny kitchen with Italian tiles")
        assert await memories.learn(ANN, [ITALIAN, AssistantMessage("Nice!")], "run_1") == 1
        assert await memories.learn(ANN, [ITALIAN], "run_1") == 0
        assert "User loves Italian food" in texts(await memories.page(ANN, 5))
    (asked,) = model.asked
    assert ITALIAN.content in asked[1].content
    assert "Italian tiles" in asked[1].content


@pytest.mark.parametrize("answer", ["", "I cannot.", '{"memory": "no"}', '{"memory": [1]}'])
async def test_nonsense_of_a_model_is_no_memory(
    answer: str, tmp_path: Path, embedder: WordllamaEmbedder
) -> None:
    async with memories_in(tmp_path, embedder, Model(answer)) as memories:
        with pytest.raises(Unreadable):
            await memories.learn(ANN, [ITALIAN], "run_1")
        assert await memories.page(ANN, 5) == []


async def test_a_bad_item_of_a_model_costs_only_itself_and_is_counted(
    tmp_path: Path, embedder: WordllamaEmbedder, caplog: pytest.LogCaptureFixture
) -> None:
    model = Model('{"facts": [7, "Likes pasta.", {"text": null}]}')
    async with memories_in(tmp_path, embedder, model) as memories:
        assert await memories.learn(ANN, [ITALIAN], "run_1") == 1
        assert texts(await memories.page(ANN, 5)) == ["Likes pasta."]
        assert memories.unread == 2
    assert "2 of the facts that a model found in run run_1 could not be read" in caplog.text
    assert "pasta" not in caplog.text


async def test_a_model_that_fails_leaves_the_exchange_to_be_learned_again(
    tmp_path: Path, embedder: WordllamaEmbedder
) -> None:
    failures = [MemoryUnavailable("down"), None]

    async def ask(messages: Sequence[Message], output: OutputSchema | None) -> str:
        failure = failures.pop(0)
        if failure is not None:
            raise failure
        return '{"memory": [{"id": "0", "text": "User loves pasta"}]}'

    async with memories_in(tmp_path, embedder, ask) as memories:
        with pytest.raises(MemoryUnavailable):
            await memories.learn(ANN, [ITALIAN], "run_1")
        assert await memories.learn(ANN, [ITALIAN], "run_1") == 1


@pytest.mark.parametrize("clearings", [0, 1])
async def test_while_a_model_reads_everything_else_goes_on_and_a_clearing_wins(
    place: Path | str, embedder: WordllamaEmbedder, clearings: int
) -> None:
    model = Model('{"memory": [{"id": "0", "text": "User loves Italian food"}]}')
    model.may_answer.clear()
    async with memories_in(place, embedder, model) as memories:
        for _ in range(clearings):
            assert await memories.clear(ANN) == 0
        await memories.add(ANN, ITALIAN.content)
        learning = [
            asyncio.create_task(memories.learn(ANN, [ITALIAN], f"run_{n}")) for n in range(9)
        ]
        await model.was_asked.wait()
        assert texts(await memories.recall(ANN, QUESTION, 5)) == [ITALIAN.content]
        assert await memories.clear(ANN) == 1
        model.may_answer.set()
        assert (await asyncio.gather(*learning))[0] == 0
        assert len(await memories.page(ANN, 9)) <= 1


async def test_an_exchange_that_is_read_twice_at_once_is_learned_once(
    place: Path | str, embedder: WordllamaEmbedder
) -> None:
    answers = iter(("User loves Italian food", "User cooks pasta every day"))
    both_read = asyncio.Barrier(2)

    async def ask(messages: Sequence[Message], output: OutputSchema | None) -> str:
        await both_read.wait()
        return f'{{"memory": [{{"id": "0", "text": "{next(answers)}"}}]}}'

    async with memories_in(place, embedder, ask) as memories:
        learning = (memories.learn(ANN, [ITALIAN], "run_1") for _ in range(2))
        assert sorted(await asyncio.gather(*learning)) == [0, 1]
        assert len(await memories.page(ANN, 9)) == 1


async def test_closing_does_not_wait_for_a_model(
    tmp_path: Path, embedder: WordllamaEmbedder
) -> None:
    model = Model("{}")
    model.may_answer.clear()
    async with memories_in(tmp_path, embedder, model) as memories:
        learning = asyncio.create_task(memories.learn(ANN, [ITALIAN], "run_1"))
        await model.was_asked.wait()
        await memories.aclose()
        with pytest.raises(MemoryUnavailable):
            await learning


async def test_vectors_of_another_embedder_are_computed_again(
    place: Path | str, embedder: WordllamaEmbedder
) -> None:
    async with memories_in(place, OtherEmbedder()) as memories:
        await memories.add(ANN, ITALIAN.content)
    async with memories_in(place, embedder) as memories:
        assert texts(await memories.recall(ANN, QUESTION, 5)) == [ITALIAN.content]
        assert texts(await memories.page(ANN, 5)) == [ITALIAN.content]


async def test_a_folder_belongs_to_one_process_and_is_free_after_it(
    tmp_path: Path, embedder: WordllamaEmbedder
) -> None:
    async with (
        memories_in(tmp_path, embedder) as other,
        memories_in(tmp_path, embedder) as memories,
    ):
        await other.warm()
        with pytest.raises(MemoryUnavailable):
            await memories.add(ANN, "one")
        await other.aclose()
        await memories.add(ANN, "two")


async def test_a_damaged_file_is_an_error_until_it_is_mended(
    tmp_path: Path, embedder: WordllamaEmbedder
) -> None:
    (tmp_path / "memories.db").write_bytes(b"no database at all" * 1000)
    async with memories_in(tmp_path, embedder) as memories:
        with pytest.raises(MemoryUnavailable):
            await memories.recall(ANN, QUESTION, 5)
        (tmp_path / "memories.db").unlink()
        await memories.add(ANN, ITALIAN.content)
        assert texts(await memories.recall(ANN, QUESTION, 5)) == [ITALIAN.content]


async def test_after_trouble_the_file_is_opened_again(
    tmp_path: Path, embedder: WordllamaEmbedder
) -> None:
    async with memories_in(tmp_path, embedder) as memories:
        await memories.add(ANN, ITALIAN.content)
        other = sqlite3.connect(tmp_path / "memories.db")
        other.execute("DROP TABLE memories")
        other.close()
        with pytest.raises(MemoryUnavailable):
            await memories.page(ANN, 5)
        assert await memories.recall(ANN, QUESTION, 5) == []
        await memories.add(ANN, "My dog is called Bruno")
        assert texts(await memories.page(ANN, 5)) == ["My dog is called Bruno"]


async def test_a_full_disk_costs_what_does_not_fit_and_only_until_there_is_room(
    tmp_path: Path, embedder: WordllamaEmbedder
) -> None:
    def limit(connection: sqlite3.Connection, _record: object) -> None:
        connection.cursor().execute("PRAGMA max_page_count = 60")

    long = "I keep every word of it. " * 20_000
    event.listen(Engine, "connect", limit)
    try:
        async with memories_in(tmp_path, embedder) as memories:
            await memories.add(ANN, ITALIAN.content)
            for _ in range(2):
                with pytest.raises(MemoryUnavailable):
                    await memories.add(ANN, long)
            assert texts(await memories.recall(ANN, QUESTION, 5)) == [ITALIAN.content]
            with pytest.raises(MemoryUnavailable):
                await memories.add(ANN, long)
            event.remove(Engine, "connect", limit)
            await memories.add(ANN, long)
            assert len(await memories.page(ANN, 5)) == 2
    finally:
        if event.contains(Engine, "connect", limit):
            event.remove(Engine, "connect", limit)


@pytest.mark.slow
async def test_nothing_connects_to_a_network_and_nothing_is_written_elsewhere(
    tmp_path: Path,
) -> None:
    code = """
import asyncio, pathlib, socket, sys, threading

def refuse(*args):
    raise AssertionError("connected")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
import memory.long_term, memory.embedder, memory.hosted, memory.prompt
assert not {"mem0", "wordllama", "numpy", "openai"} & set(sys.modules)
from messages import UserMessage
from caller import Caller

async def main():
    embedder = memory.embedder.WordllamaEmbedder()
    async def ask(messages, output):
        return '{"memory": [{"text": "Loves Italian food"}]}'
    memories = memory.long_term.open_local(pathlib.Path(sys.argv[1]) / "m", embedder, ask)
    await memories.warm()
    assert "mem0" in sys.modules
    caller = Caller("open", "default")
    assert await memories.learn(caller, [UserMessage("I love Italian food")], "r") == 1
    assert await memories.recall(caller, "Which food do I love?", 3)
    assert "spacy" not in sys.modules
    names = {thread.name.rstrip("_0123456789") for thread in threading.enumerate()}
    own = {"memory-embedder", "sqlite-reader", "sqlite-writer"}
    assert names <= {"MainThread", "asyncio"} | own, names
    import logging
    assert logging.getLogger().handlers == []
    await memories.aclose()
    await embedder.aclose()

asyncio.run(main())
"""
    program = [sys.executable, "-W", "error", "-c", code, str(tmp_path)]
    environment = {"HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = await asyncio.to_thread(
        subprocess.run, program, env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path) == ["m"]


async def test_two_processes_share_a_database(
    postgres_url: str, embedder: WordllamaEmbedder
) -> None:
    async with (
        memories_in(postgres_url, embedder) as one,
        memories_in(postgres_url, embedder) as other,
    ):
        await asyncio.gather(one.warm(), other.warm())
        await one.add(ANN, ITALIAN.content)
        assert texts(await other.recall(ANN, QUESTION, 5)) == [ITALIAN.content]
        assert await other.learn(ANN, [UserMessage("I moved to Lisbon")], "run_1") == 1
        assert await one.learn(ANN, [UserMessage("I moved to Lisbon")], "run_1") == 0
        assert await one.clear(ANN) == 2
        assert await other.recall(ANN, QUESTION, 5) == []


async def test_a_database_that_was_gone_is_used_again(
    server: PostgresServer, postgres_url: str, embedder: WordllamaEmbedder
) -> None:
    async with memories_in(postgres_url, embedder) as memories:
        await memories.add(ANN, ITALIAN.content)
        await asyncio.to_thread(stop, server)
        with pytest.raises(MemoryUnavailable):
            await memories.recall(ANN, QUESTION, 5)
        await asyncio.to_thread(start, server)
        assert texts(await memories.recall(ANN, QUESTION, 5)) == [ITALIAN.content]
