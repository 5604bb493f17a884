"""What a provider wants back, as clients get it, and what of it they may send."""

from typing import Any

import pytest

from events import ChatComplete, ReasoningBlock, RequestedCall
from messages import MAX_REASONING_BYTES
from protocols.reasoning import (
    ANTHROPIC,
    OPENAI,
    Sealed,
    block_of,
    given,
    seal,
    source_in,
    unmarked,
    unseal,
)

DEEPSEEK = "openai:0123456789abcdef"
CLAUDE = "anthropic:0123456789abcdef"
DETAILS = ReasoningBlock(DEEPSEEK, '{"reasoning_details":[{"type":"x"}]}')
SIGNED = ReasoningBlock(DEEPSEEK, '{"extra_content":{"google":{"thought_signature":"c2ln"}}}')
THINKING = '{"type":"thinking","thinking":"Hm.","signature":"c2ln"}'


def done(*message: ReasoningBlock, call: ReasoningBlock | None = None) -> ChatComplete:
    calls = (
        RequestedCall(id="call_1", name="f", arguments="{}", reasoning=call),
        RequestedCall(id="call_2", name="f", arguments="{}"),
    )
    return ChatComplete(
        final_response="",
        finish_reason="tool_calls",
        usage=None,
        tool_calls=calls,
        reasoning=message,
    )


def test_a_message_and_its_calls_have_what_belongs_to_them() -> None:
    message, calls = given(done(DETAILS, call=SIGNED))
    assert message == {"reasoning_details": [{"type": "x"}]}
    google = {"google": {"thought_signature": "c2ln"}}
    assert calls == [{"extra_content": google | {"parley": {"provider": DEEPSEEK}}}, {}]


def test_the_first_call_says_where_it_came_from_though_nothing_belongs_to_it() -> None:
    message, calls = given(done(ReasoningBlock(CLAUDE, THINKING)))
    assert [block["signature"] for block in message["thinking_blocks"]] == ["c2ln"]
    assert calls == [{"extra_content": {"parley": {"provider": CLAUDE}}}, {}]


def test_nothing_is_said_where_nothing_is_wanted_back() -> None:
    assert given(done()) == ({}, [{}, {}])
    assert seal(done()) is None


@pytest.mark.parametrize(
    ("extra", "source"),
    [
        ([None, {"parley": {"provider": DEEPSEEK}}], DEEPSEEK),
        ([{"parley": {"provider": "openai"}}], "openai"),
        ([{"parley": {"provider": "openai:short"}}], ""),
        ([{"parley": {"provider": 1}}], ""),
        ([{"parley": DEEPSEEK}], ""),
        ([{"google": {}}, None], ""),
        ([], ""),
    ],
)
def test_the_server_is_read_of_calls(extra: Any, source: str) -> None:
    assert source_in(extra) == source


def test_the_mark_is_taken_off() -> None:
    assert unmarked({"google": 1, "parley": {"provider": DEEPSEEK}}) == {"google": 1}


def test_a_source_counts_for_its_own_kind_of_server_only() -> None:
    assert block_of(OPENAI, {"reasoning_content": "Hm."}, DEEPSEEK).provider == DEEPSEEK
    assert block_of(OPENAI, {"reasoning_content": "Hm."}, CLAUDE).provider == OPENAI
    assert block_of(OPENAI, {"reasoning_content": "Hm."}).provider == OPENAI


def test_thinking_has_the_members_that_anthropic_knows_and_others_may_have_any() -> None:
    thinking: dict[str, Any] = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    assert block_of(ANTHROPIC, thinking).kind == ANTHROPIC
    for odd in (thinking | {"more": 1}, {"type": "text", "text": "x"}, {"thinking": "Hm."}):
        with pytest.raises(ValueError, match=r"Invalid|Object|Expected"):
            block_of(ANTHROPIC, odd)
        assert block_of(OPENAI, odd).kind == OPENAI


@pytest.mark.parametrize("letter", ["x", "é", "𝄞"])
def test_there_is_a_bound_in_bytes(letter: str) -> None:
    around = len('{"reasoning_content":""}')
    size = len(letter.encode())
    fits = letter * ((MAX_REASONING_BYTES - around) // size)
    block = block_of(OPENAI, {"reasoning_content": fits})
    assert MAX_REASONING_BYTES - size < len(block.data.encode()) <= MAX_REASONING_BYTES
    with pytest.raises(ValueError, match=str(MAX_REASONING_BYTES)):
        block_of(OPENAI, {"reasoning_content": fits + letter})


def test_what_was_sealed_comes_back() -> None:
    text = seal(done(DETAILS, call=SIGNED))
    assert text is not None
    assert unseal(text) == Sealed((DETAILS,), {"call_1": SIGNED})
    for only in (done(DETAILS), done(call=SIGNED)):
        assert seal(only) is not None


@pytest.mark.parametrize("text", ["", "?", "e30", "bm8gSlNPTg==", "W10="])
def test_another_text_is_sealed_nothing(text: str) -> None:
    assert unseal(text) == Sealed()


def test_what_was_sealed_is_checked_as_what_is_sent() -> None:
    odd = done(ReasoningBlock(CLAUDE, '{"type":"text","text":"x"}'))
    assert unseal(seal(odd) or "") == Sealed()
