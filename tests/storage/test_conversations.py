"""Conversations are listed in pages, read back, renamed, cleared, branched and deleted."""

import base64
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from messages import Message, SystemMessage, ToolMessage
from storage import (
    Begin,
    ConversationRecord,
    Entry,
    InvalidPage,
    NoSuchConversation,
    NoSuchMessage,
    TooLong,
)
from storage import conversations as rows
from storage.store import Store
from tests.storage.support import ANN, CALL, DONE, RESULT, a_run, branch, chat, says, texts


async def record(store: Store, conversation_id: str = "conv") -> ConversationRecord:
    found = await store.conversation(ANN, conversation_id)
    assert found is not None
    return found


async def test_the_context_is_the_newest_messages_oldest_first(store: Store) -> None:
    await chat(store, "One", "Two")
    await chat(store, "Three", "Four")
    found = await store.context(ANN, "conv", 3)
    assert [message.content for message in found] == ["Two", "Three", "Four"]


async def test_a_conversation_is_described(store: Store) -> None:
    before = datetime.now(UTC)
    await chat(store, "Hi", "Hello.", title="Greetings")
    found = await record(store)
    assert before <= found.created_at <= found.updated_at <= datetime.now(UTC)
    assert (found.id, found.title, found.metadata) == ("conv", "Greetings", {})
    assert (found.message_count, found.branched_from) == (2, None)


async def test_a_message_keeps_its_id(store: Store) -> None:
    run = await chat(store, "Hi", "Hello.")
    first = await store.messages(ANN, "conv")
    await chat(store, "And?", "Well.")
    again = await store.messages(ANN, "conv")
    assert again[:2] == first
    assert len({message.id for message in again}) == 4
    assert [message.run_id for message in first] == [run.id, run.id]
    assert all(message.id.startswith("msg_") for message in again)


EXECUTED = ToolMessage(
    "c1", "add", "3", started_at=datetime(2026, 1, 2, 12, 0, tzinfo=UTC), duration_ms=1.5
)
OLD_ROWS = {
    '{"role":"tool","tool_call_id":"c1","name":"add","content":"3"}': ToolMessage("c1", "add", "3"),
    '{"role":"tool","tool_call_id":"c1","name":"add","content":"Error: No.","is_error":true}': (
        ToolMessage("c1", "add", "Error: No.", is_error=True)
    ),
}


@pytest.mark.parametrize("row", OLD_ROWS)
def test_a_result_without_times_is_stored_as_it_was_before_there_were_any(row: str) -> None:
    assert msgspec.json.encode(OLD_ROWS[row]).decode() == row
    assert msgspec.json.decode(row, type=Message) == OLD_ROWS[row]


async def test_a_result_keeps_its_times(store: Store) -> None:
    run = a_run()
    await store.accept(run, begin=says("1 + 2?"))
    await store.finish(run, [CALL, EXECUTED], DONE)
    *_, result = await store.context(ANN, "conv", 10)
    assert result == EXECUTED


async def test_messages_are_paged_back(store: Store) -> None:
    for number in range(3):
        await chat(store, f"{number}?", f"{number}!")
    newest = await store.messages(ANN, "conv", limit=4)
    assert [each.message.content for each in newest] == ["1?", "1!", "2?", "2!"]
    rest = await store.messages(ANN, "conv", limit=4, before=newest[0].id)
    assert [each.message.content for each in rest] == ["0?", "0!"]
    assert await store.messages(ANN, "conv", before="msg_none") == []


async def test_pages_of_conversations_are_stable_under_ties(store: Store) -> None:
    now = datetime.now(UTC)
    for number in range(7):
        at = now - timedelta(seconds=number // 3)
        await store.accept(a_run(f"conv_{number}", created_at=at), begin=None)
    whole, end = await store.conversations(ANN, limit=7)
    assert end is None
    assert [each.id for each in whole] == [f"conv_{number}" for number in (2, 1, 0, 5, 4, 3, 6)]
    paged, before = await store.conversations(ANN, limit=2)
    while before is not None:
        page, before = await store.conversations(ANN, limit=2, before=before)
        paged += page
    assert paged == whole


async def test_what_was_used_last_comes_first(store: Store) -> None:
    for conversation_id in ("a", "b", "a"):
        await chat(store, "Hi", "Hello.", conversation_id=conversation_id)
    found, _ = await store.conversations(ANN, limit=9)
    assert [(each.id, each.message_count) for each in found] == [("a", 4), ("b", 2)]


async def test_an_ephemeral_conversation_is_not_listed(store: Store) -> None:
    await chat(store, "Hi", "Hello.", ephemeral=True)
    assert await store.conversations(ANN, limit=9) == ([], None)
    assert await texts(store) == ["Hi", "Hello."]


@pytest.mark.parametrize(
    "before",
    [
        "",
        "nonsense",
        "é",
        "====",
        base64.b64encode(b"[]").decode(),
        base64.b64encode(b"\xff").decode(),
        base64.b64encode(b'["2026-01-01T00:00:00", "conv"]').decode(),
    ],
)
async def test_nonsense_is_no_cursor(store: Store, before: str) -> None:
    with pytest.raises(InvalidPage):
        await store.conversations(ANN, limit=9, before=before)


async def test_title_and_metadata_are_set_apart(store: Store) -> None:
    await chat(store, "Hi", "Hello.")
    before = await record(store)
    titled = await store.update(ANN, "conv", title="New")
    assert titled is not None
    assert (titled.title, titled.metadata) == ("New", {})
    both = await store.update(ANN, "conv", metadata={"pinned": True, "tags": ["é", 1.5, None]})
    assert both == await record(store)
    assert (both.title, both.metadata) == ("New", {"pinned": True, "tags": ["é", 1.5, None]})
    assert both.updated_at == before.updated_at
    assert await store.update(ANN, "none", title="New") is None


async def test_a_cleared_conversation_stays_without_what_was_said_in_it(store: Store) -> None:
    done = await chat(store, "Hi", "Hello.", title="Greetings")
    other = await chat(store, "Hi", "Hello.", conversation_id="other")
    busy = a_run()
    await store.accept(busy, begin=None)
    await store.update(ANN, "conv", metadata={"pinned": True})
    assert await store.clear(ANN, "conv")
    found = await record(store)
    assert (found.message_count, found.title, found.metadata) == (0, None, {"pinned": True})
    assert await store.run(ANN, done.id) is None
    assert await store.run(ANN, busy.id) is not None
    assert await store.run(ANN, other.id) is not None
    assert await texts(store, "other") == ["Hi", "Hello."]
    assert not await store.clear(ANN, "none")


async def test_a_deleted_conversation_takes_messages_and_finished_runs_along(
    store: Store,
) -> None:
    done = await chat(store, "Hi", "Hello.")
    other = await chat(store, "Hi", "Hello.", conversation_id="other")
    busy = a_run()
    await store.accept(busy, begin=says("More"))
    assert await store.delete(ANN, "conv")
    assert not await store.delete(ANN, "conv")
    assert await store.conversation(ANN, "conv") is None
    assert await store.messages(ANN, "conv") == []
    assert await store.run(ANN, done.id) is None
    assert await store.run(ANN, busy.id) is not None
    assert await store.run(ANN, other.id) is not None
    assert await texts(store, "other") == ["Hi", "Hello."]


async def test_a_branch_begins_with_what_was_said_before(store: Store) -> None:
    run = a_run()
    await store.accept(run, begin=says("One"))
    await store.finish(run, [CALL, RESULT, SystemMessage("Be brief.")], DONE, "Numbers")
    await store.update(ANN, "conv", metadata={"pinned": True})
    await chat(store, "Two", "Second")
    original = await store.messages(ANN, "conv")
    assert await branch(store, original[4].id) is None
    found = await record(store, "branch")
    assert (found.title, found.metadata) == ("Numbers", {"pinned": True})
    assert found.branched_from == ("conv", original[4].id)
    *copied, own = await store.messages(ANN, "branch")
    assert [each.message for each in copied] == [each.message for each in original[:4]]
    assert (own.message,) == says("Else").messages
    assert await texts(store) == ["One", CALL.content, "noon", "Be brief.", "Two", "Second"]
    assert len(await store.run_messages(run)) == 4


async def test_a_branch_with_nothing_before_it_has_no_title(store: Store) -> None:
    await chat(store, "One", "First", title="One")
    [first, _] = await store.messages(ANN, "conv")
    await branch(store, first.id)
    assert (await record(store, "branch")).title is None
    assert (await record(store)).title == "One"


async def test_a_branch_copies_the_newest_messages_from_a_users_one_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "BRANCH", 3)
    for number in range(4):
        await chat(store, f"q{number}", f"a{number}")
    said = await store.messages(ANN, "conv")
    await branch(store, said[6].id)
    assert await texts(store, "branch") == ["q2", "a2", "Else"]
    await branch(store, said[2].id, into="short")
    assert await texts(store, "short") == ["q0", "a0", "Else"]


async def test_a_conversation_knows_which_agent_was_asked_last(store: Store) -> None:
    waiting = a_run(agent="second")
    await store.accept(a_run(agent="first"), begin=says("Hi"))
    await store.accept(waiting, begin=None)
    assert (await record(store)).agent == "first"
    await store.begin(waiting, says("And?"))
    assert (await record(store)).agent == "second"
    again = a_run(agent="third", replaces=True)
    await store.accept(again, begin=Begin(), entry=Entry(must_exist=True))
    assert (await record(store)).agent == "third"
    [first, _] = await store.messages(ANN, "conv")
    for into, begin, agent in (("a", None, "third"), ("b", says("Else"), "fourth")):
        run = a_run(into, agent="fourth")
        await store.accept(run, begin=begin, entry=Entry(branch=("conv", first.id)))
        assert (await record(store, into)).agent == agent


async def test_a_branch_needs_a_message_of_the_user(store: Store) -> None:
    await chat(store, "One", "First")
    question, answer = [each.id for each in await store.messages(ANN, "conv")]
    for of, message_id in [("conv", answer), ("conv", "msg_none"), ("none", question)]:
        with pytest.raises(NoSuchMessage):
            await branch(store, message_id, of=of)
    assert await store.conversation(ANN, "branch") is None


async def test_a_branch_of_too_much_is_refused_and_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await chat(store, "One", "First")
    await chat(store, "Two", "Second")
    question = (await store.messages(ANN, "conv"))[2].id
    monkeypatch.setattr(rows, "BRANCH_CHARS", 60)
    with pytest.raises(TooLong):
        await branch(store, question)
    assert await store.conversation(ANN, "branch") is None
    monkeypatch.setattr(rows, "BRANCH_CHARS", 200)
    assert await branch(store, question) is None


async def test_a_repeated_branch_is_the_first_one(store: Store) -> None:
    await chat(store, "One", "First")
    question = (await store.messages(ANN, "conv"))[0].id
    assert await branch(store, question, key="once") is None
    again = await branch(store, question, into="second", key="once")
    assert again is not None
    assert again.conversation_id == "branch"
    assert await store.conversation(ANN, "second") is None
    await store.delete(ANN, "conv")
    late = await branch(store, question, into="third", key="once")
    assert late is not None
    assert late.id == again.id


async def test_a_run_that_goes_on_needs_its_conversation(store: Store) -> None:
    with pytest.raises(NoSuchConversation):
        await store.accept(a_run(), begin=None, entry=Entry(must_exist=True))
    assert await store.conversation(ANN, "conv") is None
    await chat(store, "One", "First")
    before = await record(store)
    run = a_run(key="once")
    assert await store.accept(run, begin=None, entry=Entry(must_exist=True)) is None
    assert (await record(store)).updated_at > before.updated_at
    await store.finish(run, [], DONE)
    await store.delete(ANN, "conv")
    busy = a_run(key="again")
    await chat(store, "Two", "Second")
    await store.accept(busy, begin=None, entry=Entry(must_exist=True))
    await store.delete(ANN, "conv")
    twin = await store.accept(a_run(key="again"), begin=None, entry=Entry(must_exist=True))
    assert twin is not None
    assert twin.id == busy.id


async def test_a_branch_of_what_is_not_listed_is_listed(store: Store) -> None:
    await chat(store, "One", "First", ephemeral=True)
    question = (await store.messages(ANN, "conv"))[0].id
    await branch(store, question)
    assert [each.id for each in (await store.conversations(ANN, limit=9))[0]] == ["branch"]


async def test_a_conversation_that_is_cleared_has_changed(store: Store) -> None:
    await chat(store, "Hi", "Hello.", conversation_id="a")
    await chat(store, "Hi", "Hello.", conversation_id="b")
    assert await store.clear(ANN, "a")
    assert [each.id for each in (await store.conversations(ANN, limit=9))[0]] == ["a", "b"]


async def test_messages_of_a_branch_are_paged_back_by_their_place_in_it(store: Store) -> None:
    for number in range(3):
        await chat(store, f"{number}?", f"{number}!")
    last = (await store.messages(ANN, "conv"))[4].id
    await branch(store, last)
    shared = (await store.messages(ANN, "branch"))[2]
    assert shared.message.content == "1?"
    before = await store.messages(ANN, "branch", before=shared.id)
    assert [each.message.content for each in before] == ["0?", "0!"]
    own = (await store.messages(ANN, "branch"))[4].id
    assert await store.messages(ANN, "conv", before=own) == []
