"""A run is kept with its conversation, written while it works and ended once."""

from datetime import UTC, datetime

import msgspec
import pytest

from events import ChatComplete, ReasoningBlock, RunError, TerminalEvent
from messages import AssistantMessage, UserMessage
from models import RunStatus
from storage import Begin, Entry, StorageUnavailable, expiry
from storage.store import Store
from tests.storage.support import ANN, CALL, DONE, RESULT, a_run, chat, says, texts


async def test_an_accepted_run_comes_back_as_it_was(store: Store) -> None:
    run = a_run(key="once", fingerprint=b"\x00\xff")
    assert await store.accept(run, begin=None) is None
    assert await store.run(ANN, run.id) == run
    assert await texts(store) == []


async def test_a_run_with_the_floor_begins_as_it_is_accepted(store: Store) -> None:
    run = a_run()
    await store.accept(run, begin=says("Hi"))
    found = await store.run(ANN, run.id)
    assert found == msgspec.structs.replace(run, status="running", started_at=run.created_at)
    assert await store.run_messages(run) == [UserMessage("Hi")]


async def test_a_queued_run_begins_later(store: Store) -> None:
    run = a_run()
    await store.accept(run, begin=None)
    before = datetime.now(UTC)
    assert await store.begin(run, says("Hi"))
    found = await store.run(ANN, run.id)
    assert found is not None
    assert found.status == "running"
    assert found.started_at is not None
    assert before <= found.started_at <= datetime.now(UTC)
    assert await texts(store) == ["Hi"]


async def test_a_key_belongs_to_the_first_run(store: Store) -> None:
    first = await chat(store, "Hi", "Hello.", key="once")
    second = a_run("other", key="once")
    there = await store.accept(second, begin=says("Hi"))
    assert there is not None
    assert (there.id, there.status, there.terminal) == (first.id, "completed", DONE)
    assert await store.run(ANN, second.id) is None
    assert await store.conversation(ANN, "other") is None


async def test_a_turn_is_kept_with_the_calls_that_are_pending(store: Store) -> None:
    run = a_run()
    await store.accept(run, begin=says("Hi"))
    assert await store.save_turn(run, [], CALL)
    found = await store.run(ANN, run.id)
    assert found is not None
    assert found.pending == CALL
    assert await store.save_turn(run, [CALL, RESULT], None)
    found = await store.run(ANN, run.id)
    assert found is not None
    assert found.pending is None
    assert await store.run_messages(run) == [UserMessage("Hi"), CALL, RESULT]


async def test_every_field_of_a_message_comes_back(store: Store) -> None:
    run = a_run()
    answer = AssistantMessage("é\u2028\U0001f600\\u0000\x1f", (), (ReasoningBlock("p", '{"a":1}'),))
    await store.accept(run, begin=None)
    await store.save_turn(run, [answer, CALL, RESULT], None)
    assert await store.context(ANN, "conv", 10) == [answer, CALL, RESULT]


@pytest.mark.parametrize(
    ("terminal", "status"),
    [
        (DONE, "completed"),
        (ChatComplete(final_response="", finish_reason="cancelled", usage=None), "cancelled"),
        (RunError(code="upstream_error", message="No.", retryable=True), "failed"),
    ],
)
async def test_a_run_ends_with_its_last_words(
    store: Store, terminal: TerminalEvent, status: RunStatus
) -> None:
    run = a_run()
    await store.accept(run, begin=says("Hi"))
    await store.save_turn(run, [], CALL)
    assert await store.finish(run, [AssistantMessage("Bye.")], terminal)
    found = await store.run(ANN, run.id)
    assert found is not None
    assert (found.status, found.terminal, found.pending) == (status, terminal, None)
    assert found.finished_at is not None
    assert await texts(store) == ["Hi", "Bye."]


async def test_a_run_ends_once(store: Store) -> None:
    run = await chat(store, "Hi", "Hello.")
    error = RunError(code="late", message="Too late.", retryable=False)
    assert not await store.finish(run, [AssistantMessage("Again.")], error, "Again")
    assert not await store.save_turn(run, [AssistantMessage("Again.")], CALL)
    assert not await store.begin(run, Begin(reset=True))
    found = await store.run(ANN, run.id)
    assert found is not None
    assert found.terminal == DONE
    assert await texts(store) == ["Hi", "Hello."]
    record = await store.conversation(ANN, "conv")
    assert record is not None
    assert record.title is None


async def test_the_first_title_stays(store: Store) -> None:
    for title in (None, "One", "Two"):
        await chat(store, "Hi", "Hello.", title=title)
    record = await store.conversation(ANN, "conv")
    assert record is not None
    assert record.title == "One"


async def test_a_run_may_reset_its_conversation(store: Store) -> None:
    await chat(store, "Old", "Old answer", conversation_id="other")
    await chat(store, "Old", "Old answer")
    await store.accept(a_run(), begin=Begin(messages=(UserMessage("New"),), reset=True))
    assert await texts(store) == ["New"]
    assert await texts(store, "other") == ["Old", "Old answer"]


async def test_a_reset_forgets_what_a_clearing_forgets(store: Store) -> None:
    before = await chat(store, "Old", "Old answer", title="Old")
    run = a_run()
    await store.accept(run, begin=None)
    await store.begin(run, Begin(messages=(UserMessage("New"),), reset=True))
    record = await store.conversation(ANN, "conv")
    assert record is not None
    assert (record.title, record.message_count) == (None, 1)
    assert await store.run(ANN, before.id) is None
    assert await store.finish(run, [], DONE, "New")
    assert await store.run(ANN, run.id) is not None


async def test_a_run_that_never_had_the_floor_begins_as_it_ends(store: Store) -> None:
    before = await chat(store, "Old", "Old answer", title="Old")
    run = a_run()
    await store.accept(run, begin=None)
    begin = Begin(messages=(UserMessage("New"),), reset=True)
    assert await store.finish(run, [], DONE, None, begin)
    assert await texts(store) == ["New"]
    assert await store.run(ANN, before.id) is None
    found = await store.run(ANN, run.id)
    assert found is not None
    assert found.status == "completed"


async def test_of_its_request_stays_what_a_run_has_as_it_ends(store: Store) -> None:
    run = a_run()
    await store.accept(run, begin=says("Hi"))
    await store.finish(msgspec.structs.replace(run, request="little"), [], DONE)
    found = await store.run(ANN, run.id)
    assert found is not None
    assert found.request == "little"


async def test_answers_that_a_client_brings_are_no_runs(store: Store) -> None:
    run = a_run()
    begin = Begin(messages=(UserMessage("Hi"), CALL, RESULT, UserMessage("And?")))
    await store.accept(run, begin=begin)
    assert await store.run_messages(run) == [UserMessage("Hi"), UserMessage("And?")]
    assert await store.context(ANN, "conv", None) == [*begin.messages]


async def test_a_run_may_make_the_last_answer_anew(store: Store) -> None:
    await chat(store, "One", "First")
    await chat(store, "Two", "Second")
    run = a_run(replaces=True)
    await store.accept(run, begin=Begin())
    await store.save_turn(run, [], CALL)
    assert await texts(store) == ["One", "First", "Two", "Second"]
    await store.save_turn(run, [CALL, RESULT], None)
    assert await texts(store) == ["One", "First", "Two", CALL.content, RESULT.content]
    await store.finish(run, [AssistantMessage("Better")], DONE)
    assert (await texts(store))[3:] == [CALL.content, RESULT.content, "Better"]
    assert await store.run_messages(run) == [CALL, RESULT, AssistantMessage("Better")]


async def test_an_answer_that_a_client_brought_is_answered_anew(store: Store) -> None:
    first, again = a_run(), a_run(replaces=True)
    brought = (UserMessage("Hi"), AssistantMessage("What my client said."))
    await store.accept(first, begin=Begin(messages=brought))
    await store.finish(first, [], DONE)
    await store.accept(again, begin=Begin())
    await store.finish(again, [AssistantMessage("Hello.")], DONE)
    assert await texts(store) == ["Hi", "Hello."]


async def test_an_attempt_to_answer_anew_that_says_nothing_takes_nothing_away(store: Store) -> None:
    await chat(store, "One", "First")
    run = a_run(replaces=True)
    await store.accept(run, begin=Begin())
    await store.finish(run, [], RunError(code="no", message="No.", retryable=True))
    assert await texts(store) == ["One", "First"]


async def test_to_answer_anew_where_no_user_spoke_deletes_nothing(store: Store) -> None:
    first, again = a_run(), a_run(replaces=True)
    await store.accept(first, begin=None)
    await store.finish(first, [AssistantMessage("Welcome.")], DONE)
    await store.accept(again, begin=Begin())
    await store.finish(again, [AssistantMessage("Hello.")], DONE)
    assert await texts(store) == ["Welcome.", "Hello."]


async def test_a_deleted_conversation_does_not_come_back_with_its_run(store: Store) -> None:
    run, queued = a_run(), a_run()
    await store.accept(run, begin=says("Hi"))
    await store.accept(queued, begin=None)
    assert await store.delete(ANN, "conv")
    assert await store.save_turn(run, [CALL, RESULT], None)
    assert await store.finish(run, [AssistantMessage("Hello.")], DONE)
    assert await store.begin(queued, says("Again"))
    assert await store.conversation(ANN, "conv") is None
    assert await texts(store) == []
    found = await store.run(ANN, run.id)
    assert found is not None
    assert found.status == "completed"


async def test_old_runs_expire_and_unfinished_ones_stay(store: Store) -> None:
    done = await chat(store, "Hi", "Hello.")
    waiting = a_run("waiting")
    await store.accept(waiting, begin=None)
    assert await store.expire(runs_older_than=60) == (0, 0)
    assert await store.run(ANN, done.id) is not None
    assert await store.expire(runs_older_than=-60) == (1, 0)
    assert await store.run(ANN, done.id) is None
    assert await store.run(ANN, waiting.id) is not None
    assert await texts(store) == ["Hi", "Hello."]


async def test_an_ephemeral_conversation_goes_with_its_last_run(store: Store) -> None:
    await chat(store, "Hi", "Hello.", ephemeral=True)
    last = a_run()
    await store.accept(last, begin=says("And?"), entry=Entry(ephemeral=True))
    assert await store.expire(runs_older_than=-60) == (1, 0)
    assert await texts(store) == ["Hi", "Hello.", "And?"]
    await store.finish(last, [], DONE)
    assert await store.expire(runs_older_than=60) == (0, 0)
    assert await store.expire(runs_older_than=-60) == (1, 1)
    assert await texts(store) == []


async def test_an_ephemeral_conversation_that_is_used_for_good_stays(store: Store) -> None:
    await chat(store, "Hi", "Hello.", ephemeral=True)
    await chat(store, "Stay", "Yes.")
    await chat(store, "Again", "Yes.", ephemeral=True)
    assert await store.expire(runs_older_than=-60) == (3, 0)
    assert [each.id for each in (await store.conversations(ANN, limit=9))[0]] == ["conv"]


async def test_old_conversations_expire_when_told_to_but_none_with_a_run(store: Store) -> None:
    await chat(store, "Hi", "Hello.", conversation_id="old")
    await store.accept(a_run("busy"), begin=says("Hi"))
    assert await store.expire(runs_older_than=60, conversations_older_than=60) == (0, 0)
    assert await store.expire(runs_older_than=60, conversations_older_than=-60) == (0, 1)
    assert [each.id for each in (await store.conversations(ANN, limit=9))[0]] == ["busy"]


async def test_more_than_a_batch_expires(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "BATCH", 2)
    for number in range(5):
        await chat(store, "Hi", "Hello.", conversation_id=f"conv_{number}", ephemeral=True)
    assert await store.expire(runs_older_than=-60) == (5, 5)


async def test_agents_are_kept_by_name(store: Store) -> None:
    await store.put_agent(ANN, "b", "{}", built_in=(), limit=9)
    await store.put_agent(ANN, "a", "{}", built_in=(), limit=9)
    await store.put_agent(ANN, "b", '{"model": "demo"}', built_in=(), limit=9)
    demo = '{"model": "demo"}'
    assert await store.agents() == [("acme", "a", "{}"), ("acme", "b", demo)]
    assert await store.delete_agent(ANN, "a")
    assert not await store.delete_agent(ANN, "a")
    assert await store.agents() == [("acme", "b", demo)]


async def test_a_store_that_works_answers_and_one_that_cannot_read_does_not(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.ping()

    async def fails(*_: object) -> None:
        raise StorageUnavailable("No disk.", retry_after=1)

    monkeypatch.setattr(store._db, "read", fails)
    with pytest.raises(StorageUnavailable):
        await store.ping()


async def test_what_is_old_goes_for_a_while_at_a_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "BATCH", 2)
    for number in range(5):
        await chat(store, "Hi", "Hello.", conversation_id=f"conv_{number}", ephemeral=True)
    for gone in ((2, 2), (2, 2), (1, 1), (0, 0)):
        assert await store.expire(runs_older_than=-60, within=0) == gone
