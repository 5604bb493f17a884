"""What a model gets to see of a conversation, and its title."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import ReasoningBlock
from messages import AssistantMessage, Message, ToolCall, ToolMessage, UserMessage
from runs.context import exchanges, title_of, tokens_of, up_to_user, window
from tests.logs import unhurried

MANY = 100_000


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


def spoken(messages: Sequence[Message]) -> int:
    """Count what is neither a call nor its result."""
    return sum(
        not isinstance(message, ToolMessage)
        and not (isinstance(message, AssistantMessage) and message.tool_calls)
        for message in messages
    )


@unhurried
@given(histories, st.integers(1, 30))
def test_a_model_sees_the_newest_exchanges_whole(messages: list[Message], limit: int) -> None:
    seen = window(messages, limit, MANY)
    check_whole(seen)
    assert seen == tuple(messages[len(messages) - len(seen) :])
    if not messages:
        assert seen == ()
        return
    assert isinstance(seen[0], UserMessage)
    assert spoken(seen) <= limit or len(exchanges(seen)) == 1
    earlier = exchanges(messages[: len(messages) - len(seen)])
    assert not earlier or spoken(seen) + spoken(earlier[-1]) > limit


def test_a_history_without_a_question_shows_nothing() -> None:
    assert window([AssistantMessage("left over")], 5, MANY) == ()


def test_messages_before_the_first_question_are_not_shown() -> None:
    assert window([AssistantMessage("left over"), *turn(1)], 5, MANY) == tuple(turn(1))


@pytest.mark.parametrize(("limit", "turns"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3)])
@pytest.mark.parametrize("calls", [0, 20])
def test_an_exchange_counts_its_question_and_its_answer(limit: int, turns: int, calls: int) -> None:
    messages = [*turn(1, calls), *turn(2, calls), *turn(3, calls)]
    assert len(exchanges(window(messages, limit, MANY))) == turns


def test_twenty_calls_do_not_push_out_their_own_question_and_answer() -> None:
    messages = [*turn(1, calls=20), UserMessage("And?")]
    assert window(messages, 20, MANY) == tuple(messages)


def bulky(number: int, size: int = 8000) -> list[Message]:
    id = f"c{number}"
    return [
        UserMessage(f"question {number}"),
        AssistantMessage("", (ToolCall(id, "read", "{}"),)),
        ToolMessage(id, "read", str(number) * size),
        AssistantMessage(f"answer {number}"),
    ]


def results(messages: Sequence[Message]) -> list[str]:
    return [message.content for message in messages if isinstance(message, ToolMessage)]


def test_the_bulk_of_old_results_is_cut_before_an_exchange_is_left_out() -> None:
    messages = [*bulky(1), *bulky(2), *bulky(3), UserMessage("And?")]
    seen = window(messages, 20, 3000)  # one result has 2000 tokens
    assert [type(each) for each in seen] == [type(each) for each in messages]
    mark = "… [7500 more characters were cut]"
    assert results(seen) == ["1" * 500 + mark, "2" * 500 + mark, "3" * 8000]
    check_whole(seen)
    assert sum(map(tokens_of, seen)) <= 3000


def test_a_small_result_stays_whole_beside_one_that_is_cut() -> None:
    messages = [*bulky(1, 100), *bulky(2), *bulky(3, 500), UserMessage("And?")]
    one, two, three = results(window(messages, 20, 1000))
    assert (one, three) == ("1" * 100, "3" * 500)
    assert two.startswith("2" * 500 + "… [")


def test_what_fits_is_not_cut() -> None:
    messages = [*bulky(1), *bulky(2), UserMessage("And?")]
    size = sum(map(tokens_of, messages))
    assert window(messages, 20, size) == tuple(messages)
    assert window(messages, 20, size - 1) != tuple(messages)


def test_the_last_exchange_is_shown_however_large_it_is() -> None:
    seen = window([*turn(1), *bulky(2)], 20, 100)
    assert seen[0] == UserMessage("question 2")
    assert len(results(seen)[0]) < 600


@unhurried
@given(histories, st.integers(1, 30), st.integers(1, 300))
def test_what_a_model_sees_stays_within_its_tokens_or_is_one_exchange(
    messages: list[Message], limit: int, tokens: int
) -> None:
    seen = window(messages, limit, tokens)
    check_whole(seen)
    assert sum(map(tokens_of, seen)) <= tokens or len(exchanges(seen)) == 1
    assert len(seen) <= len(window(messages, limit, tokens + 100))


def test_reasoning_that_goes_back_takes_tokens() -> None:
    block = ReasoningBlock("p", "x" * 400)
    assert tokens_of(AssistantMessage("", (), (block,))) == 104


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


def test_an_answer_is_made_anew_from_what_was_said_up_to_the_last_question() -> None:
    before, after = [*turn(1, calls=2), UserMessage("again")], turn(3, calls=1)[1:]
    assert up_to_user([*before, *after]) == before
    assert up_to_user(before) == before
    assert up_to_user(after) == []
    assert up_to_user([]) == []
