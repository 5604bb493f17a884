import asyncio
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo import DemoProvider
from demo.wishes import ARGUMENTS
from memory import Memory
from memory.prompt import as_data
from messages import (
    AssistantMessage,
    EndPart,
    Message,
    ModelOptions,
    ModelRequest,
    ReplyPart,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolCallPart,
    ToolMessage,
    ToolSpec,
    UserMessage,
)
from tools.calculate import Calculation
from tools.clock import LocalTime
from tools.search import SearchResult, SearchResults
from tools.stocks import StockPrice
from tools.weather import CurrentWeather

FIVE = tuple(ARGUMENTS)


def request(
    *messages: Message | str, tools: Sequence[str] = FIVE, max_tokens: int | None = None
) -> ModelRequest:
    """A question; a string is a user's message."""
    return ModelRequest(
        model="demo",
        messages=tuple(UserMessage(m) if isinstance(m, str) else m for m in messages),
        tools=tuple(ToolSpec(name, "", {"type": "object"}) for name in tools),
        options=ModelOptions(max_tokens=max_tokens),
    )


async def parts_of(question: ModelRequest) -> list[ReplyPart]:
    async with asyncio.timeout(10):
        return [part async for batch in DemoProvider(0).stream(question) for part in batch]


def text_of(parts: Sequence[ReplyPart]) -> str:
    return "".join(part.content for part in parts if isinstance(part, TextPart))


def calls_of(parts: Sequence[ReplyPart]) -> list[ToolCall]:
    return [part.call for part in parts if isinstance(part, ToolCallPart)]


async def answer(*messages: Message | str, tools: Sequence[str] = FIVE) -> str:
    return text_of(await parts_of(request(*messages, tools=tools)))


def assert_well_formed(parts: Sequence[ReplyPart]) -> None:
    *others, end = parts
    assert isinstance(end, EndPart)
    assert end.usage is None
    assert others
    if end.finish_reason == "tool_calls":
        assert all(isinstance(part, ToolCallPart) for part in others)
        for call in calls_of(others):
            arguments = json.loads(call.arguments)
            assert list(arguments) == [ARGUMENTS[call.name]]
            assert isinstance(arguments[ARGUMENTS[call.name]], str)
    else:
        assert end.finish_reason == "stop"
        assert all(isinstance(part, TextPart) and part.content for part in others)
        assert text_of(others).strip()


# Calls.


async def test_two_asks_in_one_message_make_two_calls_at_once() -> None:
    parts = await parts_of(request("What's the weather in Tokyo and what's 15 + 27?"))
    assert [(call.name, json.loads(call.arguments)) for call in calls_of(parts)] == [
        ("get_weather", {"city": "Tokyo"}),
        ("calculate", {"expression": "15 + 27"}),
    ]
    assert parts[-1] == EndPart("tool_calls")
    assert len({call.id for call in calls_of(parts)}) == 2


async def test_a_tool_that_the_agent_lacks_is_not_called() -> None:
    parts = await parts_of(request("weather in Oslo", tools=["calculate"]))
    assert calls_of(parts) == []
    assert "does not have the tool `get_weather`" in text_of(parts)


async def test_what_the_agent_has_is_called_and_what_it_lacks_is_told_with_the_results() -> None:
    question = "weather in Oslo and 2+2"
    [call] = calls_of(await parts_of(request(question, tools=["calculate"])))
    result = ToolMessage(call.id, "calculate", '{"expression": "2 + 2", "result": 4}')
    text = await answer(question, AssistantMessage("", (call,)), result, tools=["calculate"])
    assert "2 + 2 = **4**" in text
    assert "does not have the tool `get_weather`" in text


async def test_a_wish_without_its_object_is_asked_back_and_the_bare_answer_is_understood() -> None:
    asked = await answer("how's the weather?")
    assert "Which city" in asked
    parts = await parts_of(request("how's the weather?", AssistantMessage(asked), "tokyo"))
    assert [json.loads(call.arguments) for call in calls_of(parts)] == [{"city": "tokyo"}]


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('call roll_dice with {"sides": 6}', {"sides": 6}),
        ('use the tool `roll_dice`: {"sides": {"n": 6}} please', {"sides": {"n": 6}}),
        ("run roll_dice", {}),
        ("call roll_dice with {}", {}),
    ],
)
async def test_any_tool_can_be_called_by_its_name(text: str, arguments: object) -> None:
    [call] = calls_of(await parts_of(request(text, tools=["roll_dice"])))
    assert (call.name, json.loads(call.arguments)) == ("roll_dice", arguments)


# Results.

RESULTS: dict[str, tuple[object, str]] = {
    "get_weather": (
        CurrentWeather(
            city="Tokyo",
            region=None,
            country="Japan",
            latitude=35.7,
            longitude=139.7,
            condition="Clear sky",
            temperature_c=21.5,
            feels_like_c=20.0,
            humidity_percent=40.0,
            wind_kmh=7.2,
            observed_at="2026-01-01T12:00",
            timezone="Asia/Tokyo",
        ),
        "The weather in **Tokyo, Japan**: clear sky, 21.5 °C; feels like 20 °C; humidity 40%;"
        " wind 7.2 km/h.",
    ),
    "calculate": (Calculation("2 * 3", 6.0), "2 × 3 = **6**"),
    "get_time": (
        LocalTime("America/New_York", "", "-05:00", "Monday", "Monday, 09:00 EST"),
        "In **New York** it is Monday, 09:00 EST (UTC-05:00).",
    ),
    "search_web": (
        SearchResults("x", "e", (SearchResult("T", "https://a.b", "S"),)),
        "I searched the web for “x” and found:\n1. [T](https://a.b): S",
    ),
    "get_stock_price": (
        StockPrice("AAPL", "Apple Inc.", 1234.5, "USD", None, None, None, -1.234, ""),
        "**Apple Inc. (AAPL)** is at 1,234.50 USD, -1.23% since the previous close.",
    ),
    "roll_dice": ('{"value": 3}', '`roll_dice` answered:\n\n```json\n{"value": 3}\n```'),
    "plain": ("not JSON", "`plain` answered: not JSON"),
}


@pytest.mark.parametrize("tool", RESULTS)
async def test_a_result_becomes_a_sentence(tool: str) -> None:
    result, expected = RESULTS[tool]
    content = result if isinstance(result, str) else msgspec.json.encode(result).decode()
    call = ToolCall("1", tool, "{}")
    assert (
        await answer("x", AssistantMessage("", (call,)), ToolMessage("1", tool, content))
        == expected
    )


@pytest.mark.parametrize(
    ("tool", "result", "expected"),
    [
        ("search_web", SearchResults("x", "e", ()), "The search for “x” found nothing."),
        (
            "get_stock_price",
            StockPrice("X", None, 5.0, "USD", None, 5.0, 0.0, 0.0, ""),
            "**X** is at 5.00 USD, +0.00% since the previous close.",
        ),
        (
            "get_stock_price",
            StockPrice("X", None, 5.0, None, None, None, None, None, ""),
            "**X** is at 5.00.",
        ),
        (
            "calculate",
            Calculation("2^100", "1267650600228229401496703205376"),
            "2^100 = **1267650600228229401496703205376**",
        ),
        (
            "get_time",
            LocalTime("UTC", "", "+00:00", "Monday", "Monday, 09:00 UTC"),
            "In **UTC** it is Monday, 09:00 UTC.",
        ),
    ],
)
async def test_a_result_that_lacks_something_says_what_is_known(
    tool: str, result: object, expected: str
) -> None:
    content = msgspec.json.encode(result).decode()
    assert await answer("x", ToolMessage("1", tool, content)) == expected


@pytest.mark.parametrize("tool", FIVE)
@pytest.mark.parametrize("content", ["{}", '{"city": 5}', "[]", "null", "", "[" * 100_000, '"x"'])
async def test_a_result_of_an_unknown_shape_is_shown_as_it_is(tool: str, content: str) -> None:
    assert_well_formed(await parts_of(request("x", ToolMessage("1", tool, content))))


async def test_a_failure_is_told_in_its_own_words() -> None:
    call = ToolCall("1", "get_weather", '{"city": "Tokyo"}')
    failed = ToolMessage("1", "get_weather", "Error: timed out after 30 s.", is_error=True)
    text = await answer("weather in Tokyo", AssistantMessage("", (call,)), failed)
    assert text == "I could not get the weather for Tokyo: timed out after 30 s."


async def test_several_results_are_a_list_in_their_order() -> None:
    calls = tuple(ToolCall(tool, tool, "{}") for tool in ("calculate", "plain"))
    product = '{"expression": "2 * 3", "result": 6.0}'
    results = [
        ToolMessage("calculate", "calculate", product),
        ToolMessage("plain", "plain", "not JSON"),
    ]
    text = await answer("x", AssistantMessage("", calls), *results)
    assert text == "- 2 × 3 = **6**\n- `plain` answered: not JSON"


async def test_only_the_results_since_the_last_calls_are_phrased() -> None:
    old = ToolMessage("1", "calculate", '{"expression": "1 + 1", "result": 2}')
    new = ToolMessage("2", "calculate", '{"expression": "2 + 2", "result": 4}')
    history = (
        "1 + 1",
        AssistantMessage("", (ToolCall("1", "calculate", "{}"),)),
        old,
        AssistantMessage("2"),
        "2 + 2",
        AssistantMessage("", (ToolCall("2", "calculate", "{}"),)),
    )
    assert await answer(*history, new) == "2 + 2 = **4**"


# The conversation.

SARAH = (
    "Hi! My name is Sarah and I work as a software engineer",
    AssistantMessage("Nice to meet you."),
    "I love Italian food",
    AssistantMessage("Noted."),
    "I live in Oslo, and my favourite team is Brann.",
)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("what's my name?", "Your name is Sarah."),
        ("Do you remember my name?", "Your name is Sarah."),
        ("what kind of work do I do?", "You work as a software engineer."),
        (
            "What's my job and what's my name?",
            "Your name is Sarah. You work as a software engineer.",
        ),
        ("what do I like?", "You love Italian food. Your favourite team is Brann."),
        ("where do I live?", "You live in Oslo."),
        ("what's my favorite team", "Your favourite team is Brann."),
        ("what's my shoe size?", "You haven't told me your shoe size, as far back as I see."),
        (
            "what did I say first?",
            "The first thing you said, as far back as I can see: "
            "“Hi! My name is Sarah and I work as a software engineer”",
        ),
        (
            "what was my last question?",
            "Before this, you said: “I live in Oslo, and my favourite team is Brann.”",
        ),
        ("repeat that", "Noted."),
    ],
)
async def test_a_question_about_the_conversation_is_answered_from_it(
    question: str, expected: str
) -> None:
    assert await answer(*SARAH, question) == expected


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("what's my name?", "You haven't told me your name, as far back as I see."),
        ("what do I do for work?", "You haven't told me that, as far back as I see."),
        ("what do I like?", "You haven't told me that, as far back as I see."),
        ("where do I live?", "You haven't told me that, as far back as I see."),
        (
            "what do you know about me?",
            "You haven't told me anything of yourself, as far back as I see.",
        ),
        ("what did I say first?", "This is your first message as far as I can see."),
        ("repeat that", "I have not said anything yet."),
    ],
)
async def test_what_was_never_said_is_not_made_up(question: str, expected: str) -> None:
    assert await answer(question) == expected


async def test_all_that_was_said_is_told_back() -> None:
    text = await answer(*SARAH, "what do you know about me?")
    assert text.splitlines()[2:] == [
        "- Your name is Sarah.",
        "- You work as a software engineer.",
        "- You love Italian food.",
        "- You live in Oslo.",
        "- Your favourite team is Brann.",
    ]


@pytest.mark.parametrize(
    "text", ["What can I do with my code?", "Give me some tips for my field", "I'm bored"]
)
async def test_what_is_no_question_about_the_user_is_not_taken_for_one(text: str) -> None:
    assert "as far back" not in await answer(*SARAH, text)


async def test_the_newest_name_counts() -> None:
    assert await answer("I'm Tom", "Call me Al", "what's my name?") == "Your name is Al."


async def test_a_nationality_is_not_a_name() -> None:
    assert (
        await answer("I'm German", "what's my name?")
        == "You haven't told me your name, as far back as I see."
    )


async def test_a_question_is_not_a_statement() -> None:
    text = await answer("My name is Bob?", "what's my name?")
    assert text == "You haven't told me your name, as far back as I see."


async def test_long_term_memories_count_as_said() -> None:
    when = datetime(2026, 1, 1, tzinfo=UTC)
    texts = ["Hello! I love cooking Italian food.", 'My name is "Sarah".']
    block = as_data([Memory(id="m", text=t, created_at=when, updated_at=when) for t in texts])
    system = SystemMessage(f"Be kind.\n\n{block}")
    assert await answer(system, "what do I like?") == "You love cooking Italian food."
    assert "Sarah" in await answer(system, "what's my name?")
    broken = SystemMessage('These are remembered:\n"My name is Sarah')
    assert "Sarah" not in await answer(broken, "what's my name?")


async def test_facts_in_the_system_prompt_count_as_said() -> None:
    system = SystemMessage("Be kind.\nWhat you remember of the user:\n- My name is Sarah\n")
    assert await answer(system, "what's my name?") == "Your name is Sarah."


async def test_a_statement_is_acknowledged() -> None:
    text = await answer("My name is Sarah and I work as a software engineer")
    assert "Sarah" in text
    assert "you work as a software engineer" in text


async def test_a_question_about_the_conversation_beside_a_tool_is_answered_with_its_result() -> (
    None
):
    call = ToolCall("1", "calculate", "{}")
    result = ToolMessage("1", "calculate", '{"expression": "2 + 2", "result": 4}')
    said = "What's 2+2 and what's my name?"
    text = await answer("My name is Sarah", said, AssistantMessage("", (call,)), result)
    assert text == "2 + 2 = **4**\n\nYour name is Sarah."


# Small talk, and the rest.


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("hi", "I'm the built-in demo"),
        ("help", "What's 15% of 240?"),
        ("what can you do?", "OPENAI_API_KEY"),
        ("Who are you?", "stand-in for a language model"),
        ("how do I connect a real model?", "http://localhost:11434/v1"),
        ("thanks!", "My pleasure."),
        ("tell me a joke", "stock of jokes"),
        ("tell me a story", "A token once"),
        ("show me a table", "|---|"),
        ("show me some code", "```python"),
        ("count to 20", "18, 19, 20."),
        ("count to 999999", "I count to 200 at most"),
        ("how are you?", "I don't feel"),
        ("what is the capital of France?", "“what is the capital of France?”"),
        ("what is the capital of France?", "FRIENDLI_TOKEN"),
        ("天気はどうですか", "not a language model"),
        ("   ", "no words"),
    ],
)
async def test_small_talk_is_answered_and_the_rest_is_answered_honestly(
    text: str, part: str
) -> None:
    assert part in await answer(text)


async def test_the_long_answer_is_long_enough_to_stop_and_resume() -> None:
    assert len((await answer("write a long answer")).split()) >= 380


async def test_examples_are_only_for_tools_that_the_agent_has() -> None:
    assert "weather" not in (await answer("help", tools=["calculate"])).replace("12 * 12", "")


async def test_a_greeting_in_a_conversation_is_not_the_first_one() -> None:
    assert (await answer("hi", AssistantMessage("Hello!"), "hi")).startswith("Hello again!")


async def test_the_fallback_varies_through_a_conversation() -> None:
    assert await answer("xyzzy") != await answer("xyzzy", AssistantMessage("?"), "xyzzy")


@pytest.mark.parametrize("messages", [(), (SystemMessage("x"),), (AssistantMessage("x"),)])
async def test_a_request_without_a_question_gets_an_answer(messages: tuple[Message, ...]) -> None:
    assert_well_formed(await parts_of(request(*messages)))


PHRASES = st.sampled_from(
    [
        *("weather in", "time", "stock price of", "search for", "15 + 27", "square root of"),
        *("what's my name", "my name is", "I like", "repeat that", "what about", "call calculate"),
        *("Tokyo", "Apple", "twenty-", "there", "and", ",", "(", ")", "{", "%", "!", "\n"),
    ]
)


@given(st.text() | st.lists(PHRASES | st.text(max_size=5)).map(" ".join))
def test_any_text_gets_a_well_formed_answer(text: str) -> None:
    assert_well_formed(asyncio.run(parts_of(request(text))))
    assert_well_formed(asyncio.run(parts_of(request("how's the weather", text, tools=FIVE))))


@pytest.mark.parametrize(
    "unit",
    [
        *(
            "a",
            " ",
            "\n",
            "é",
            "call x ",
            "call get_time {",
            "count to ",
            "tell me ",
            "hi ",
            "use a ",
        ),
        *(
            "my name is ",
            "what's my ",
            "what do i ",
            "did i say ",
            "i work ",
            "I'm A",
            "note that ",
        ),
    ],
)
async def test_a_message_of_100_000_characters_is_answered_quickly(unit: str) -> None:
    question = request(unit * (100_000 // len(unit)))

    async def seconds() -> float:
        began = time.process_time()
        assert_well_formed(await parts_of(question))
        return time.process_time() - began

    assert min([await seconds() for _ in range(5)]) < 0.25


# Streaming.


class FakeTime:
    """A clock that moves only by sleeping, and a little longer each time than it was asked."""

    def __init__(self, oversleep: float = 0.0) -> None:
        self.now = 100.0
        self.oversleep = oversleep

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds + self.oversleep
        await asyncio.sleep(0)


async def batches_at(rate: float, clock: FakeTime) -> list[tuple[float, list[ReplyPart]]]:
    provider = DemoProvider(rate, clock=clock.clock, sleep=clock.sleep)
    stream = provider.stream(request("write a long answer"))
    return [(clock.now - 100.0, batch) async for batch in stream]


async def test_pieces_come_one_at_a_time_at_the_pace_that_was_asked() -> None:
    batches = await batches_at(40, FakeTime())
    assert all(len(batch) == 1 for _, batch in batches)
    assert [when for when, _ in batches[:3]] == pytest.approx([0, 0.025, 0.05])
    assert batches[-2][0] == pytest.approx((len(batches) - 2) / 40)


async def test_the_pace_does_not_drift_when_every_sleep_is_too_long() -> None:
    pieces = len(await batches_at(40, FakeTime())) - 1
    late = await batches_at(40, FakeTime(oversleep=0.01))
    assert len(late) == pieces + 1
    assert all(-1e-6 <= when - place / 40 <= 0.0101 for place, (when, _) in enumerate(late[:-1]))


async def test_what_is_overdue_comes_in_one_batch_and_nothing_is_lost() -> None:
    slow = await batches_at(100, FakeTime(oversleep=0.1))
    assert max(len(batch) for _, batch in slow) > 5
    everything = [part for _, batch in slow for part in batch]
    assert everything == await parts_of(request("write a long answer"))


async def test_without_a_pace_the_pieces_come_in_batches_of_sixteen() -> None:
    clock = FakeTime()
    batches = await batches_at(0, clock)
    assert clock.now == 100.0
    assert {len(batch) for _, batch in batches[:-2]} == {16}


async def test_a_piece_is_a_word_with_the_space_before_it() -> None:
    parts = await parts_of(request("thanks!", AssistantMessage("."), "thanks!"))
    assert [part.content for part in parts if isinstance(part, TextPart)] == [
        "Glad",
        " that",
        " it",
        " helped.",
    ]


async def test_the_answer_is_cut_at_max_tokens_and_says_so() -> None:
    whole = await parts_of(request("help"))
    cut = await parts_of(request("help", max_tokens=3))
    assert cut == [*whole[:3], EndPart("length")]
    exact = await parts_of(request("help", max_tokens=len(whole) - 1))
    assert exact == whole


async def test_cancelling_while_it_waits_ends_at_once() -> None:
    first = asyncio.Event()

    async def read() -> None:
        async for _ in DemoProvider(0.001).stream(request("write a long answer")):
            first.set()

    task = asyncio.create_task(read())
    async with asyncio.timeout(10):
        await first.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_closing_the_stream_early_is_clean() -> None:
    provider = DemoProvider(0)
    stream = provider.stream(request("help"))
    assert await anext(stream)
    await stream.aclose()
    await provider.aclose()
