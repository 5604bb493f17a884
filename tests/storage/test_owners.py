"""What belongs to somebody else is not there, whatever is asked."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from caller import Caller
from messages import AssistantMessage
from storage import Begin, Entry, NoSuchConversation, NoSuchMessage, StoredRun
from storage.store import Store
from tests.storage.support import ANN, CALL, DONE, a_run, branch, chat, says, texts

BEN = Caller("acme", "ben")
OTHERS = [BEN, Caller("other", "ann"), Caller("acm", "eann")]

Question = Callable[[Store, Caller, StoredRun, str], Awaitable[Any]]


def foreign(run: StoredRun, owner: Caller) -> StoredRun:
    return a_run(run.conversation_id, owner, id=run.id)


QUESTIONS: dict[str, tuple[Question, Any]] = {
    "begin": (lambda s, o, r, m: s.begin(foreign(r, o), Begin(reset=True)), False),
    "save_turn": (lambda s, o, r, m: s.save_turn(foreign(r, o), [CALL], CALL), False),
    "finish": (lambda s, o, r, m: s.finish(foreign(r, o), [CALL], DONE, "Mine"), False),
    "run_messages": (lambda s, o, r, m: s.run_messages(foreign(r, o)), []),
    "context": (lambda s, o, r, m: s.context(o, "conv", 9), []),
    "conversations": (lambda s, o, r, m: s.conversations(o, limit=9), ([], None)),
    "conversation": (lambda s, o, r, m: s.conversation(o, "conv"), None),
    "messages": (lambda s, o, r, m: s.messages(o, "conv"), []),
    "messages before": (lambda s, o, r, m: s.messages(o, "conv", before=m), []),
    "update": (lambda s, o, r, m: s.update(o, "conv", title="Mine", metadata={"a": 1}), None),
    "delete": (lambda s, o, r, m: s.delete(o, "conv"), False),
    "clear": (lambda s, o, r, m: s.clear(o, "conv"), False),
    "search": (lambda s, o, r, m: s.search(o, "hello", limit=9), []),
    "search titles": (lambda s, o, r, m: s.search(o, "greetings", limit=9), []),
}


@pytest.mark.parametrize("method", QUESTIONS)
async def test_nobody_sees_or_changes_what_is_anothers(store: Store, method: str) -> None:
    await chat(store, "Hello there", "Hello.", title="Greetings")
    run = a_run()
    await store.accept(run, begin=says("Go on"))
    before = await everything(store, run)
    ask, nothing = QUESTIONS[method]
    for owner in OTHERS:
        assert await ask(store, owner, run, before[1][2].id) == nothing
        assert await everything(store, run) == before


async def test_nobody_branches_off_or_goes_on_with_what_is_anothers(store: Store) -> None:
    await chat(store, "Hello there", "Hello.")
    question = (await store.messages(ANN, "conv"))[0].id
    for owner in OTHERS:
        with pytest.raises(NoSuchMessage):
            await branch(store, question, owner=owner)
        with pytest.raises(NoSuchConversation):
            await store.accept(a_run(owner=owner), begin=None, entry=Entry(must_exist=True))
        assert await store.conversation(owner, "branch") is None


async def everything(store: Store, run: StoredRun) -> tuple[Any, ...]:
    return (
        await store.conversation(ANN, "conv"),
        await store.messages(ANN, "conv"),
        await store.run(ANN, run.id),
        await store.search(ANN, "hello", limit=9),
    )


@pytest.mark.parametrize("owner", OTHERS)
async def test_owners_may_use_the_same_names(store: Store, owner: Caller) -> None:
    await chat(store, "Ann's", "Hello Ann.", key="once", title="One")
    run = a_run(owner=owner, key="once")
    assert await store.accept(run, begin=Begin(messages=says("Mine").messages, reset=True)) is None
    await store.finish(run, [AssistantMessage("Hello.")], DONE, "Two")
    assert await texts(store) == ["Ann's", "Hello Ann."]
    assert await texts(store, owner=owner) == ["Mine", "Hello."]
    assert await store.delete(owner, "conv")
    assert await texts(store) == ["Ann's", "Hello Ann."]


async def test_a_run_is_found_by_its_tenant_only(store: Store) -> None:
    run = await chat(store, "Hi", "Hello.")
    assert await store.run(ANN, run.id) is not None
    assert await store.run(Caller("other", "ann"), run.id) is None


async def test_agents_belong_to_a_tenant(store: Store) -> None:
    other, third = Caller("other", "ann"), Caller("third", "ann")
    await store.put_agent(ANN, "helper", "{}", built_in=(), limit=9)
    await store.put_agent(other, "helper", '{"model": "demo"}', built_in=(), limit=9)
    agents = [("acme", "helper", "{}"), ("other", "helper", '{"model": "demo"}')]
    assert sorted(await store.agents()) == agents
    assert not await store.delete_agent(third, "helper")
    assert await store.delete_agent(other, "helper")
    assert await store.agents() == agents[:1]


async def test_a_deletion_takes_nothing_of_anothers_conversation_of_the_same_name(
    store: Store,
) -> None:
    await chat(store, "Hi", "Hello.")
    other = await chat(store, "Ho", "Hello.", owner=BEN)
    assert await store.delete(ANN, "conv")
    assert await store.run(ANN, other.id) is not None
    assert await texts(store, owner=BEN) == ["Ho", "Hello."]


async def test_users_have_keys_of_the_same_name(store: Store) -> None:
    runs = [await chat(store, "Hi", "Hello.", owner=owner, key="once") for owner in (ANN, BEN)]
    for run in runs:
        twin = await store.accept(a_run(owner=run.owner, key="once"), begin=None)
        assert twin is not None
        assert (twin.id, twin.owner) == (run.id, run.owner)
