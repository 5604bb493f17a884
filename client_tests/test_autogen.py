"""AutoGen: the client of OpenAI's chat completions, alone and in an agent."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import (
    AssistantMessage,
    CreateResult,
    FunctionExecutionResult,
    FunctionExecutionResultMessage,
    ModelFamily,
    SystemMessage,
    UserMessage,
)
from autogen_core.tools import FunctionTool
from autogen_ext.models.openai import OpenAIChatCompletionClient

from client_tests.service import MODEL, Model, Service
from tests.upstream import calls, text

HELLO = [SystemMessage(content="Be brief."), UserMessage(content="Hello!", source="user")]


def look_up(order: int) -> str:
    """Find an order."""
    return f"order {order} was sent"


@pytest.fixture
async def client(service: Service) -> AsyncIterator[Any]:
    made = OpenAIChatCompletionClient(
        model=MODEL,
        base_url=service.v1,
        api_key="any",
        max_retries=0,
        model_info={
            "vision": False,
            "function_calling": True,
            "json_output": True,
            "family": ModelFamily.UNKNOWN,
            "structured_output": True,
        },
    )
    yield made
    await made.close()


async def test_a_message_is_answered(client: Any, model: Model) -> None:
    model.says(text("Good", " day"))
    done = await client.create(HELLO)
    assert (done.content, done.finish_reason) == ("Good day", "stop")
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (10, 5)


async def test_an_answer_is_streamed(client: Any, model: Model) -> None:
    model.says(text("Good", " day"))
    options = {"stream_options": {"include_usage": True}}
    *pieces, done = [
        piece async for piece in client.create_stream(HELLO, extra_create_args=options)
    ]
    assert "".join(pieces) == "Good day"
    assert isinstance(done, CreateResult)
    assert (done.content, done.finish_reason) == ("Good day", "stop")
    assert done.usage.completion_tokens == 5


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_are_called_and_their_results_taken(
    client: Any, model: Model, stream: bool
) -> None:
    tool = FunctionTool(look_up, description="Find an order.")
    model.says(calls(("look_up", {"order": 7}), ids=["a"]), text("It was sent."))
    if stream:
        done = [piece async for piece in client.create_stream(HELLO, tools=[tool])][-1]
    else:
        done = await client.create(HELLO, tools=[tool])
    assert done.finish_reason == "function_calls"
    assert [(call.name, call.arguments) for call in done.content] == [("look_up", '{"order": 7}')]
    result = FunctionExecutionResult(
        call_id=done.content[0].id, content="sent", name="look_up", is_error=False
    )
    said = AssistantMessage(content=done.content, source="assistant")
    results = FunctionExecutionResultMessage(content=[result])
    assert (await client.create([*HELLO, said, results], tools=[tool])).content == "It was sent."


async def test_an_agent_calls_its_tools_and_answers(client: Any, model: Model) -> None:
    model.says(calls(("look_up", {"order": 7})), text("Order 7 was sent."))
    agent = AssistantAgent(
        "assistant", model_client=client, tools=[look_up], reflect_on_tool_use=True
    )
    done = await agent.run(task="Where is order 7?")
    assert done.messages[-1].content == "Order 7 was sent."
    results = [m["content"] for m in model.requests[1]["messages"] if m["role"] == "tool"]
    assert results == ["order 7 was sent"]
