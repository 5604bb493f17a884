"""What is sent of a conversation: valid for every server, whatever is stored of it."""

import json
import re
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.anthropic_upstream as claude
from events import ReasoningBlock
from llm.anthropic import AnthropicProvider
from llm.dialects import Dialect
from llm.history import BLANK, GO_ON, NO_ANSWER, NO_RESULT, Spoken, normalized, once
from llm.openai_messages import NO_REASONING, UNSIGNED, chat_messages
from llm.text import encode_json
from messages import (
    AssistantMessage,
    Content,
    ImageContent,
    Message,
    ModelRequest,
    SystemMessage,
    TextContent,
    ToolCall,
    ToolMessage,
    ToolSpec,
    UserMessage,
)
from models import Echo
from tests.openai_rules import fault_of

HERE = "openai:here"
THERE = "openai:there"
A = "call00001"
U, V = UserMessage("Hi"), UserMessage("Well?")
ANSWER = AssistantMessage("Yes.")
PICTURE = ImageContent("https://example.com/a.png")


def asked(*ids: str, text: str = "") -> AssistantMessage:
    return AssistantMessage(text, tuple(ToolCall(id, "f", "{}") for id in ids))


def result(id: str, content: str = "done") -> ToolMessage:
    return ToolMessage(id, "f", content)


CALLED = (asked(A), result(A))


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        pytest.param([U, ANSWER, V], [U, ANSWER, V], id="what is valid stays as it is"),
        pytest.param([U, *CALLED, ANSWER, V], [U, *CALLED, ANSWER, V], id="so do calls"),
        pytest.param([U, V], [UserMessage("Hi\n\nWell?")], id="a run that said nothing"),
        pytest.param(
            [U, AssistantMessage(" \n"), V], [UserMessage("Hi\n\nWell?")], id="a blank answer"
        ),
        pytest.param([U, UserMessage(" "), ANSWER, V], [U, ANSWER, V], id="a blank one beside"),
        pytest.param([UserMessage(" ")], [UserMessage(BLANK)], id="a blank question"),
        pytest.param([], [UserMessage(BLANK)], id="nothing"),
        pytest.param([ANSWER, V], [UserMessage(BLANK), ANSWER, V], id="an assistant begins"),
        pytest.param([U, ANSWER], [U, ANSWER, UserMessage(GO_ON)], id="an assistant ends"),
        pytest.param(
            [U, ANSWER, AssistantMessage("No."), V],
            [U, AssistantMessage("Yes.\n\nNo."), V],
            id="assistants in a row",
        ),
        pytest.param(
            [U, ANSWER, *CALLED],
            [U, asked(A, text="Yes."), CALLED[1]],
            id="an answer, then calls",
        ),
        pytest.param(
            [U, *CALLED, V],
            [U, *CALLED, AssistantMessage(NO_ANSWER), V],
            id="a run that ended before its answer",
        ),
        pytest.param(
            [U, asked(A), V],
            [
                U,
                asked(A),
                ToolMessage(A, "f", NO_RESULT, is_error=True),
                AssistantMessage(NO_ANSWER),
                V,
            ],
            id="a call without a result",
        ),
        pytest.param([U, result(A), ANSWER, V], [U, ANSWER, V], id="a result without a call"),
        pytest.param([U, *CALLED, result(A)], [U, *CALLED], id="a result that comes twice"),
        pytest.param(
            [U, asked(A, "call00002"), result("call00002", "2"), result(A, "1")],
            [U, asked(A, "call00002"), result(A, "1"), result("call00002", "2")],
            id="results in another order",
        ),
        pytest.param(
            [U, asked(A), result(A, " ")], [U, asked(A), result(A, BLANK)], id="a blank result"
        ),
        pytest.param(
            [UserMessage("Look.Hi", (TextContent("Look."), PICTURE, TextContent(" "))), V],
            [
                UserMessage(
                    "Look.Hi\n\nWell?", (TextContent("Look."), PICTURE, TextContent("Well?"))
                )
            ],
            id="pictures stay in their place",
        ),
        pytest.param(
            [UserMessage("a", name="ann"), UserMessage("b", name="ann")],
            [UserMessage("a\n\nb", name="ann")],
            id="the same user twice",
        ),
        pytest.param(
            [UserMessage("a", name="ann"), UserMessage("b", name="bob"), UserMessage("c")],
            [UserMessage("ann: a\n\nbob: b\n\nc")],
            id="several users in a row",
        ),
        pytest.param(
            [UserMessage("a", (PICTURE,), name="ann"), UserMessage("b")],
            [UserMessage("ann: a\n\nb", (TextContent("ann:"), PICTURE, TextContent("b")))],
            id="several users with pictures",
        ),
        pytest.param(
            [UserMessage("a", name="Ann <x>")], [UserMessage("a", name="Ann__x_")], id="a name"
        ),
    ],
)
def test_a_conversation_becomes_one_that_every_server_takes(
    messages: list[Message], expected: list[Spoken]
) -> None:
    assert normalized(messages).messages == expected


def test_all_instructions_become_one_text_at_the_beginning() -> None:
    said: list[Message] = [
        SystemMessage("Be brief."),
        U,
        SystemMessage(" "),
        ANSWER,
        SystemMessage("Rhyme."),
        V,
    ]
    history = normalized(said)
    assert history.instructions == "Be brief.\n\nRhyme."
    assert history.messages == [U, ANSWER, V]
    first, *rest = chat_messages(said, Dialect(), HERE)
    assert first == {"role": "system", "content": "Be brief.\n\nRhyme."}
    assert "system" not in {message["role"] for message in rest}
    assert chat_messages([SystemMessage(""), U], Dialect(), HERE)[0]["role"] == "user"


@pytest.mark.parametrize(
    "id", ["call_1", "functions.f:0", "", "ü", "\ud83d", "x" * 300, "a b c d e"]
)
def test_an_id_becomes_nine_digits_that_are_the_same_each_time(id: str) -> None:
    first, again = [normalized([U, asked(id), result(id)]).messages for _ in range(2)]
    assert first == again
    _, call, done = first
    assert isinstance(call, AssistantMessage)
    assert isinstance(done, ToolMessage)
    assert re.fullmatch("[0-9a-f]{9}", call.tool_calls[0].id)
    assert done == ToolMessage(call.tool_calls[0].id, "f", "done")


def test_an_id_that_was_used_before_gets_another() -> None:
    _, one, _, two, done = normalized([U, *CALLED, asked(A), result(A, "again")]).messages
    assert isinstance(one, AssistantMessage)
    assert isinstance(two, AssistantMessage)
    assert one.tool_calls[0].id == A != two.tool_calls[0].id
    assert done == result(two.tool_calls[0].id, "again")


@pytest.mark.parametrize("before", [(result(A, "left over"),), (*CALLED, result(A, "twice"))])
def test_a_result_that_nobody_waited_for_is_not_that_of_a_later_call(
    before: tuple[Message, ...],
) -> None:
    *_, last = normalized([U, *before, asked(A)]).messages
    assert isinstance(last, ToolMessage)
    assert last.content == NO_RESULT


def test_calls_with_one_id_keep_their_results_in_order() -> None:
    _, call, *results = normalized([U, asked(A, A), result(A, "1"), result(A, "2")]).messages
    assert isinstance(call, AssistantMessage)
    first, second = (each.id for each in call.tool_calls)
    assert first != second
    assert results == [result(first, "1"), result(second, "2")]


def test_a_dialect_may_have_ids_stay_as_the_model_made_them() -> None:
    said: list[Message] = [U, asked("functions.f:0"), result("functions.f:0")]
    _, call, done = chat_messages(said, Dialect(call_ids="any"), HERE)
    assert call["tool_calls"][0]["id"] == done["tool_call_id"] == "functions.f:0"


def test_a_dialect_may_have_ids_that_count_the_calls() -> None:
    """MoonshotAI/Kimi-K2, docs/tool_call_guidance.md."""
    calls = asked("call_x", "call_x")
    said: list[Message] = [U, calls, result("call_x", "1"), result("call_x", "2"), ANSWER, V]
    said.append(asked("functions.f:0"))
    sent = chat_messages(said, Dialect(call_ids="functions"), HERE)
    made = [call["id"] for each in sent for call in each.get("tool_calls", ())]
    assert made == ["functions.f:0", "functions.f:1", "functions.f:2"]
    results = [(each["tool_call_id"], each["content"]) for each in sent if each["role"] == "tool"]
    assert results[:2] == [("functions.f:0", "1"), ("functions.f:1", "2")]


def test_twice_the_same_tool_is_once() -> None:
    first, other = ToolSpec("a", "first", {}), ToolSpec("b", "", {})
    assert once([first, other, ToolSpec("a", "second", {})]) == [first, other]


# What is given back.


def thought(provider: str, text: str = "Hm.") -> ReasoningBlock:
    return ReasoningBlock(provider, json.dumps({"reasoning_content": text, "role": "system"}))


def signed(provider: str) -> ReasoningBlock:
    return ReasoningBlock(
        provider, '{"extra_content":{"google":{"thought_signature":"s"}},"id":"x"}'
    )


def reasoned(block: ReasoningBlock | None = None) -> list[Message]:
    blocks = () if block is None else (block,)
    return [U, AssistantMessage("", (ToolCall(A, "f", "{}"),), blocks), result(A)]


def with_signature(block: ReasoningBlock | None, *others: ToolCall) -> list[Message]:
    calls = (ToolCall(A, "f", "{}", block), *others)
    return [U, AssistantMessage("", calls), *(result(call.id) for call in calls)]


def sent(messages: list[Message], echo: Echo = "given") -> dict[str, Any]:
    """Return the assistant's message of a request."""
    body = {"messages": chat_messages(messages, Dialect(echo=echo), HERE)}
    answer: dict[str, Any] = json.loads(encode_json(body))["messages"][1]
    return answer


@pytest.mark.parametrize(
    ("block", "echo", "expected"),
    [
        (thought(HERE), "given", "Hm."),
        (thought(HERE), "nothing", None),
        (thought(HERE), "reasoning_content", "Hm."),
        (thought(THERE), "given", None),
        (thought(THERE), "reasoning_content", NO_REASONING),
        (thought("openai"), "given", None),
        (thought("openai"), "reasoning_content", "Hm."),
        (thought("openai"), "extra_content", None),
        (ReasoningBlock("anthropic", '{"type":"thinking"}'), "given", None),
        (None, "given", None),
        (None, "reasoning_content", NO_REASONING),
    ],
)
def test_reasoning_goes_back_to_the_server_that_gave_it(
    block: ReasoningBlock | None, echo: Echo, expected: str | None
) -> None:
    answer = sent(reasoned(block), echo)
    assert answer.get("reasoning_content") == expected
    assert answer["role"] == "assistant", "what is given back sets nothing else"


def test_every_answer_has_reasoning_where_the_server_wants_it() -> None:
    assert sent([U, ANSWER, V], "reasoning_content")["reasoning_content"] == NO_REASONING
    assert "reasoning_content" not in sent([U, ANSWER, V])


SIGNED = {"google": {"thought_signature": "s"}}


@pytest.mark.parametrize(
    ("block", "echo", "expected"),
    [
        (signed(HERE), "given", SIGNED),
        (signed(HERE), "nothing", None),
        (signed(HERE), "extra_content", SIGNED),
        (signed(THERE), "given", None),
        (signed(THERE), "extra_content", UNSIGNED),
        (signed("openai"), "given", None),
        (signed("openai"), "extra_content", SIGNED),
        (signed("openai"), "reasoning_content", None),
        (None, "extra_content", UNSIGNED),
        (None, "given", None),
    ],
)
def test_a_signature_goes_back_with_its_call(
    block: ReasoningBlock | None, echo: Echo, expected: dict[str, Any] | None
) -> None:
    second = ToolCall("call00002", "f", "{}")
    first, other = sent(with_signature(block, second), echo)["tool_calls"]
    assert first.get("extra_content") == expected
    assert "extra_content" not in other, "only the first call of a message is signed"
    assert first["id"] == A, "what is given back sets nothing else"


CLAUDE = AnthropicProvider(
    api_key="k",
    base_url="https://example.com/claude",
    default_model="m",
    max_retries=0,
    timeout=1.0,
    max_tokens=None,
)


def asked_of_claude(messages: list[Message]) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(
        encode_json(CLAUDE._body(ModelRequest(model="m", messages=tuple(messages))))
    )
    return body


@pytest.mark.parametrize(
    ("provider", "is_sent"),
    [(CLAUDE.source, True), ("anthropic", True), ("anthropic:other", False), (HERE, False)],
)
def test_thinking_goes_back_to_the_server_that_signed_it(provider: str, is_sent: bool) -> None:
    block = ReasoningBlock(provider, '{"type":"thinking","thinking":"x","signature":"y"}')
    blocks = asked_of_claude(reasoned(block))["messages"][1]["content"]
    assert (
        [each["type"] for each in blocks] == ["thinking", "tool_use"] if is_sent else ["tool_use"]
    )


# Any conversation.

SOME_TEXT = st.text(max_size=5) | st.sampled_from(["", " ", "\n", "a", "\ud83d", "\0"])
SOME_ID = st.sampled_from(["a", "call_1", A, "", "x" * 50]) | st.text(max_size=12)
SOME_ARGUMENTS = st.sampled_from(["{}", '{"x": [1]}', "", "{", "[]", '"\ud83d"', '{"x": 1e999}'])
SOME_REASONING = st.sampled_from(
    [
        ReasoningBlock("anthropic", '{"type":"thinking","thinking":"x","signature":"y"}'),
        ReasoningBlock(CLAUDE.source, '{"type":"redacted_thinking","data":"z"}'),
        ReasoningBlock("openai", "{}"),
        thought(HERE),
        thought("openai"),
        signed(THERE),
    ]
)
SOME_CALL = st.builds(
    ToolCall,
    SOME_ID,
    st.text(max_size=3) | st.just("x" * 300),
    SOME_ARGUMENTS,
    st.none() | st.sampled_from([signed(HERE), signed("openai"), thought(THERE)]),
)
SOME_PART: st.SearchStrategy[Content] = st.builds(TextContent, SOME_TEXT) | st.just(PICTURE)
SOME_MESSAGE: st.SearchStrategy[Message] = (
    st.builds(SystemMessage, SOME_TEXT)
    | st.builds(
        UserMessage,
        SOME_TEXT,
        st.lists(SOME_PART, max_size=2).map(tuple),
        st.none() | st.text(max_size=4),
    )
    | st.builds(
        AssistantMessage,
        SOME_TEXT,
        st.lists(SOME_CALL, max_size=3).map(tuple),
        st.lists(SOME_REASONING, max_size=2).map(tuple),
    )
    | st.builds(ToolMessage, SOME_ID, st.text(max_size=3), SOME_TEXT, st.booleans())
)
SOME_TOOLS = st.lists(st.sampled_from(["f", "g"]), max_size=3)


def spoken_texts(messages: list[Message]) -> list[str]:
    """Return what may not get lost: what users and assistants said, and pictures' texts."""
    said = []
    for message in messages:
        if isinstance(message, UserMessage) and message.parts:
            said += [part.text for part in message.parts if isinstance(part, TextContent)]
        elif not isinstance(message, ToolMessage):
            said.append(message.content)
    return [text for text in said if text.isalnum() and text.isascii()]


@settings(max_examples=300)
@given(
    st.lists(SOME_MESSAGE, max_size=8),
    st.sampled_from(get_args(Echo)),
)
def test_any_conversation_is_valid_for_the_strictest_server(
    messages: list[Message], echo: Echo
) -> None:
    body = {"messages": chat_messages(messages, Dialect(echo=echo), HERE)}
    sent = json.loads(encode_json(body))
    refusal = fault_of(sent, ("reasoning_content", "extra_content"))
    assert refusal is None, refusal
    for answer in (each for each in sent["messages"] if each["role"] == "assistant"):
        assert echo != "reasoning_content" or answer["reasoning_content"]
        calls = answer.get("tool_calls")
        assert echo != "extra_content" or not calls or "google" in calls[0]["extra_content"]
    whole = json.dumps(sent, ensure_ascii=False)
    assert all(text in whole for text in spoken_texts(messages))


@settings(max_examples=300)
@given(st.lists(SOME_MESSAGE, max_size=8))
def test_any_conversation_is_valid_for_anthropic(messages: list[Message]) -> None:
    body = asked_of_claude(messages)
    assert claude.fault_of(body, {"anthropic-version": "2026-10-21"}) is None
    whole = json.dumps(body, ensure_ascii=False)
    assert all(text in whole for text in spoken_texts(messages))


@settings(max_examples=200)
@given(st.lists(SOME_MESSAGE, max_size=8))
def test_what_is_valid_does_not_change_any_more(messages: list[Message]) -> None:
    once_more = normalized(normalized(messages).messages)
    assert once_more.messages == normalized(messages).messages
