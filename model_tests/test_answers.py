"""Streams, tools, forms, cancels and refusals of a real llama.cpp server, through the service.

The words of so small a model are nonsense, so what is checked is the wire.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from model_tests.conftest import MAX_TOKENS, Setting
from tests.service import events

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "2+2"}]
LOOK_UP: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Find an order.",
        "parameters": {
            "type": "object",
            "properties": {"order": {"type": "integer", "minimum": 1, "maximum": 99}},
            "required": ["order"],
            "additionalProperties": False,
        },
    },
}
LONG = "tea " * 3000
"""More than the context of any server here but the one with a single slot."""


class Verdict(BaseModel):
    """A form of an answer."""

    is_right: bool


@pytest.fixture(scope="session")
async def client(qwen: Setting) -> AsyncIterator[AsyncOpenAI]:
    async with qwen.client() as client:
        yield client


async def streamed(setting: Setting, **body: Any) -> list[dict[str, Any]]:
    async with setting.session.post(f"{setting.url}/chat/stream", json=body) as response:
        assert response.status == 200, await response.text()
        return [event async for event in events(response)]


async def test_a_stream_brings_pieces_then_the_whole_and_the_servers_own_count_of_tokens(
    qwen: Setting,
) -> None:
    found = await streamed(qwen, message="2+2", agent="plain")
    pieces = [event["content"] for event in found if event["event_type"] == "chat_chunk"]
    end = found[-1]
    assert (found[0]["event_type"], end["event_type"]) == ("chat_start", "chat_complete")
    assert len(pieces) > 1
    assert "".join(pieces) == end["final_response"] != ""
    assert end["usage"]["completion_tokens"] == MAX_TOKENS
    assert end["usage"]["prompt_tokens"] > 10


async def test_a_websocket_brings_the_same_answer(qwen: Setting) -> None:
    async with qwen.session.ws_connect(f"{qwen.url}/ws") as socket:
        await socket.send_json({"type": "chat", "data": {"message": "2+2", "agent": "plain"}})
        frames = [await socket.receive_json(timeout=30)]
        while frames[-1]["type"] not in ("chat_complete", "error"):
            frames.append(await socket.receive_json(timeout=30))
    pieces = [frame["data"]["content"] for frame in frames if frame["type"] == "chat_chunk"]
    assert len(pieces) > 1
    assert frames[-1]["data"]["final_response"] == "".join(pieces)


async def test_an_agent_calls_its_tool_and_goes_on_with_the_result(qwen: Setting) -> None:
    await qwen.agent("counting", tools=["calculate"], max_turns=2, max_tokens=64)
    found = await streamed(qwen, message="2+2", agent="counting")
    calls = [event["tool_call"] for event in found if event["event_type"] == "tool_call_complete"]
    assert calls
    assert {call["name"] for call in calls} == {"calculate"}
    assert calls[0]["result"]["expression"] == calls[0]["arguments"]["expression"]
    assert found[-1]["event_type"] == "chat_complete"


async def test_the_sdk_creates_a_completion(client: AsyncOpenAI) -> None:
    done = await client.chat.completions.create(model="plain", messages=HELLO, max_tokens=8)
    assert done.choices[0].finish_reason == "length"
    assert done.choices[0].message.content
    assert done.usage is not None
    assert done.usage.completion_tokens == 8


async def test_the_sdk_streams_a_completion_with_its_usage(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="plain", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    said = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert len([piece for piece in said if piece]) > 1
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == MAX_TOKENS


async def test_the_sdk_creates_a_response_and_goes_on_from_it(client: AsyncOpenAI) -> None:
    first = await client.responses.create(model="plain", input="2+2")
    assert first.output_text
    second = await client.responses.create(
        model="plain", input="And 3+3?", instructions="Be brief.", previous_response_id=first.id
    )
    assert second.output_text
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_demanded_call_comes_and_its_result_goes_back(
    client: AsyncOpenAI, is_streamed: bool
) -> None:
    completions: Any = client.chat.completions
    asked: dict[str, Any] = {"model": "plain", "messages": HELLO, "tools": [LOOK_UP]}
    demands = {"tool_choice": "required", "max_tokens": 64}
    if is_streamed:
        async with completions.stream(**asked, **demands) as stream:
            choice = (await stream.get_final_completion()).choices[0]
    else:
        choice = (await completions.create(**asked, **demands)).choices[0]
    assert choice.finish_reason == "tool_calls"
    call = choice.message.tool_calls[0]  # more may come: this server heeds no bound on them
    assert call.function.name == "look_up"
    assert 1 <= json.loads(call.function.arguments)["order"] <= 99
    said = choice.message.model_dump(exclude_none=True, include={"role", "content"})
    said["tool_calls"] = [call.model_dump(exclude_none=True)]
    result = {"role": "tool", "tool_call_id": call.id, "content": "sent"}
    asked["messages"] = [*HELLO, said, result]
    after = await completions.create(**asked, tool_choice="none")
    assert after.choices[0].message.content


async def test_an_answer_is_held_to_a_json_schema(client: AsyncOpenAI) -> None:
    examples: list[ChatCompletionMessageParam] = [
        {"role": "user", "content": "Is 1+1=2?"},
        {"role": "assistant", "content": '{"is_right": true}'},
        {"role": "user", "content": "Is 2+2=5?"},
    ]
    done = await client.chat.completions.parse(
        model="plain", messages=examples, response_format=Verdict, max_tokens=64
    )
    assert isinstance(done.choices[0].message.parsed, Verdict)
    assert done.choices[0].finish_reason == "stop"


async def test_a_conversation_that_is_too_long_is_refused_with_the_servers_reason(
    qwen: Setting, client: AsyncOpenAI
) -> None:
    problem = await qwen.json("POST", "/chat", 502, json={"message": LONG, "agent": "plain"})
    assert problem["code"] == "upstream_rejected"
    assert "exceeds the available context size (1024 tokens)" in problem["detail"]
    assert problem["retryable"] is False
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(
            model="plain", messages=[{"role": "user", "content": LONG}]
        )
    assert "exceeds the available context size" in caught.value.message
    assert (await streamed(qwen, message="2+2", agent="plain"))[-1]["final_response"]


async def test_a_cancel_frees_the_servers_only_slot(mistral: Setting) -> None:
    await mistral.agent("endless", max_tokens=8000)
    async with asyncio.timeout(60):  # the cancelled answer would take minutes
        body = {"message": "Tell me all.", "agent": "endless"}
        async with mistral.session.post(f"{mistral.url}/chat/stream", json=body) as response:
            run = response.headers["X-Run-Id"]
            async for event in events(response):
                if event["event_type"] == "chat_chunk":
                    break
            (slot,) = await mistral.json("GET", f"{mistral.llama}/slots")
            assert slot["is_processing"]
            cancelled = await mistral.json("POST", f"/runs/{run}/cancel")
            assert cancelled["status"] == "cancelled"
        assert (await streamed(mistral, message="Hello", agent="plain"))[-1]["final_response"]
        (slot,) = await mistral.json("GET", f"{mistral.llama}/slots")
        assert not slot["is_processing"]
