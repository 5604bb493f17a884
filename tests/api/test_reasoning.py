"""What a provider wants back goes through `/v1` in both directions."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from openai import AsyncOpenAI

import tests.anthropic_upstream as claude
import tests.upstream as up
from llm.dialects import Dialect
from llm.openai_messages import NO_REASONING
from tests.service import DEADLINE, Service, running
from tests.upstream import Upstream

HI: list[Any] = [{"role": "user", "content": "Hi."}]
SCHEMA = {"type": "object", "properties": {}}
NOTE: Any = {"type": "function", "function": {"name": "take_note", "parameters": SCHEMA}}
TOOL: Any = {"type": "function", "name": "take_note", "parameters": SCHEMA}
SIGNED = {"google": {"thought_signature": "c2ln"}}
FUNCTION = {"name": "f", "arguments": "{}"}
KNOWS = ("reasoning_content", "reasoning_details", "extra_content")

CALL = {"index": 0, "id": "call_1", "function": {"name": "take_note", "arguments": "{}"}}
DETAILS = [
    {"type": "reasoning.text", "index": 0, "text": "Hm, well.", "signature": "c2ln"},
    {"type": "reasoning.encrypted", "index": 1, "data": "b3BhcXVl"},
]
REASONED = up.completion(
    [
        {"reasoning_content": "Hm, "},
        {"reasoning_content": "well.", "reasoning_details": DETAILS},
        {"content": "I note it."},
        {"tool_calls": [CALL | {"extra_content": SIGNED}]},
    ],
    finish_reason="tool_calls",
)
THOUGHT = claude.message(
    claude.thought("Hm."),
    claude.redacted("b3BhcXVl"),
    claude.called("toolu_1", "take_note", {}),
    stop_reason="tool_use",
)
THINKING = [
    {"type": "thinking", "thinking": "Hm.", "signature": "c2lnbmVk"},
    {"type": "redacted_thinking", "data": "b3BhcXVl"},
]


@asynccontextmanager
async def openai(*replies: up.Reply) -> AsyncIterator[tuple[AsyncOpenAI, Upstream, Service]]:
    async with (
        Upstream([*replies], knows=KNOWS) as upstream,
        running(upstream=upstream.base_url) as service,
        sdk(service) as client,
    ):
        yield client, upstream, service


@asynccontextmanager
async def anthropic(*replies: up.Reply) -> AsyncIterator[tuple[AsyncOpenAI, Upstream, Service]]:
    async with (
        claude.Upstream([*replies]) as upstream,
        running(anthropic_base_url=upstream.base_url, anthropic_api_key="k") as service,
        sdk(service) as client,
    ):
        yield client, upstream, service


@asynccontextmanager
async def strict() -> AsyncIterator[AsyncOpenAI]:
    """Ask a server that refuses every member that it does not know."""
    async with (
        Upstream(lambda _: up.text("Ok")) as upstream,
        running(upstream=upstream.base_url) as service,
        sdk(service) as client,
    ):
        yield client


def sdk(service: Service) -> AsyncOpenAI:
    return AsyncOpenAI(api_key="-", base_url=f"{service.url}/v1", max_retries=0, timeout=DEADLINE)


async def completed(client: AsyncOpenAI, messages: list[Any]) -> dict[str, Any]:
    """Return the message of a chat completion."""
    done = await client.chat.completions.create(model="chat", messages=messages, tools=[NOTE])
    return done.choices[0].message.to_dict()


async def streamed(client: AsyncOpenAI, messages: list[Any]) -> dict[str, Any]:
    """Return the message that the SDK puts together from a stream."""
    async with client.chat.completions.stream(
        model="chat", messages=messages, tools=[NOTE]
    ) as stream:
        done = await stream.get_final_completion()
    message: dict[str, Any] = done.choices[0].message.to_dict()
    for call in message.get("tool_calls") or ():
        call.pop("index", None)
        call["function"].pop("parsed_arguments", None)
    return message


ASKING = pytest.mark.parametrize("ask", [completed, streamed])


def noted(message: dict[str, Any]) -> list[Any]:
    """Return the conversation with which a client goes on that echoes its messages."""
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": "noted"}
        for call in message["tool_calls"]
    ]
    return [*HI, message, *results]


@ASKING
async def test_a_client_that_echoes_its_history_gives_back_what_the_model_gave(
    ask: Callable[[AsyncOpenAI, list[Any]], Any],
) -> None:
    async with openai(REASONED, up.text("Ok")) as (client, upstream, _):
        message = await ask(client, HI)
        assert message["reasoning_content"] == "Hm, well."
        assert message["tool_calls"][0]["extra_content"]["google"] == SIGNED["google"]
        assert message["reasoning_details"] == DETAILS
        assert (await ask(client, noted(message)))["content"] == "Ok"
        answer = upstream.requests[1]["messages"][2]
    assert answer["reasoning_content"] == "Hm, well."
    assert answer["reasoning_details"] == DETAILS
    assert answer["tool_calls"][0]["extra_content"] == SIGNED
    assert answer["content"] == "I note it."


@ASKING
async def test_signed_thinking_goes_through_a_chat_completion(
    ask: Callable[[AsyncOpenAI, list[Any]], Any],
) -> None:
    async with anthropic(THOUGHT, claude.text("Ok")) as (client, upstream, _):
        message = await ask(client, HI)
        assert message["thinking_blocks"] == THINKING
        assert (await ask(client, noted(message)))["content"] == "Ok"
        blocks = upstream.requests[1]["messages"][1]["content"]
    assert blocks[:2] == THINKING
    assert blocks[2]["type"] == "tool_use"


async def test_another_server_does_not_get_it() -> None:
    async with openai(REASONED) as (client, _, _service):
        message = await completed(client, HI)
    async with anthropic(THOUGHT) as (client, _, _service):
        thought = await completed(client, HI)
    async with strict() as client:
        for each in (message, thought):
            assert (await completed(client, noted(each)))["content"] == "Ok"
    async with anthropic(claude.text("Ok"), claude.text("Ok")) as (client, upstream, _):
        for each in (message, thought):
            assert (await completed(client, noted(each)))["content"] == "Ok"
        kinds = [
            block["type"]
            for request in upstream.requests
            for block in request["messages"][1]["content"]
        ]
    assert kinds == ["text", "tool_use", "tool_use"]


@pytest.mark.parametrize("echo", ["reasoning_content", "extra_content"])
async def test_what_a_client_sends_of_its_own_goes_to_a_model_that_wants_it(
    monkeypatch: pytest.MonkeyPatch, echo: Any
) -> None:
    monkeypatch.setattr("llm.openai.dialect_of", lambda *_: Dialect(echo=echo))
    call = {"id": "call_1", "type": "function", "function": FUNCTION}
    message = {
        "role": "assistant",
        "reasoning_content": "Hm.",
        "tool_calls": [call | {"extra_content": SIGNED}],
    }
    async with openai(up.text("Ok")) as (client, upstream, _):
        await completed(client, noted(message))
        answer = upstream.requests[0]["messages"][2]
    assert answer.get("reasoning_content") == ("Hm." if echo == "reasoning_content" else None)
    extra = answer["tool_calls"][0].get("extra_content")
    assert extra == (SIGNED if echo == "extra_content" else None)


UNKNOWN: list[tuple[dict[str, Any], str]] = [
    ({"thinking_blocks": [{"type": "text", "text": "x"}]}, "thinking_blocks"),
    ({"thinking_blocks": [{"type": "thinking", "thinking": "x"}]}, "thinking_blocks"),
    (
        {"thinking_blocks": [{"type": "redacted_thinking", "data": "x", "more": 1}]},
        "thinking_blocks",
    ),
    (
        {"thinking_blocks": [{"type": "redacted_thinking", "data": "x" * 300_000}]},
        "thinking_blocks",
    ),
    ({"extra_content": {"google": {"thought_signature": "x" * 300_000}}}, "extra_content"),
    ({"extra_content": 5}, "messages.1.assistant.tool_calls.0.extra_content"),
]


async def test_what_no_provider_has_given_is_refused() -> None:
    async with running() as service:
        for members, field in UNKNOWN:
            call = {"id": "call_1", "type": "function", "function": FUNCTION}
            call |= {name: value for name, value in members.items() if name == "extra_content"}
            message = {"role": "assistant", "tool_calls": [call]} | members
            answer = await service.json(
                "POST",
                "/v1/chat/completions",
                expect=400,
                json={"model": "chat", "messages": noted(message)},
            )
            assert answer["error"]["param"] == field


async def test_a_mark_that_names_no_server_is_ignored() -> None:
    async with strict() as client:
        for mark in (5, {"provider": 5}, {"provider": "openai:x"}, {"provider": "system"}):
            extra = {"extra_content": {"parley": mark}}
            call = {"id": "call_1", "type": "function", "function": FUNCTION} | extra
            message = {"role": "assistant", "reasoning_content": "Hm.", "tool_calls": [call]}
            assert (await completed(client, noted(message)))["content"] == "Ok"


OUTPUT: Any = {"type": "function_call_output", "output": "noted"}


async def test_a_response_gives_back_what_the_model_gave() -> None:
    async with openai(REASONED, up.text("Ok")) as (client, upstream, _):
        first = await client.responses.create(model="chat", input="Hi.", tools=[TOOL])
        assert [item.type for item in first.output] == ["message", "reasoning", "function_call"]
        second = await client.responses.create(
            model="chat",
            input=[OUTPUT | {"call_id": "call_1"}],
            previous_response_id=first.id,
            tools=[TOOL],
        )
        assert second.output_text == "Ok"
        answer = upstream.requests[1]["messages"][2]
    assert answer["reasoning_content"] == "Hm, well."
    assert answer["tool_calls"][0]["extra_content"] == SIGNED
    assert answer["content"] == "I note it."


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_items_of_a_response_that_come_back_give_it_back(is_streamed: bool) -> None:
    async with anthropic(THOUGHT, claude.text("Ok")) as (client, upstream, _):
        if is_streamed:
            stream = await client.responses.create(
                model="chat", input=HI, tools=[TOOL], store=False, stream=True
            )
            events = [event async for event in stream]
            output = [event.item for event in events if event.type == "response.output_item.done"]
            assert events[-1].type == "response.completed"
            assert [item.to_dict() for item in events[-1].response.output] == [
                item.to_dict() for item in output
            ]
        else:
            first = await client.responses.create(model="chat", input=HI, tools=[TOOL], store=False)
            output = first.output
        said = [item.to_dict() for item in output]
        assert [item["type"] for item in said] == ["reasoning", "function_call"]
        assert said[0]["summary"] == []
        answer: Any = [*HI, *said, OUTPUT | {"call_id": said[1]["call_id"]}]
        done = await client.responses.create(model="chat", input=answer, store=False)
        assert done.output_text == "Ok"
        blocks = upstream.requests[1]["messages"][1]["content"]
    assert blocks[:2] == THINKING


async def test_reasoning_of_another_service_is_left_out() -> None:
    async with strict() as client:
        for sealed in (None, "", "gAAAAAB=", "bm9uc2Vuc2U=", "ü", "e30=", "W10="):
            said: Any = [
                *HI,
                {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": sealed},
                {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
                OUTPUT | {"call_id": "call_1"},
            ]
            assert (await client.responses.create(model="chat", input=said)).output_text == "Ok"


# Servers that refuse to go on without what they gave.


def demanding(body: dict[str, Any]) -> up.Reply:
    """Answer as DeepSeek (its models), Gemini (its models) or anybody (other models)."""
    answers = [m for m in body["messages"] if m["role"] == "assistant"]
    signed = [
        m["tool_calls"][0].get("extra_content", {}).get("google", {}).get("thought_signature")
        for m in answers
        if "tool_calls" in m
    ]
    if "gemini" in body["model"] and not all(signed):
        return up.status(400, "Function call is missing a thought_signature in functionCall parts.")
    thinks = "gemini" not in body["model"] and "plain" not in body["model"]
    if thinks and not all(m.get("reasoning_content") for m in answers):
        words = "The `reasoning_content` in the thinking mode must be passed back to the API."
        return up.status(400, words)
    thought = [{"reasoning_content": "Hm."}] if thinks else []
    if body["messages"][-1]["role"] == "tool":
        return up.completion([*thought, {"content": "3"}])
    add_up = {"name": "add", "arguments": '{"a":1,"b":2}'}
    call: dict[str, Any] = {"index": 0, "id": "call_1", "function": add_up}
    if "gemini" in body["model"]:
        call["extra_content"] = SIGNED
    return up.completion([*thought, {"tool_calls": [call]}], finish_reason="tool_calls")


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@asynccontextmanager
async def demanded(model: str) -> AsyncIterator[tuple[Service, Upstream]]:
    async with (
        Upstream(demanding, knows=KNOWS) as upstream,
        running(upstream=upstream.base_url, openai_model=model, tools=[add]) as service,
    ):
        yield service, upstream


async def asked(service: Service, agent: str = "chat") -> str:
    found = await service.stream(message="1 + 2?", conversation_id="c", agent=agent)
    assert found[-1]["event_type"] == "chat_complete", found[-1]
    return str(found[-1]["final_response"])


@pytest.mark.parametrize("model", ["deepseek-v4-pro", "kimi-k2.6", "gemini-3-pro", "an-alias"])
async def test_a_conversation_goes_on_with_a_model_that_wants_its_own_back(model: str) -> None:
    async with demanded(model) as (service, upstream):
        assert [await asked(service) for _ in range(3)] == ["3", "3", "3"]
        answers = [m for m in upstream.requests[-1]["messages"] if m["role"] == "assistant"]
    assert len(answers) == 5
    if model.startswith("gemini"):
        assert all(m["tool_calls"][0]["extra_content"] == SIGNED for m in answers[::2])
    elif model == "an-alias":  # it is learned after the first answer, which has none
        assert {m["reasoning_content"] for m in answers[:2]} == {"Hm.", NO_REASONING}
    else:
        assert {m["reasoning_content"] for m in answers} == {"Hm."}


@pytest.mark.parametrize("model", ["deepseek-v4-pro", "gemini-3-pro"])
async def test_a_conversation_that_others_began_goes_on_with_such_a_model(model: str) -> None:
    async with demanded("plain") as (service, _):
        await service.json("POST", "/agents/other", expect=201, json={"model": model})
        assert await asked(service) == "3"
        assert await asked(service, "other") == "3"
        assert await asked(service) == "3"
