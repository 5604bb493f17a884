"""A search finds words in titles and in what user and assistant said."""

import threading
import time
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, event

from caller import Caller
from messages import AssistantMessage, Message, SystemMessage, ToolCall, ToolMessage
from storage import search
from storage.store import Store
from tests.storage.support import ANN, DONE, a_run, branch, chat, says

BEN = Caller("acme", "ben")


async def found(store: Store, text: str, limit: int = 9) -> list[str]:
    """Return where a text is found: the conversation, and whose words they are."""
    hits = await store.search(ANN, text, limit=limit)
    return [f"{hit.conversation_id} {hit.role or 'title'}" for hit in hits]


PLACES = [
    ("noodles", ["a user"]),
    ("NOODLES", ["a user"]),
    ("noo", ["a user"]),
    ("noo with", []),
    ("with noo", ["a user"]),
    ("noodles tofu", []),
    ("tofu", ["b assistant"]),
    ("either or", ["b assistant"]),
    ("or either", ["b assistant"]),
    ("3.14", ["b assistant"]),
    ("snake_case", ["b assistant"]),
    ("recipes", ["a title"]),
    ("öffnet", ["b assistant"]),
    ("secret", []),
    ("oodles", []),
]


async def test_all_words_have_to_occur_and_the_last_may_be_the_begin_of_one(
    store: Store,
) -> None:
    await chat(store, "Noodles with beans", "Gladly.", conversation_id="a", title="Recipes")
    run = a_run("b")
    await store.accept(run, begin=None)
    said: list[Message] = [
        AssistantMessage('either/or: "tofu", 3.14 and snake_case; es öffnet'),
        SystemMessage("secret"),
        ToolMessage("call_1", "clock", "secret"),
    ]
    await store.finish(run, said, DONE)
    for text, places in PLACES:
        assert await found(store, text) == places, text


UNSPACED = [
    ("天気", ["a user", "b assistant"]),
    ("東京 天気", ["a user"]),
    ("天気 大阪", []),
    ("Tokyoの天気", ["b assistant"]),
    ("TOKYO 天気", ["b assistant"]),
    ("tokio 天気", []),
    ("วัสดี", ["b user"]),
    ("สวัสดี ครับ", ["b user"]),
    ("🍜", ["b title", "a assistant"]),
    ("🍜🍣", ["a assistant"]),
    ("soup 🍣", ["a assistant"]),
    ("soup 🍕", []),
    ("❤️", ["a assistant"]),
    ("秘密", []),
    ("会话", []),
    ("!?", []),
]


async def test_parts_are_found_where_no_spaces_stand_between_words(store: Store) -> None:
    await chat(store, "東京の天気はどうですか", "Soup 🍜, 🍣 \u2764", conversation_id="a")
    run = a_run("b")
    await store.accept(run, begin=says("สวัสดีครับ"))
    said: list[Message] = [
        AssistantMessage('"tokyoの天気"', (ToolCall("c1", "会话", '{"a": "秘密"}'),)),
        SystemMessage("秘密"),
        ToolMessage("c1", "会话", "秘密"),
    ]
    await store.finish(run, said, DONE, "Recipes 🍜")
    await chat(store, "天気", "🍜", conversation_id="else", owner=BEN, title="🍜")
    await chat(store, "天気", "🍜", conversation_id="temporary", ephemeral=True, title="🍜")
    for text, places in UNSPACED:
        assert sorted(await found(store, text)) == sorted(places), text


async def test_parts_are_looked_for_in_what_is_newest_only(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "SCANNED", 2)
    for conversation_id in ("a", "b", "c"):
        await chat(store, "天気", "Yes.", conversation_id=conversation_id, title="天気")
    assert sorted(await found(store, "天気")) == ["b title", "c title", "c user"]


async def test_the_newest_comes_first(store: Store) -> None:
    for conversation_id in ("a", "b", "c"):
        await chat(store, "Soup", "Yes.", conversation_id=conversation_id)
    assert await found(store, "soup") == ["c user", "b user", "a user"]
    assert await found(store, "soup", limit=2) == ["c user", "b user"]


async def test_a_hit_says_what_and_where(store: Store) -> None:
    await chat(store, "Hi", "word " * 100 + "needle\n\n" + "word " * 100, title="Hay")
    hit = (await store.search(ANN, "needle", limit=1))[0]
    message = (await store.messages(ANN, "conv"))[1]
    assert (hit.conversation_id, hit.title, hit.role) == ("conv", "Hay", "assistant")
    assert (hit.message_id, hit.created_at) == (message.id, message.created_at)
    assert "needle word" in hit.snippet
    assert 140 <= len(hit.snippet) <= 162
    assert hit.snippet[0] == hit.snippet[-1] == "…"


async def test_a_short_text_is_shown_whole(store: Store) -> None:
    await chat(store, "A needle.", "Yes.")
    assert [hit.snippet for hit in await store.search(ANN, "need", limit=9)] == ["A needle."]


async def test_a_new_title_takes_the_place_of_the_old_one(store: Store) -> None:
    await chat(store, "Hi", "Hello.", title="Old")
    await store.update(ANN, "conv", title="New")
    assert await found(store, "old") == []
    assert await found(store, "new") == ["conv title"]
    await store.update(ANN, "conv", metadata={"title": "Old"})
    assert await found(store, "new") == ["conv title"]


async def test_what_is_gone_is_not_found(store: Store) -> None:
    for conversation_id in ("cleared", "deleted"):
        await chat(store, "Soup", "Yes.", conversation_id=conversation_id, title="Soup")
    await store.clear(ANN, "cleared")
    assert await found(store, "soup") == ["deleted title", "deleted user"]
    await store.delete(ANN, "deleted")
    assert await found(store, "soup") == []


async def test_a_branch_is_found_as_well(store: Store) -> None:
    await chat(store, "Soup", "Yes.")
    await chat(store, "More", "No.")
    third = (await store.messages(ANN, "conv"))[2].id
    await branch(store, third)
    assert await found(store, "soup") == ["branch user", "conv user"]


async def test_ephemeral_conversations_are_not_searched(store: Store) -> None:
    await chat(store, "Soup", "Yes.", title="Soup", ephemeral=True)
    assert await found(store, "soup") == []


ODD = [
    "",
    " ",
    '"',
    "'",
    "\\",
    "\\'",
    "' | 'x",
    "a:*",
    "x' & !'y",
    "words : a",
    'a" OR "b',
    "^a",
    "a NEAR(b)",
    "NOT",
    "AND OR NOT",
    "* - + ( ) { } [ ]",
    "\0",
    "a\0b",
    "\ud800",
    "\U0001f600",
    "\U0001f468\u200d\U0001f469",
    "½ ² Ⅷ",
    "हिन्दी ภาษา 日本語 한국어",
    "e\u0301",
    "\u0301",
    "\U0001e922\U0001fbf5\U00031350",
    "%_",
    "$1 :x %(y)s ?",
    "a" * 10_000,
    "é" * 250,
    "日" * 256,
    "a " * 5_000,
    "\u2028\x85\xa0",
]


async def test_any_text_is_safe_to_search_for(store: Store) -> None:
    await chat(store, "Soup", "Yes.")
    for text in ODD:
        assert "conv user" not in await found(store, text), repr(text)
    assert await found(store, "soup") == ["conv user"]


async def test_any_text_is_safe_to_say(store: Store) -> None:
    long = ["x" * 100_000, "".join(chr(0x20000 + number) + " " for number in range(40_000))]
    for text in [*(text for text in ODD if "\0" not in text and "\ud800" not in text), *long]:
        run = a_run()
        await store.accept(run, begin=says(text or "-"))
        await store.finish(run, [AssistantMessage(text)], DONE, text)
        assert (await store.context(ANN, "conv", 1))[0].content == text


async def test_sqlite_takes_no_notice_of_accents(sqlite_url: str) -> None:
    async with Store.open(sqlite_url, instance="test") as store:
        await chat(store, "Das Café", "Nai\u0308ve")
        assert await found(store, "cafe") == ["conv user"]
        assert await found(store, "naïve") == ["conv assistant"]
        assert [hit.snippet for hit in await store.search(ANN, "cafe", limit=1)] == ["Das Café"]


def test_a_search_of_many_words_in_long_texts_costs_little() -> None:
    text = "word and more of it " * 5_000 + "café"
    began = time.thread_time()
    for query in ("cafe " * 32, " ".join(f"word{at}" for at in range(32))):
        wanted = search.wanted_in(query)
        for _ in range(100):
            assert len(search.snippet(text, wanted)) <= search.SNIPPET + 2
    assert time.thread_time() - began < 2.5
    far = search.snippet(text, search.wanted_in("cafe"))
    assert far.startswith("word and")  # so far down, accents are not looked at


async def test_sqlite_asks_the_index_of_words_first_and_once(sqlite_url: str) -> None:
    plans: list[list[str]] = []
    engine = create_engine(sqlite_url)
    with engine.connect() as db:

        def plan(_db: Connection, _: Any, statement: str, values: Any, *more: Any) -> None:
            if not statement.startswith("EXPLAIN"):
                rows = db.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
                plans.append([row.detail for row in rows])

        event.listen(db, "before_cursor_execute", plan)
        search.find(db, ANN, search.wanted_in("soup"), 9)
    engine.dispose()
    assert len(plans) == 2
    for first, *others in plans:
        assert "SCAN" in first
        assert "VIRTUAL TABLE INDEX" in first
        assert not [step for step in others if "SCAN" in step or "VIRTUAL" in step]


async def test_texts_are_looked_through_beside_the_event_loop(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    snippet = search.snippet

    def noting(text: str, wanted: search.Wanted) -> str:
        threads.append(threading.get_ident())
        return snippet(text, wanted)

    monkeypatch.setattr(search, "snippet", noting)
    await chat(store, "Noodles", "Gladly.")
    assert await found(store, "noodles") == ["conv user"]
    assert threads
    assert threading.get_ident() not in threads
