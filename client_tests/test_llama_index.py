"""LlamaIndex: the OpenAI-like model."""

from typing import Any

import openai
import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

from client_tests.service import MODEL, Model, Service
from tests.upstream import calls, error_event_after, text

HELLO = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Hi!")]


@pytest.fixture
def llm(service: Service) -> Any:
    return OpenAILike(
        model=MODEL,
        api_base=service.v1,
        api_key="any",
        is_chat_model=True,
        is_function_calling_model=True,
        max_retries=0,
    )


def look_up(order: int) -> str:
    """Find an order."""
    return f"order {order} was sent"


def test_a_chat_is_answered(llm: Any, model: Model) -> None:
    model.says(text("Good", " day"))
    assert llm.chat(HELLO).message.content == "Good day"
    assert model.requests[0]["messages"][-1]["content"] == "Hi!"


def test_a_chat_is_streamed(llm: Any, model: Model) -> None:
    model.says(text("Good", " day"))
    deltas = [piece.delta for piece in llm.stream_chat(HELLO)]
    assert "".join(deltas) == "Good day"


async def test_a_chat_is_streamed_asynchronously(llm: Any, model: Model) -> None:
    model.says(text("Good", " day"))
    pieces = [piece async for piece in await llm.astream_chat(HELLO)]
    assert pieces[-1].message.content == "Good day"


def test_a_prompt_is_completed(llm: Any, model: Model) -> None:
    model.says(text("Good day"), text("Good", " day"))
    assert llm.complete("Hello!").text == "Good day"
    assert [piece.text for piece in llm.stream_complete("Hello!")][-1] == "Good day"


def test_tools_are_called_and_their_results_taken(llm: Any, model: Model) -> None:
    model.says(calls(("look_up", {"order": 7})), text("Order 7 was sent."))
    done = llm.predict_and_call([FunctionTool.from_defaults(look_up)], "Where is order 7?")
    assert done.response == "order 7 was sent"
    assert llm.chat(HELLO).message.content == "Order 7 was sent."


def test_a_stream_that_breaks_off_raises(llm: Any, model: Model) -> None:
    model.says(error_event_after(3))
    with pytest.raises(openai.APIError):
        list(llm.stream_chat(HELLO))
