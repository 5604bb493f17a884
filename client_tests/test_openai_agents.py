"""`openai-agents` with this service as its model, over both of its APIs."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
)
from openai import AsyncOpenAI
from pydantic import BaseModel

from client_tests.service import MODEL, Model, Service
from tests.upstream import calls, text

QUIET = RunConfig(tracing_disabled=True)


class Recipe(BaseModel):
    """A form of an answer."""

    title: str
    minutes: int


def look_up(order: int) -> str:
    """Find an order."""
    return f"order {order} was sent"


@pytest.fixture(
    params=[OpenAIChatCompletionsModel, OpenAIResponsesModel], ids=["completions", "responses"]
)
async def over(request: pytest.FixtureRequest, service: Service) -> AsyncIterator[Any]:
    async with AsyncOpenAI(base_url=service.v1, api_key="any", max_retries=0, timeout=20) as client:
        yield request.param(MODEL, client)


async def test_an_agent_answers(over: Any, model: Model) -> None:
    model.says(text("Good", " day"))
    done = await Runner.run(
        Agent("Greeter", instructions="Be brief.", model=over), "Hello!", run_config=QUIET
    )
    assert done.final_output == "Good day"
    assert any("Be brief." in str(m["content"]) for m in model.requests[0]["messages"])
    assert done.context_wrapper.usage.total_tokens == 15


async def test_an_agent_streams(over: Any, model: Model) -> None:
    model.says(text("Good", " day"))
    run = Runner.run_streamed(Agent("Greeter", model=over), "Hello!", run_config=QUIET)
    deltas = [
        event.data.delta
        async for event in run.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    assert "".join(deltas) == run.final_output == "Good day"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_calls_its_tools(over: Any, model: Model, stream: bool) -> None:
    model.says(calls(("look_up", {"order": 7})), text("Order 7 was sent."))
    agent = Agent("Clerk", model=over, tools=[function_tool(look_up)])
    if stream:
        run = Runner.run_streamed(agent, "Where is order 7?", run_config=QUIET)
        names = [e.name async for e in run.stream_events() if e.type == "run_item_stream_event"]
        assert names == ["tool_called", "tool_output", "message_output_created"]
        answer = run.final_output
    else:
        answer = (await Runner.run(agent, "Where is order 7?", run_config=QUIET)).final_output
    assert answer == "Order 7 was sent."
    results = [m["content"] for m in model.requests[1]["messages"] if m["role"] == "tool"]
    assert results == ["order 7 was sent"]


async def test_an_agent_hands_over_to_another(over: Any, model: Model) -> None:
    model.says(calls(("transfer_to_clerk", {})), text("I am the clerk."))
    clerk = Agent("Clerk", instructions="You know the orders.", model=over)
    desk = Agent("Desk", instructions="Send people on.", model=over, handoffs=[clerk])
    done = await Runner.run(desk, "Where is order 7?", run_config=QUIET)
    assert (done.last_agent.name, done.final_output) == ("Clerk", "I am the clerk.")
    assert any("You know the orders." in str(m["content"]) for m in model.requests[1]["messages"])


async def test_an_agent_answers_in_a_form(over: Any, model: Model) -> None:
    model.says(text('{"title": "Pasta al limone", "minutes": 20}'))
    cook = Agent("Cook", model=over, output_type=Recipe)
    done = await Runner.run(cook, "A recipe!", run_config=QUIET)
    assert done.final_output == Recipe(title="Pasta al limone", minutes=20)


async def test_a_conversation_goes_on(over: Any, model: Model) -> None:
    model.says(text("Hello Ada."), text("Ada."))
    agent = Agent("Greeter", model=over)
    first = await Runner.run(agent, "I am Ada.", run_config=QUIET)
    asked = [*first.to_input_list(), {"role": "user", "content": "Who am I?"}]
    second = await Runner.run(agent, asked, run_config=QUIET)
    assert second.final_output == "Ada."
    said = [m["content"] for m in model.requests[1]["messages"] if m["role"] != "system"]
    assert said == ["I am Ada.", "Hello Ada.", "Who am I?"]
