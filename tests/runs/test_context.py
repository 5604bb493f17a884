"""Conversations: who has the floor, what is kept, and what a model gets to see."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import StreamingAgent
from caller import Caller
from events import ChatComplete, RunError, Usage
from messages import AssistantMessage, Message, ToolCall, ToolMessage, UserMessage
from models import AgentConfig, ChatRequest
from runs.context import title_of, tokens_of, window
from runs.run import Queue, Queues, Run, Work
from storage import Begin, StoredRun
from tests.logs import DONE, FAILED, START, unhurried
from tests.scripted import ScriptedProvider
from tools.workers import Workers

MANY = 100_000


def make_queue() -> Queue:
    return Queue(Caller("open", "default"), "conv_1")


def make_run(queue: Queue, name: str = "run_1") -> Run:
    agent = StreamingAgent("chat", AgentConfig(), ScriptedProvider(), (), Workers(1))
    work = Work(ChatRequest(message="Hi."), agent, queue, Begin())
    stored = StoredRun(
        id=name,
        owner=queue.owner,
        conversation_id=queue.conversation_id,
        agent="chat",
        request="{}",
        start=START,
        status="queued",
        created_at=datetime.now(UTC),
    )
    return Run(stored, work)


def has_floor(run: Run) -> bool:
    assert run.work is not None
    return run.work.floor.is_set()


def turn(number: int, calls: int = 0, said: bool = True) -> list[Message]:
    """Return what a run leaves: a question, its calls with their results, an answer."""
    ids = [f"c{number}_{at}" for at in range(calls)]
    asked = tuple(ToolCall(id, "add", "{}") for id in ids)
    results = [ToolMessage(id, "add", "3") for id in ids]
    called: list[Message] = [AssistantMessage("", asked), *results] if calls else []
    answer: list[Message] = [AssistantMessage(f"answer {number}")] if said else []
    return [UserMessage(f"question {number}"), *called, *answer]


histories = st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=12).map(
    lambda turns: [
        message for at, (calls, said) in enumerate(turns) for message in turn(at, calls, said)
    ]
)


def check_whole(messages: Sequence[Message]) -> None:
    """Each call is followed by its result, and each result follows its call."""
    due: list[str] = []
    for message in messages:
        if isinstance(message, ToolMessage):
            assert message.tool_call_id == due.pop(0)
        else:
            assert due == []
            if isinstance(message, AssistantMessage):
                due = [call.id for call in message.tool_calls]
    assert due == []


@unhurried
@given(histories, st.integers(1, 30))
def test_a_model_sees_the_newest_messages_and_never_a_call_without_its_result(
    messages: list[Message], limit: int
) -> None:
    seen = window(messages, limit, MANY)
    check_whole(seen)
    assert seen == tuple(messages[len(messages) - len(seen) :])
    if not messages:
        assert seen == ()
        return
    assert isinstance(seen[0], UserMessage)
    users = [message for message in seen if isinstance(message, UserMessage)]
    assert len(seen) <= limit or len(users) == 1
    earlier = messages[: len(messages) - len(seen)]
    starts = [at for at, message in enumerate(earlier) if isinstance(message, UserMessage)]
    if starts:
        assert len(messages) - starts[-1] > limit


def test_a_history_without_a_question_shows_nothing() -> None:
    assert window([AssistantMessage("left over")], 5, MANY) == ()


def test_messages_before_the_first_question_are_not_shown() -> None:
    assert window([AssistantMessage("left over"), *turn(1)], 5, MANY) == tuple(turn(1))


@pytest.mark.parametrize(("limit", "turns"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3)])
def test_whole_turns_are_shown_and_at_least_the_last(limit: int, turns: int) -> None:
    messages = [*turn(1), *turn(2), *turn(3)]
    assert len(window(messages, limit, MANY)) == 2 * turns


def test_a_turn_that_is_longer_than_the_limit_is_shown_whole() -> None:
    assert window([*turn(1), *turn(2, calls=10)], 3, MANY) == tuple(turn(2, calls=10))


async def test_the_first_run_has_the_floor_and_the_others_get_it_in_turn() -> None:
    conversation = make_queue()
    runs = [make_run(conversation, name) for name in "abc"]
    for run in runs:
        conversation.enter(run)
    assert [has_floor(run) for run in runs] == [True, False, False]
    conversation.leave(runs[0])
    assert [has_floor(run) for run in runs] == [True, True, False]
    conversation.leave(runs[1])
    conversation.leave(runs[2])
    assert not conversation.runs
    late = make_run(conversation, "d")
    conversation.enter(late)
    assert has_floor(late)


async def test_a_run_that_gives_up_waiting_does_not_give_away_the_floor() -> None:
    conversation = make_queue()
    runs = [make_run(conversation, name) for name in "abc"]
    for run in runs:
        conversation.enter(run)
    conversation.leave(runs[1])
    assert list(conversation.runs) == [runs[0], runs[2]]
    assert not has_floor(runs[2])
    conversation.leave(runs[0])
    assert has_floor(runs[2])


def test_a_conversation_is_there_while_it_has_runs() -> None:
    queues, owner = Queues(), Caller("open", "default")
    queue = queues.of(owner, "a")
    run = make_run(queue)
    queues.enter(queue, run)
    assert queues.of(owner, "a") is queue
    for other in ((owner, "b"), (Caller("open", "else"), "a"), (Caller("else", "default"), "a")):
        assert queues.of(*other) is not queue
    queues.leave(queue, run)
    assert queues.of(owner, "a") is not queue


@unhurried
@given(histories, st.integers(1, 30), st.integers(1, 300))
def test_what_a_model_sees_stays_within_its_tokens_or_is_one_turn(
    messages: list[Message], limit: int, tokens: int
) -> None:
    seen = window(messages, limit, tokens)
    check_whole(seen)
    users = [message for message in seen if isinstance(message, UserMessage)]
    assert sum(map(tokens_of, seen)) <= tokens or len(users) == 1
    assert set(seen) <= set(window(messages, limit, tokens + 100))


def test_a_message_takes_about_a_token_for_four_bytes() -> None:
    assert tokens_of(UserMessage("x" * 400)) == 104
    assert tokens_of(UserMessage("é" * 400)) == 204
    call = AssistantMessage("", (ToolCall("c1", "add", "x" * 397),))
    assert tokens_of(call) == 104


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("What's the weather in Tokyo?", "What's the weather in Tokyo?"),
        ("Hello there, Ada. How are you?", "Hello there, Ada"),
        ("Hello there. How are you?", "Hello there. How are you?"),
        ("Hi! Can you help me with my taxes? Soon?", "Hi! Can you help me with my taxes?"),
        ("Dr. Smith said hi", "Dr. Smith said hi"),
        ("Yesterday I met Dr. Smith. Why?", "Yesterday I met Dr. Smith"),
        ("1. first thing", "1. first thing"),
        ("  A\n\ttitle  of two\nlines ", "A title of two lines"),
        ("word " * 30, "word word word word word word word word word word word word…"),
        ("x" * 100, "x" * 60 + "…"),
        ("?", "?"),
        (".", "."),
        (" \n\t", None),
        ("你好" * 5, "你好" * 5),
    ],
)
def test_a_title_is_the_first_sentence_or_its_beginning(text: str, title: str | None) -> None:
    assert title_of(text) == title


@pytest.mark.parametrize(
    ("terminal", "status"),
    [
        (None, "queued"),
        (DONE, "completed"),
        (FAILED, "failed"),
        (ChatComplete(final_response="", finish_reason="cancelled", usage=None), "cancelled"),
        (ChatComplete(final_response="", finish_reason="max_turns", usage=None), "completed"),
    ],
)
async def test_the_status_of_a_run_follows_from_its_end(terminal: Any, status: str) -> None:
    run = make_run(make_queue())
    run.terminal = terminal
    info = run.info()
    assert run.status == info.status == status
    assert (info.finish_reason is None) is not isinstance(terminal, ChatComplete)
    assert (info.error is None) is not isinstance(terminal, RunError)


async def test_a_run_tells_its_answer_its_usage_or_its_failure() -> None:
    run = make_run(make_queue())
    run.terminal = ChatComplete(final_response="42", finish_reason="stop", usage=Usage(1, 2, 3))
    done = run.info().model_dump()
    assert (done["final_response"], done["finish_reason"]) == ("42", "stop")
    assert done["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    run.terminal = FAILED
    assert run.info().model_dump()["error"] == {
        "code": "upstream_error",
        "message": "It broke.",
        "retryable": True,
    }


def test_what_fits_exactly_is_shown() -> None:
    messages: list[Message] = [UserMessage("one"), AssistantMessage("two"), UserMessage("three")]
    size = sum(map(tokens_of, messages))
    assert window(messages, 3, size) == tuple(messages)
    assert window(messages, 3, size - 1) == tuple(messages[2:])


def test_a_text_with_half_a_character_has_a_size() -> None:
    assert tokens_of(AssistantMessage("abc\ud800")) == 5


@pytest.mark.parametrize("mark", [",", ";", ":", " -"])
def test_a_title_is_cut_before_a_mark(mark: str) -> None:
    first = "a" * 50
    title = title_of(f"{first}{mark} {'b' * 50}")
    assert title is not None
    assert title.rstrip("…").rstrip() == first
