"""Conversations: who has the floor, what is kept, and what a model gets to see."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import StreamingAgent
from conversations import KEPT_BYTES, KEPT_MESSAGES, Conversation, Conversations, Run, Work, context
from errors import Unavailable
from events import ChatComplete, RunError, Usage
from models import (
    AgentConfig,
    AssistantMessage,
    ChatRequest,
    Message,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from tests.logs import DONE, FAILED, START, unhurried
from tests.scripted import ScriptedProvider
from tools.workers import Workers


def make_run(conversation: Conversation, name: str = "run_1") -> Run:
    agent = StreamingAgent("chat", AgentConfig(), ScriptedProvider(), (), Workers(1))
    work = Work(ChatRequest(message="Hi."), agent, conversation)
    return Run(name, None, START, work)


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
    seen = context(messages, limit)
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
    assert context([AssistantMessage("left over")], 5) == ()


def test_messages_before_the_first_question_are_not_shown() -> None:
    assert context([AssistantMessage("left over"), *turn(1)], 5) == tuple(turn(1))


@pytest.mark.parametrize(("limit", "turns"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3)])
def test_whole_turns_are_shown_and_at_least_the_last(limit: int, turns: int) -> None:
    messages = [*turn(1), *turn(2), *turn(3)]
    assert len(context(messages, limit)) == 2 * turns


def test_a_turn_that_is_longer_than_the_limit_is_shown_whole() -> None:
    assert context([*turn(1), *turn(2, calls=10)], 3) == tuple(turn(2, calls=10))


@unhurried
@given(st.lists(histories, max_size=4))
def test_what_is_kept_is_bounded_and_whole(parts: list[list[Message]]) -> None:
    conversation = Conversation("conv_1")
    for number in range(KEPT_MESSAGES // 4):
        conversation.keep(turn(number, calls=1))
    for part in parts:
        conversation.keep(part)
        assert len(conversation.messages) <= KEPT_MESSAGES
        assert isinstance(conversation.messages[0], UserMessage)
        check_whole(conversation.messages)
    added = [message for part in parts for message in part]
    assert conversation.messages[len(conversation.messages) - len(added) :] == added


async def test_the_first_run_has_the_floor_and_the_others_get_it_in_turn() -> None:
    conversation = Conversation("conv_1")
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
    conversation = Conversation("conv_1")
    runs = [make_run(conversation, name) for name in "abc"]
    for run in runs:
        conversation.enter(run)
    conversation.leave(runs[1])
    assert list(conversation.runs) == [runs[0], runs[2]]
    assert not has_floor(runs[2])
    conversation.leave(runs[0])
    assert has_floor(runs[2])


def test_a_conversation_is_found_again() -> None:
    conversations = Conversations(10)
    first = conversations.get_or_create("a")
    assert conversations.get_or_create("a") is first
    assert conversations.get_or_create("b") is not first
    new = conversations.get_or_create(None)
    assert conversations.get_or_create(new.id) is new
    assert conversations.get_or_create(None) is not new


def test_the_conversation_unused_for_the_longest_time_is_forgotten_first() -> None:
    conversations = Conversations(2)
    a, b = conversations.get_or_create("a"), conversations.get_or_create("b")
    assert conversations.get_or_create("a") is a
    conversations.get_or_create("c")
    assert conversations.get_or_create("a") is a
    assert conversations.get_or_create("b") is not b


async def test_a_conversation_with_a_run_is_never_forgotten() -> None:
    conversations = Conversations(2)
    a, b = conversations.get_or_create("a"), conversations.get_or_create("b")
    runs = make_run(a), make_run(b)
    a.enter(runs[0])
    conversations.get_or_create("c")
    assert conversations.get_or_create("a") is a
    c = conversations.get_or_create("c")
    c.enter(make_run(c))
    with pytest.raises(Unavailable) as caught:
        conversations.get_or_create("d")
    assert caught.value.retryable
    assert conversations.get_or_create("a") is a
    a.leave(runs[0])
    conversations.get_or_create("d")
    assert conversations.get_or_create("c") is c


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
    run = make_run(Conversation("conv_1"))
    run.terminal = terminal
    info = run.info()
    assert run.status == info.status == status
    assert (info.finish_reason is None) is not isinstance(terminal, ChatComplete)
    assert (info.error is None) is not isinstance(terminal, RunError)


async def test_a_run_tells_its_answer_its_usage_or_its_failure() -> None:
    run = make_run(Conversation("conv_1"))
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


def test_a_long_conversation_is_bounded_in_bytes_and_loses_whole_turns() -> None:
    conversation = Conversation("c")
    for number in range(400):
        conversation.keep([UserMessage(f"{number}" + "x" * 10_000), AssistantMessage("yes")])
        assert conversation.size <= KEPT_BYTES
    assert isinstance(conversation.messages[0], UserMessage)
    assert conversation.messages[-1] == AssistantMessage("yes")
    newest = conversation.messages[-2]
    assert isinstance(newest, UserMessage)
    assert newest.content.startswith("399x")


def test_the_oldest_idle_conversations_go_where_all_are_too_large() -> None:
    conversations = Conversations(100, max_bytes=50_000)
    for number in range(10):
        conversation = conversations.get_or_create(f"c{number}")
        conversation.keep([UserMessage("x" * 10_000)])
        conversations.count(conversation)
    assert conversations.get_or_create("c9").messages
    assert conversations.get_or_create("c6").messages
    assert not conversations.get_or_create("c0").messages
