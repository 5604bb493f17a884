"""LangChain: `ChatOpenAI`, alone and in an agent."""

import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import StructuredTool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from client_tests.service import MODEL, Model, Service, running
from tests.upstream import calls, error_event_after, text

HELLO = [SystemMessage("Be brief."), HumanMessage("Hello!")]


class Recipe(BaseModel):
    """A recipe."""

    title: str
    minutes: int


RECIPE = {"title": "Pasta al limone", "minutes": 20}


def look_up(order: int) -> str:
    """Find an order."""
    return f"order {order} was sent"


TOOL = StructuredTool.from_function(look_up)


@pytest.fixture
def llm(service: Service) -> Any:
    return ChatOpenAI(
        base_url=service.v1, api_key="any", model=MODEL, max_retries=0, stream_usage=True
    )


def test_a_message_is_answered(llm: Any, model: Model) -> None:
    model.says(text("Good", " day"))
    answer = llm.invoke(HELLO)
    assert answer.content == "Good day"
    assert answer.usage_metadata["total_tokens"] == 15
    assert answer.response_metadata["finish_reason"] == "stop"
    assert model.requests[0]["messages"][-1]["content"] == "Hello!"


async def test_a_message_is_answered_asynchronously(llm: Any, model: Model) -> None:
    model.says(text("Good", " day"))
    assert (await llm.ainvoke(HELLO)).content == "Good day"


def test_an_answer_is_streamed(llm: Any, model: Model) -> None:
    model.says(text("Good", " day"))
    chunks: list[AIMessageChunk] = list(llm.stream(HELLO))
    assert [chunk.content for chunk in chunks if chunk.content] == ["Good", " day"]
    whole = sum(chunks[1:], chunks[0])
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["total_tokens"] == 15


async def test_an_answer_is_streamed_asynchronously(llm: Any, model: Model) -> None:
    model.says(text("Good", " day"))
    stream: AsyncIterator[AIMessageChunk] = llm.astream(HELLO)
    assert "".join([str(chunk.content) async for chunk in stream]) == "Good day"


def test_a_stream_that_breaks_off_raises(llm: Any, model: Model) -> None:
    model.says(error_event_after(3))
    with pytest.raises(openai.APIError):
        list(llm.stream(HELLO))


def test_bound_tools_are_called_and_their_results_taken(llm: Any, model: Model) -> None:
    model.says(calls(("look_up", {"order": 7}), ids=["a"]), text("It was sent."))
    bound = llm.bind_tools([TOOL])
    wanted = bound.invoke(HELLO)
    assert [(call["name"], call["args"]) for call in wanted.tool_calls] == [
        ("look_up", {"order": 7})
    ]
    answer = bound.invoke(
        [*HELLO, wanted, ToolMessage("sent", tool_call_id=wanted.tool_calls[0]["id"])]
    )
    assert answer.content == "It was sent."
    assert [m["content"] for m in model.requests[1]["messages"] if m["role"] == "tool"] == ["sent"]


def test_streamed_calls_are_put_together(llm: Any, model: Model) -> None:
    model.says(calls(("look_up", {"order": 7}), ("look_up", {"order": 8})))
    chunks: list[Any] = list(llm.bind_tools([TOOL]).stream(HELLO))
    whole = sum(chunks[1:], chunks[0])
    assert [call["args"] for call in whole.tool_calls] == [{"order": 7}, {"order": 8}]


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_an_answer_has_the_form_that_is_asked_for(llm: Any, model: Model, method: str) -> None:
    by_call = method == "function_calling"
    model.says(calls(("Recipe", RECIPE)) if by_call else text(Recipe(**RECIPE).model_dump_json()))
    form = llm.with_structured_output(Recipe, method=method)
    assert form.invoke("A recipe, as JSON!") == Recipe(**RECIPE)


@pytest.mark.parametrize("responses", [False, True], ids=["completions", "responses"])
async def test_an_agent_calls_its_tools_and_answers(
    service: Service, model: Model, responses: bool
) -> None:
    llm = ChatOpenAI(
        base_url=service.v1,
        api_key="any",
        model=MODEL,
        max_retries=0,
        use_responses_api=responses,
    )
    model.says(calls(("look_up", {"order": 7})), text("Order 7 was sent."))
    agent = create_agent(llm, [TOOL], system_prompt="Be brief.")
    done = await agent.ainvoke({"messages": [HumanMessage("Where is order 7?")]})
    assert done["messages"][-1].text == "Order 7 was sent."
    results = [m["content"] for m in model.requests[1]["messages"] if m["role"] == "tool"]
    assert results == ["order 7 was sent"]


async def test_an_agent_streams_its_tokens(llm: Any, model: Model) -> None:
    model.says(calls(("look_up", {"order": 7})), text("Order 7", " was sent."))
    agent = create_agent(llm, [TOOL])
    asked = {"messages": [HumanMessage("Where is order 7?")]}
    pieces = [
        chunk.content
        async for chunk, _ in agent.astream(asked, stream_mode="messages")
        if isinstance(chunk, AIMessageChunk) and chunk.content
    ]
    assert pieces == ["Order 7", " was sent."]


EXAMPLE = """
from langchain_openai import ChatOpenAI
from langchain_core.messages import HumanMessage

# Initialize LangChain with your agent
llm = ChatOpenAI(
    api_key="dummy_api_key",
    base_url="http://0.0.0.0:8080/v1",
    model="Qwen/Qwen3-235B-A22B-Instruct-2507"
)

# Chat with memory
response = llm.invoke([
    HumanMessage(content="I love cooking Italian food!")
])
print(response.content)
"""


def test_the_example_of_a_chat_that_remembers_runs_as_it_stands() -> None:
    with running() as demo:
        code = EXAMPLE.replace("http://0.0.0.0:8080", demo.url)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert b"Italian food" in done.stdout
