"""OpenRouter's reasoning, put together from its pieces."""

from typing import Any

import pytest

from llm.details import Details
from messages import MAX_REASONING_BYTES


def text(said: str | None, index: int | None = 0, **more: Any) -> dict[str, Any]:
    return {"type": "reasoning.text", "index": index, "text": said, **more}


SECRET = {"type": "reasoning.encrypted", "index": 1, "data": "x", "id": "call_1"}


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([[text("a")], [text("b")]], [text("ab")]),
        ([[text("a"), text("b")]], [text("ab")]),
        ([[text("a", 0)], [text("b", 1)]], [text("a", 0), text("b", 1)]),
        ([[text("a", signature=None)], [text(None, signature="s")]], [text("a", signature="s")]),
        ([[text("a", signature="s")], [text("b")]], [text("a", signature="s"), text("b")]),
        ([[text("a")], [SECRET], [SECRET]], [text("a"), SECRET, SECRET]),
        (
            [[{"type": "reasoning.summary", "summary": each}] for each in "ab"],
            [{"type": "reasoning.summary", "summary": "ab"}],
        ),
        ([None, 5, {}, "x", [5, None]], []),
        ([[{"type": "reasoning.text", "text": 5}]], [{"type": "reasoning.text"}]),
    ],
)
def test_pieces_of_one_place_are_joined(chunks: list[Any], expected: list[Any]) -> None:
    details = Details()
    for chunk in chunks:
        details.take(chunk)
    assert details.whole() == expected


def test_more_than_is_kept_is_not_kept_in_part() -> None:
    details = Details()
    for _ in range(3):
        details.take([text("x" * (MAX_REASONING_BYTES // 2))])
    assert details.whole() == []
