"""`/v1/chat/completions` and `/v1/models`, as OpenAI's own SDK uses them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel

from api.http.identity import OPEN
from tests.api.support import add, scripted
from tests.service import DEADLINE, Service, running
from tests.upstream import calls, eof_after, status, text

HI: list[Any] = [{"role": "user", "content": "Hi."}]
NOTE: Any = {
    "type": "function",
    "function": {
        "name": "take_note",
        "description": "Keep a note.",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}},
    },
}
ASKED: Any = {
    "role": "assistant",
    "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "take_note", "arguments": "{}"}}
    ],
}
DONE: Any = {"role": "tool", "tool_call_id": "call_1", "content": "noted"}


def sdk(service: Service) -> AsyncOpenAI:
    return AsyncOpenAI(
        api_key="none", base_url=f"{service.url}/v1", max_retries=0, timeout=DEADLINE
    )


@asynccontextmanager
async def asked(script: Any, **options: Any) -> AsyncIterator[tuple[AsyncOpenAI, Any, Service]]:
    """Serve with a scripted model; yield the SDK, the upstream and the service."""
    async with scripted(script, **options) as (service, upstream), sdk(service) as client:
        yield client, upstream, service


async def refusal(service: Service, expect: int = 400, **body: Any) -> dict[str, Any]:
    """Return the error that a request gets, its shape checked."""
    sent = {"model": "chat", "messages": HI} | body
    answer = await service.json("POST", "/v1/chat/completions", expect=expect, json=sent)
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = answer["error"]
    return error


async def test_an_answer_is_a_completion() -> None:
    async with asked([text("Hel", "lo")]) as (client, _, _service):
        done = await client.chat.completions.create(model="chat", messages=HI)
    assert done.choices[0].message.content == "Hello"
    assert done.choices[0].finish_reason == "stop"
    assert done.id.startswith("chatcmpl-")
    assert done.usage is not None
    assert done.usage.total_tokens > 0
    assert (done._request_id or "").startswith("run_")


async def test_an_answer_is_streamed_as_it_comes() -> None:
    async with asked([text("Hel", "lo")]) as (client, _, _service):
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(
                model="chat", messages=HI, stream=True, stream_options={"include_usage": True}
            )
        ]
    pieces = [chunk.choices[0].delta.content for chunk in chunks[:-1]]
    assert pieces == ["", "Hel", "lo", None]
    assert chunks[-1].usage is not None
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1


async def test_a_model_is_an_agent_or_a_model_that_the_agent_chat_answers_with() -> None:
    async with asked([text("a"), text("b")], system_prompt="Be kind.") as (client, upstream, own):
        await own.json(
            "POST", "/agents/poet", expect=201, json={"instructions": "Rhyme.", "model": "big"}
        )
        by_agent = await client.chat.completions.create(model="poet", messages=HI)
        by_model = await client.chat.completions.create(model="Qwen/Qwen3:8b", messages=HI)
    first, second = upstream.requests
    assert (first["model"], first["messages"][0]["content"]) == ("big", "Rhyme.")
    assert (second["model"], second["messages"][0]["content"]) == ("Qwen/Qwen3:8b", "Be kind.")
    assert (by_agent.model, by_model.model) == ("big", "Qwen/Qwen3:8b")


async def test_what_a_request_says_about_its_answer_reaches_the_model() -> None:
    async with asked([text("{}")]) as (client, upstream, _):
        await client.chat.completions.create(
            model="chat",
            messages=HI,
            temperature=0.1,
            top_p=0.2,
            max_completion_tokens=7,
            stop=["a", "b"],
            seed=3,
            response_format={"type": "json_object"},
            extra_body={"a_field_of_the_future": {"x": 1}},
        )
    sent = upstream.requests[0]
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"]) == (0.1, 0.2, 7)
    assert (sent["stop"], sent["seed"]) == (["a", "b"], 3)
    assert sent["response_format"] == {"type": "json_object"}


async def test_a_parsed_answer_is_asked_for_by_its_schema() -> None:
    class Sum(BaseModel):
        total: int

    async with asked([text('{"total": 42}')]) as (client, upstream, _):
        done = await client.chat.completions.parse(model="chat", messages=HI, response_format=Sum)
    assert done.choices[0].message.parsed == Sum(total=42)
    form = upstream.requests[0]["response_format"]["json_schema"]
    assert (form["name"], form["strict"]) == ("Sum", True)
    assert form["schema"]["required"] == ["total"]


async def test_the_agents_own_tools_run_inside_and_are_not_told() -> None:
    script = [calls(("add", {"a": 1, "b": 2})), text("3")]
    async with asked(script, tools=[add]) as (client, _, _service):
        done = await client.chat.completions.create(model="chat", messages=HI)
        assert (done.choices[0].message.content, done.choices[0].message.tool_calls) == ("3", None)
    async with asked([*script], tools=[add]) as (client, _, _service):
        told = await stream_of(client, include_tool_events=True)
    events = [chunk.model_extra["tool_event"] for chunk in told if chunk.model_extra]
    assert [event["event_type"] for event in events] == ["tool_call_start", "tool_call_complete"]
    assert events[1]["tool_call"]["result"] == 3


async def stream_of(client: AsyncOpenAI, **options: Any) -> list[ChatCompletionChunk]:
    stream: Any = await client.chat.completions.create(
        model="chat", messages=HI, stream=True, extra_body={"stream_options": options}
    )
    return await collected(stream)


async def collected(stream: Any) -> list[ChatCompletionChunk]:
    return [chunk async for chunk in stream]


async def test_the_clients_tools_are_called_by_the_client() -> None:
    script = [calls(("take_note", {"text": "a"}), ("take_note", {"text": "b"})), text("Noted.")]
    async with asked(script, tools=[add]) as (client, upstream, _):
        asking = await client.chat.completions.create(model="chat", messages=HI, tools=[NOTE])
        choice = asking.choices[0]
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
        made: Any = choice.message.tool_calls
        assert [json.loads(call.function.arguments) for call in made] == [
            {"text": "a"},
            {"text": "b"},
        ]
        results: Any = [{"role": "tool", "tool_call_id": call.id, "content": "ok"} for call in made]
        spoken: Any = choice.message.to_dict()
        done = await client.chat.completions.create(
            model="chat", messages=[*HI, spoken, *results], tools=[NOTE]
        )
        assert done.choices[0].message.content == "Noted."
    first, second = upstream.requests
    assert [tool["function"]["name"] for tool in first["tools"]] == ["take_note", "add"]
    assert [message["role"] for message in second["messages"]] == [
        *("system", "user", "assistant"),
        *("tool", "tool"),
    ]


async def test_the_sdks_own_stream_helper_puts_calls_together() -> None:
    async with (
        asked([calls(("take_note", {"text": "a"}))]) as (client, _, _service),
        client.chat.completions.stream(model="chat", messages=HI, tools=[NOTE]) as stream,
    ):
        kinds = [event.type async for event in stream]
        done = await stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    made: Any = done.choices[0].message.tool_calls
    assert json.loads(made[0].function.arguments) == {"text": "a"}


@pytest.mark.parametrize(
    ("choice", "offered", "told"),
    [
        ("none", ["take_note", "add"], "none"),
        ("required", ["take_note"], "required"),
        (NOTE | {"function": {"name": "take_note"}}, ["take_note"], "required"),
        ("auto", ["take_note", "add"], None),
    ],
)
async def test_a_choice_of_tools_reaches_the_model(
    choice: Any, offered: list[str], told: str | None
) -> None:
    async with asked([text("Ok")], tools=[add]) as (client, upstream, _):
        await client.chat.completions.create(
            model="chat", messages=HI, tools=[NOTE], tool_choice=choice, parallel_tool_calls=False
        )
    sent = upstream.requests[0]
    assert [tool["function"]["name"] for tool in sent["tools"]] == offered
    assert sent.get("tool_choice") == told
    assert sent["parallel_tool_calls"] is False


async def test_messages_of_every_role_reach_the_model_as_they_are() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    sent: list[Any] = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, word("brief.")]},
        {"role": "user", "content": [word("What is "), picture, word("?")], "name": "ann"},
        ASKED,
        DONE | {"content": [word("no"), word("ted")]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "user", "content": [word("a"), word("b")]},
    ]
    async with asked([text("Ok")]) as (client, upstream, _):
        await client.chat.completions.create(model="chat", messages=sent)
    got = upstream.requests[0]["messages"]
    assert [message["role"] for message in got] == [
        *("system", "user", "assistant", "tool", "assistant", "user")
    ]
    assert got[0]["content"].endswith("\n\nBe brief.")
    assert got[1]["content"] == [word("What is "), picture, word("?")]
    assert [message.get("name") for message in got] == [None, "ann", None, None, None, None]
    [call] = got[2]["tool_calls"]
    assert call["function"] == ASKED["tool_calls"][0]["function"]
    assert (got[3]["tool_call_id"], got[3]["content"]) == (call["id"], "noted")
    assert (got[4]["content"], got[5]["content"]) == ("No.", "ab")


def word(said: str) -> dict[str, str]:
    return {"type": "text", "text": said}


async def test_a_long_conversation_reaches_the_model_whole() -> None:
    said: list[Any] = [
        {"role": role, "content": f"{role} {number}"}
        for number in range(100)
        for role in ("user", "assistant")
    ]
    async with asked([text("Ok")], history_messages=2) as (client, upstream, _):
        await client.chat.completions.create(model="chat", messages=[*said, *HI])
    assert len(upstream.requests[0]["messages"]) == 202


async def test_of_a_completion_the_outcome_stays_and_nothing_that_was_said() -> None:
    script = [calls(("add", {"a": 1, "b": 2})), text("Done with bazz.")]
    async with asked(script, tools=[add]) as (client, _, service):
        said: list[Any] = [{"role": "user", "content": "My PIN is 4711 quax."}]
        raw = await client.chat.completions.with_raw_response.create(
            model="chat", messages=said, tools=[NOTE]
        )
        run = await service.registry.run(OPEN, raw.headers["x-run-id"])
        assert run.request == ""
        stored = await service.registry.store.run(run.owner, run.id)
        assert stored is not None
        assert (stored.request, stored.terminal) == ("", run.terminal)
        assert await service.registry.store.run_messages(stored) == []
        found = await service.registry.store.conversation(stored.owner, stored.conversation_id)
        assert found is not None
        assert found.title is None


async def test_a_completion_leaves_no_conversation_behind() -> None:
    async with running() as service, sdk(service) as client:
        await client.chat.completions.create(model="chat", messages=HI, user="ann")
        for query in ("", "?user_id=ann"):
            assert (await service.json("GET", f"/conversations{query}"))["conversations"] == []


def with_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "a", "parameters": schema}}


def nested(levels: int) -> dict[str, Any]:
    return {"a": nested(levels - 1)} if levels > 1 else {}


BAD: list[tuple[dict[str, Any], str | None]] = [
    ({"n": 2}, "n"),
    ({"messages": []}, "messages"),
    ({"messages": "Hi."}, "messages"),
    ({"messages": [{"role": "robot", "content": "Hi."}]}, "messages.0"),
    ({"messages": [{"role": "user"}]}, "messages.0.user.content"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, None),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, None),
    (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}],
                }
            ]
        },
        None,
    ),
    ({"messages": [*HI, ASKED]}, "messages"),
    ({"messages": [*HI, ASKED, *HI]}, "messages.2"),
    ({"messages": [*HI, DONE]}, "messages.1.tool_call_id"),
    ({"messages": [*HI, ASKED, DONE, DONE]}, "messages.3.tool_call_id"),
    ({"temperature": 3}, "temperature"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"tool_choice": "any"}, "tool_choice"),
    ({"logprobs": True}, "logprobs"),
    ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
    ({"tools": [with_schema({"title": "\ud800"})]}, "tools.0.function.parameters"),
    ({"tools": [with_schema({"title": "\0"})]}, "tools.0.function.parameters"),
    ({"tools": [with_schema(nested(40))]}, "tools.0.function.parameters"),
    ({"tool_choice": NOTE | {"function": {"name": "none_such"}}}, "tool_choice"),
    ({"functions": [{"name": "old"}]}, "functions"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"stream_options": {"include_usage": True}}, None),
    ({"model": ""}, "model"),
]


async def test_what_cannot_be_done_is_refused_in_openais_shape() -> None:
    async with running() as service:
        for body, param in BAD:
            error = await refusal(service, **body)
            assert error["type"] == "invalid_request_error", body
            assert error["message"], body
            assert param is None or error["param"] == param, body
        broken = await service.json(
            "POST", "/v1/chat/completions", expect=400, data=b"{", headers=JSON
        )
        assert broken["error"]["code"] == "invalid_json"
        nowhere = await service.json("GET", "/v1/nowhere", expect=404)
        assert nowhere["error"]["code"] == "not_found"
        wrong = await service.json("GET", "/v1/chat/completions", expect=405)
        assert wrong["error"]["type"] == "invalid_request_error"


JSON = {"Content-Type": "application/json"}


async def test_a_body_over_the_limit_is_refused_in_openais_shape() -> None:
    async with running(max_body_bytes=2000) as service:
        error = await refusal(service, 413, padding="x" * 3000)
        assert error["code"] == "too_large"


async def test_a_model_outside_the_allowlist_is_not_found() -> None:
    async with asked([text("Ok")], allowed_models=("small",)) as (client, _, _service):
        with pytest.raises(openai.NotFoundError) as refused:
            await client.chat.completions.create(model="big", messages=HI)
        assert refused.value.code == "model_not_found"
        assert await client.chat.completions.create(model="small", messages=HI)


async def test_a_model_that_fails_is_an_error_of_the_server() -> None:
    async with asked([status(500)], openai_max_retries=0) as (client, _, _service):
        with pytest.raises(openai.InternalServerError) as failed:
            await client.chat.completions.create(model="chat", messages=HI)
    assert failed.value.status_code == 502
    assert str(failed.value.code).startswith("upstream_")


async def test_only_what_may_succeed_later_is_asked_for_again() -> None:
    script = [status(401), *[status(429, retry_after=7)] * 2]
    async with asked(script, openai_max_retries=0) as (client, upstream, _):
        eager = client.with_options(max_retries=1)
        with pytest.raises(openai.InternalServerError) as lasting:
            await eager.chat.completions.create(model="chat", messages=HI)
        assert (len(upstream.requests), lasting.value.status_code) == (1, 502)
        with pytest.raises(openai.RateLimitError) as limited:
            await client.chat.completions.create(model="chat", messages=HI)
        assert limited.value.response.headers["retry-after"] == "7"
        assert limited.value.type == "rate_limit_error"


async def test_a_stream_that_fails_before_it_says_anything_has_the_failures_status() -> None:
    script = [status(429), status(400, "Too long.", error_code="context_length_exceeded")]
    async with asked(script, openai_max_retries=0) as (client, _, _service):
        with pytest.raises(openai.RateLimitError):
            await stream_of(client)
        with pytest.raises(openai.BadRequestError) as refused:
            await stream_of(client)
        assert "Too long." in str(refused.value)


async def test_a_stream_that_fails_ends_in_an_error_and_is_not_closed() -> None:
    async with asked([eof_after(2, text("Hel", "lo"))]) as (client, _, service):
        with pytest.raises(openai.APIError) as failed:
            await stream_of(client)
        assert failed.value.code == "upstream_truncated"
        body = {"model": "chat", "messages": HI, "stream": True}
        url = f"{service.url}/v1/chat/completions"
        async with service.session.post(url, json=body) as response:
            raw = await response.text()
    assert raw.rstrip().endswith("}}")
    assert "[DONE]" not in raw


async def test_a_cancelled_run_is_an_error_to_who_waits_for_it() -> None:
    async with running(demo_tokens_per_second=20) as service, sdk(service) as client:
        stream = await client.chat.completions.create(
            model="chat", messages=[{"role": "user", "content": "help"}], stream=True
        )
        await anext(stream)
        run_id = stream.response.headers["x-run-id"]
        await service.json("POST", f"/runs/{run_id}/cancel")
        with pytest.raises(openai.APIError) as failed:
            await collected(stream)
        assert failed.value.code == "cancelled"


async def test_a_run_can_be_followed_in_any_protocol() -> None:
    async with asked([text("Hel", "lo")]) as (client, _, service):
        raw = await client.chat.completions.with_raw_response.create(model="chat", messages=HI)
        events = await service.json("GET", f"/runs/{raw.headers['x-run-id']}")
        assert events["final_response"] == "Hello"
        async with service.session.post(
            f"{service.url}/chat/stream?protocol=openai", json={"message": "Hi."}
        ) as response:
            assert response.status == 200


async def test_the_same_request_under_the_same_key_is_the_same_completion() -> None:
    async with asked([text("One"), text("Two")]) as (client, _, _service):
        headers = {"Idempotency-Key": "once"}
        first, second = await asyncio.gather(
            *(
                client.chat.completions.create(model="chat", messages=HI, extra_headers=headers)
                for _ in range(2)
            )
        )
        assert first == second
        with pytest.raises(openai.ConflictError):
            await client.chat.completions.create(
                model="chat", messages=[*HI, *HI], extra_headers=headers
            )


async def test_models_are_the_agents_and_the_models_that_are_named() -> None:
    models = {"allowed_models": ("small", "vendor/big"), "openai_model": "small"}
    async with asked([], **models) as (client, _, _service):
        listed = {model.id: model.owned_by async for model in client.models.list()}
        assert {"assistant", "chat", "research", "small", "vendor/big"} == set(listed)
        assert (listed["chat"], listed["small"]) == ("parley", "openai")
        found = await client.models.retrieve("vendor/big")
        assert (found.id, found.object) == ("vendor/big", "model")
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("none")
