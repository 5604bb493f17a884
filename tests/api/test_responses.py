"""`/v1/responses`, as OpenAI's own SDK uses it."""

import asyncio
import itertools
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from api.http.identity import OPEN
from caller import Caller
from llm.history import NO_ANSWER
from protocols.responses import EPOCH, run_id_of
from storage import Begin, StorageUnavailable
from tests.api.support import add, scripted
from tests.service import DEADLINE, Service, running
from tests.upstream import Gate, calls, eof_after, paced, status, text

NOTE: Any = {
    "type": "function",
    "name": "take_note",
    "description": "Keep a note.",
    "parameters": {"type": "object", "properties": {"text": {"type": "string"}}},
    "strict": False,
}
NOTED = calls(("take_note", {"text": "milk"}), ids=["call_1"], before="I note it.")
OUTPUT: Any = {"type": "function_call_output", "call_id": "call_1", "output": "noted"}


def nested(levels: int) -> Any:
    return [nested(levels - 1)] if levels else []


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"tools": [{"type": "web_search"}]}, "tools.0", "'web_search'"),
    ({"tools": [{"type": "function"}]}, "tools.0.name", "required"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0", "'item_reference'"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
        "input.0.message.content.0",
        "'input_file'",
    ),
    (
        {
            "input": [
                {
                    "role": "assistant",
                    "content": [{"type": "input_image", "image_url": "https://example.com"}],
                }
            ]
        },
        "input",
        "image",
    ),
    ({"input": [3]}, "input.0", "not supported"),
    ({"input": []}, "input", "at least 1"),
    ({"tool_choice": {"type": "function", "name": "none_such"}}, "tool_choice", "no tool"),
    ({"text": {"format": {"type": "json_schema"}}}, "text.format", "schema"),
    ({"conversation": "conv_1"}, "conversation", "previous_response_id"),
    ({"prompt": {"id": "p"}}, "prompt", "instructions"),
    ({"background": True, "store": False}, "background", "stored"),
    ({"metadata": {"a": 1}}, "metadata.a", "string"),
    ({"tools": [NOTE | {"parameters": {"a": "\ud800"}}]}, "tools.0.parameters", "UTF-8"),
    ({"tools": [NOTE | {"parameters": {"a": "\0"}}]}, "tools.0.parameters", "NUL"),
    ({"tools": [NOTE | {"parameters": {"a": nested(200)}}]}, "tools.0.parameters", "deep"),
]
"""A request, the parameter at fault, and what is said of it."""

_strict: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)


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
    sent = {"model": "chat", "input": "Hi."} | body
    answer = await service.json("POST", "/v1/responses", expect=expect, json=sent)
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = answer["error"]
    return error


async def frames(service: Service, path: str = "", **options: Any) -> list[dict[str, Any]]:
    """Return a stream's frames, each as strict as OpenAI's types, its name checked."""
    method = "GET" if path else "POST"
    async with service.session.request(
        method, f"{service.url}/v1/responses{path}", **options
    ) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        body = (await response.read()).decode()
    found = []
    for block in filter(None, body.split("\n\n")):
        if block.startswith(":"):
            continue
        name, data = block.split("\n")
        frame = json.loads(data.removeprefix("data: "))
        assert name == f"event: {frame['type']}"
        _strict.validate_python(frame)
        found.append(frame)
    return found


def numbers(found: list[dict[str, Any]]) -> list[int]:
    return [frame["sequence_number"] for frame in found]


async def test_an_answer_is_a_response() -> None:
    async with asked([text("Hel", "lo")]) as (client, upstream, _):
        done = await client.responses.create(
            model="chat", input="Hi.", instructions="Rhyme.", metadata={"a": "b"}
        )
    Response.model_validate(done.to_dict())
    assert (done.output_text, done.status, done.metadata) == ("Hello", "completed", {"a": "b"})
    assert done.id.startswith("resp_")
    assert done.usage is not None
    assert (done.usage.input_tokens, done.usage.output_tokens) == (10, 5)
    assert done.instructions == "Rhyme."
    said = upstream.requests[0]["messages"]
    assert [message["role"] for message in said] == ["system", "user"]
    assert said[0]["content"].endswith("\n\nRhyme.")


async def test_an_answer_is_streamed_in_typed_events_numbered_from_zero() -> None:
    async with asked([text("Hel", "lo")]) as (client, _, _service):
        stream = await client.responses.create(model="chat", input="Hi.", stream=True)
        events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(10))
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "Hello"


async def test_every_frame_is_as_strict_as_openai_s_own_types() -> None:
    script = [calls(("add", {"a": 1, "b": 2}), before="Let me see."), NOTED]
    body = {"model": "chat", "input": "Hi.", "tools": [NOTE], "stream": True}
    async with asked(script, tools=[add]) as (_, _, service):
        found = await frames(service, json=body)
    whole = Response.model_validate(found[-1]["response"])
    assert [item.type for item in whole.output] == ["message", "message", "function_call"]
    assert whole.output_text == "Let me see.I note it."


async def test_the_stream_helper_collects_the_response() -> None:
    async with (
        asked([NOTED]) as (client, _, _service),
        client.responses.stream(model="chat", input="Hi.", tools=[NOTE]) as stream,
    ):
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert "response.function_call_arguments.delta" in kinds
    assert final.output_text == "I note it."
    call = final.output[1]
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("take_note", {"text": "milk"})


async def test_a_parsed_answer_is_asked_for_by_its_schema() -> None:
    class Sum(BaseModel):
        total: int

    async with asked([text('{"total":', "3}")]) as (client, upstream, _):
        done = await client.responses.parse(model="chat", input="1+2", text_format=Sum)
    assert done.output_parsed == Sum(total=3)
    form = upstream.requests[0]["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["name"] == "Sum"
    assert form["json_schema"]["schema"]["properties"]["total"]["type"] == "integer"
    assert done.text is not None
    assert done.text.format is not None
    assert done.text.format.type == "json_schema"


async def test_what_a_request_says_about_its_answer_reaches_the_model_and_is_echoed() -> None:
    async with asked([text("ok")]) as (client, upstream, _):
        done = await client.responses.create(
            model="chat",
            input="Hi.",
            temperature=0.1,
            top_p=0.2,
            max_output_tokens=7,
            parallel_tool_calls=False,
            tools=[NOTE],
            tool_choice={"type": "function", "name": "take_note"},
            truncation="auto",
            include=["reasoning.encrypted_content"],
            reasoning={"effort": "low"},
            service_tier="flex",
            extra_body={"a_field_of_the_future": {"x": 1}},
        )
    sent = upstream.requests[0]
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"]) == (0.1, 0.2, 7)
    assert sent["tool_choice"] == "required"
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["take_note"]
    assert (done.temperature, done.top_p, done.max_output_tokens) == (0.1, 0.2, 7)
    assert (done.parallel_tool_calls, done.truncation, done.service_tier) == (
        False,
        "disabled",
        "default",
    )
    assert done.tools[0].type == "function"


async def test_every_kind_of_input_reaches_the_model() -> None:
    said: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "What is"}]},
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_1",
            "status": "completed",
            "content": [{"type": "output_text", "text": "What?", "annotations": []}],
        },
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "call_id": "call_1", "name": "take_note", "arguments": "{}"},
        {"type": "function_call", "call_id": "call_2", "name": "take_note", "arguments": "{}"},
        OUTPUT | {"call_id": "call_2", "output": [{"type": "input_text", "text": "two"}]},
        OUTPUT,
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "And this?"},
                {
                    "type": "input_image",
                    "image_url": "https://example.com/a.png",
                    "detail": "original",
                },
            ],
        },
    ]
    async with asked([text("A cat.")]) as (client, upstream, _):
        done = await client.responses.create(model="chat", input=said)
    assert done.output_text == "A cat."
    sent = upstream.requests[0]["messages"]
    roles = ["system", "user", "assistant", "tool", "tool", "assistant", "user"]
    assert [message["role"] for message in sent] == roles
    assert sent[0]["content"].endswith("\n\nBe brief.")
    assert sent[2]["content"] == "What?"
    results = [message["tool_call_id"] for message in sent[3:5]]
    assert [call["id"] for call in sent[2]["tool_calls"]] == results
    assert [message["content"] for message in sent[3:5]] == ["noted", "two"]
    assert sent[5]["content"] == NO_ANSWER
    picture = {"url": "https://example.com/a.png", "detail": "high"}
    assert sent[6]["content"][1]["image_url"] == picture


async def test_a_response_goes_on_with_the_one_before_without_its_instructions() -> None:
    async with asked([text("One."), text("Two."), text("Other.")]) as (client, upstream, _):
        first = await client.responses.create(model="chat", input="Say 1.", instructions="Rhyme.")
        second = await client.responses.create(
            model="chat", input="Say 2.", previous_response_id=first.id
        )
        other = await client.responses.create(
            model="chat", input="Another.", previous_response_id=first.id
        )
    assert second.previous_response_id == first.id
    assert (second.output_text, other.output_text) == ("Two.", "Other.")
    said = [message["content"] for message in upstream.requests[1]["messages"][1:]]
    assert said == ["Say 1.", "One.", "Say 2."]
    said = [message["content"] for message in upstream.requests[2]["messages"][1:]]
    assert said == ["Say 1.", "One.", "Another."]


async def test_the_client_s_calls_are_answered_in_the_next_request() -> None:
    async with asked([NOTED, text("Done."), text("Yes.")]) as (client, upstream, _):
        first = await client.responses.create(model="chat", input="Hi.", tools=[NOTE])
        second = await client.responses.create(
            model="chat", input=[OUTPUT], previous_response_id=first.id, tools=[NOTE]
        )
        third = await client.responses.create(
            model="chat", input="Sure?", previous_response_id=second.id
        )
    assert (second.output_text, third.output_text) == ("Done.", "Yes.")
    said = upstream.requests[2]["messages"][1:]
    roles = ["user", "assistant", "tool", "assistant", "user"]
    assert [message["role"] for message in said] == roles
    assert said[2]["content"] == "noted"


async def test_a_call_without_output_and_an_output_without_call_are_refused() -> None:
    call = {"type": "function_call", "call_id": "call_9", "name": "f", "arguments": "{}"}
    async with asked([NOTED]) as (client, upstream, service):
        first = await client.responses.create(model="chat", input="Hi.", tools=[NOTE])
        before: Any = {"previous_response_id": first.id}
        missing = await refusal(service, **before)
        strange = await refusal(service, **before, input=[OUTPUT, OUTPUT | {"call_id": "call_x"}])
        alone = await refusal(service, input=[call])
        early = await refusal(service, input=[OUTPUT | {"call_id": "call_9"}, call])
        twice = await refusal(service, **before, input=[OUTPUT, OUTPUT])
    assert missing["message"].endswith("No tool output found for function call call_1.")
    assert strange["param"] == "input.1.call_id"
    assert "No tool call found for function call output with call_id call_x." in strange["message"]
    assert "No tool output found for function call call_9." in alone["message"]
    assert "No tool call found" in early["message"]
    assert "No tool call found" in twice["message"]
    assert upstream.requests[1:] == []


async def test_what_cannot_be_done_is_refused_by_name() -> None:
    async with running() as service:
        for body, param, words in REFUSED:
            error = await refusal(service, **body)
            assert (error["param"], error["type"]) == (param, "invalid_request_error")
            assert words in error["message"]


async def test_a_response_is_found_again_until_it_is_deleted() -> None:
    async with asked([text("Hello"), text("More")]) as (client, _, service):
        done = await client.responses.create(model="chat", input="Hi.", metadata={"a": "b"})
        next_one = await client.responses.create(
            model="chat", input="Go on.", previous_response_id=done.id
        )
        again = await client.responses.retrieve(done.id)
        await client.responses.delete(done.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(done.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.delete(done.id)
        gone = await refusal(service, 404, previous_response_id=done.id)
        run = await service.json("GET", f"/runs/{run_id_of(done.id)}", expect=404)
        kept = await client.responses.retrieve(next_one.id)
    assert again.to_dict() == done.to_dict()
    assert gone["code"] == "previous_response_not_found"
    assert run["code"] == "run_not_found"
    assert kept.output_text == "More"


async def test_a_response_that_is_not_stored_is_not_found_again() -> None:
    async with asked([text("Hello")]) as (client, _, service):
        done = await client.responses.create(model="chat", input="Hi.", store=False)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(done.id)
        gone = await refusal(service, 404, previous_response_id=done.id)
    assert done.output_text == "Hello"
    assert gone["code"] == "previous_response_not_found"


async def test_an_id_that_is_none_is_not_found() -> None:
    ways = [("GET", ""), ("DELETE", ""), ("POST", "/cancel")]
    async with running() as service:
        for id, (method, path) in itertools.product(("resp_0", "run_0", "x"), ways):
            answer = await service.json(method, f"/v1/responses/{id}{path}", expect=404)
            assert answer["error"]["code"] == "response_not_found"
            assert answer["error"]["message"] == f"Response with id '{id}' not found."


async def test_a_response_that_another_process_works_on_is_in_progress() -> None:
    gate = Gate()
    async with asked([paced(text("Hel"), gate)]) as (client, _, service):
        begun = await client.responses.create(model="chat", input="Hi.", background=True)
        run = await service.registry.run(OPEN, run_id_of(begun.id) or "")
        other = msgspec.structs.replace(run, id="run_0", conversation_id="conv_0")
        await service.registry.store.accept(other, begin=Begin())
        there = await client.responses.retrieve("resp_0")
        gate.open()
    assert (there.status, there.output, there.model) == ("in_progress", [], begun.model)


async def test_a_response_that_cannot_be_read_now_is_not_said_to_be_in_progress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with asked([text("Hello")]) as (client, _, service):
        done = await client.responses.create(model="chat", input="Hi.")
        run_id = run_id_of(done.id)
        assert run_id is not None
        await service.registry._hub.forget(run_id)

        async def fails(*args: Any) -> Any:
            raise StorageUnavailable("Locked.", retry_after=1)

        with monkeypatch.context() as trouble:
            trouble.setattr(service.registry.store, "run_messages", fails)
            with pytest.raises(openai.InternalServerError) as caught:
                await client.responses.retrieve(done.id)
        assert (caught.value.status_code, caught.value.code) == (503, "storage_unavailable")
        assert (await client.responses.retrieve(done.id)).output_text == "Hello"


async def test_a_chat_of_another_surface_is_no_response() -> None:
    async with running() as service:
        chat = await service.json("POST", "/chat", json={"message": "Hi."})
        id = "resp_" + chat["run_id"].removeprefix("run_")
        await service.json("GET", f"/v1/responses/{id}", expect=404)
        done = await service.json(
            "POST",
            "/v1/chat/completions",
            json={"model": "chat", "messages": [{"role": "user", "content": "Hi."}]},
        )
        id = "resp_" + done["id"].removeprefix("chatcmpl-")
        await service.json("GET", f"/v1/responses/{id}", expect=404)


async def test_a_response_outlives_the_process_and_its_log(tmp_path: Path) -> None:
    tools = [add]
    script = [calls(("add", {"a": 1, "b": 2}), before="Let me see."), NOTED]
    async with asked(script, tools=tools, data_dir=tmp_path) as (client, _, service):
        done = await client.responses.create(
            model="chat", input="Hi.", tools=[NOTE], metadata={"a": "b"}
        )
        told = await frames(service, f"/{done.id}?stream=true")
    async with asked([text("Yes.")], tools=tools, data_dir=tmp_path) as (client, upstream, service):
        again = await client.responses.retrieve(done.id)
        streamed = await frames(service, f"/{done.id}?stream=true")
        behind = await frames(service, f"/{done.id}?stream=true&starting_after=4")
        went_on = await client.responses.create(
            model="chat", input=[OUTPUT], previous_response_id=done.id
        )
    assert again.to_dict() == done.to_dict() == told[-1]["response"]
    assert [frame["type"] for frame in streamed] == ["response.completed"]
    assert (numbers(streamed), numbers(behind)) == ([0], [5])
    assert streamed[0]["response"] == done.to_dict()
    assert went_on.output_text == "Yes."
    assert [message["role"] for message in upstream.requests[0]["messages"][1:]] == [
        "user",
        "assistant",
        "tool",
        "assistant",
        "tool",
    ]


async def test_a_stream_goes_on_behind_any_of_its_frames() -> None:
    script = [calls(("add", {"a": 1, "b": 2}), before="Let me see."), NOTED]
    body = {"model": "chat", "input": "Hi.", "tools": [NOTE], "stream": True}
    async with asked(script, tools=[add]) as (_, _, service):
        whole = await frames(service, json=body)
        id = whole[0]["response"]["id"]
        for number in numbers(whole):
            rest = await frames(service, f"/{id}?stream=true&starting_after={number}")
            assert rest == whole[number + 1 :]
        path = f"/v1/responses/{id}?stream=true&starting_after={len(whole)}"
        beyond = await service.json("GET", path, expect=400)
    assert numbers(whole) == list(range(len(whole)))
    assert beyond["error"]["param"] == "starting_after"


async def test_a_reader_that_lags_finds_the_same_numbers_at_the_same_places() -> None:
    pieces = [f"{number} " for number in range(600)]
    async with asked([text(*pieces)]) as (client, _, service):
        stream = await client.responses.create(model="chat", input="Count.", stream=True)
        created = await anext(aiter(stream))
        assert created.type == "response.created"
        rest = [event async for event in stream]
        id, last = created.response.id, rest[-1].sequence_number
        for number in (0, 1, 2, 3, 4, 100, 343, 344, 350, last - 5, last - 4, last - 1):
            found = await frames(service, f"/{id}?stream=true&starting_after={number}")
            assert numbers(found) == sorted({*numbers(found)})
            assert found[0]["sequence_number"] > number
            said = "".join(frame.get("delta", "") for frame in found)
            assert said == "".join(pieces[max(0, number - 3) :])
            assert found[-1]["sequence_number"] == last
    assert last == 4 + len(pieces) + 3


async def test_a_response_in_the_background_is_there_at_once_and_followed() -> None:
    gate = Gate()
    async with asked([paced(text("Hel", "lo"), gate)]) as (client, _, service):
        begun = await client.responses.create(model="chat", input="Hi.", background=True)
        assert begun.status in ("queued", "in_progress")
        assert (begun.background, begun.output) == (True, [])
        early = await refusal(service, previous_response_id=begun.id)
        assert "still in progress" in early["message"]
        followed = asyncio.create_task(frames(service, f"/{begun.id}?stream=true"))
        await gate.pass_one()
        await gate.pass_one()
        await until_told(client, begun.id, "Hel")
        gate.open()
        async with asyncio.timeout(DEADLINE):
            told = await followed
        done = await client.responses.retrieve(begun.id)
    assert told[-1]["response"] == done.to_dict()
    assert (done.status, done.output_text) == ("completed", "Hello")


async def until_told(client: AsyncOpenAI, id: str, text: str) -> None:
    """Wait until a response under way shows a text."""
    async with asyncio.timeout(DEADLINE):
        while True:
            now = await client.responses.retrieve(id)
            if now.output_text == text:
                break
    assert now.status == "in_progress"
    assert now.output[0].type == "message"
    assert now.output[0].status == "in_progress"


async def test_a_stream_in_the_background_is_resumed_while_it_goes_on() -> None:
    gate = Gate()
    async with asked([paced(text("Hel", "lo"), gate)]) as (client, _, service):
        stream = await client.responses.create(
            model="chat", input="Hi.", background=True, stream=True
        )
        id = ""
        async for event in stream:
            if event.type == "response.created":
                id = event.response.id
                await gate.pass_one()
                await gate.pass_one()
            if event.type == "response.output_text.delta":
                break
        await stream.close()
        resumed = asyncio.create_task(
            frames(service, f"/{id}?stream=true&starting_after={event.sequence_number}")
        )
        gate.open()
        async with asyncio.timeout(DEADLINE):
            rest = await resumed
    assert rest[0]["delta"] == "lo"
    assert numbers(rest) == list(range(5, 10))


async def test_a_cancelled_response_ends_with_what_it_had_said() -> None:
    gate = Gate()
    async with asked([paced(text("Hel", "lo"), gate)]) as (client, _, service):
        begun = await client.responses.create(model="chat", input="Hi.", background=True)
        followed = asyncio.create_task(frames(service, f"/{begun.id}?stream=true"))
        await gate.pass_one()
        await gate.pass_one()
        await until_told(client, begun.id, "Hel")
        cancelled = await client.responses.cancel(begun.id)
        async with asyncio.timeout(DEADLINE):
            told = await followed
        again = await client.responses.cancel(begun.id)
        refused = await refusal(service, previous_response_id=begun.id)
    assert (cancelled.status, cancelled.output_text) == ("cancelled", "Hel")
    assert again.to_dict() == cancelled.to_dict() == told[-1]["response"]
    assert told[-1]["type"] == "response.failed"
    assert "was cancelled" in refused["message"]


async def test_a_response_that_is_deleted_under_way_is_gone() -> None:
    gate = Gate()
    async with asked([paced(text("Hel", "lo"), gate)]) as (client, _, _service):
        begun = await client.responses.create(model="chat", input="Hi.", background=True)
        await gate.reached()
        await client.responses.delete(begun.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(begun.id)


async def test_a_crash_ends_the_old_numbers_and_begins_new_ones(tmp_path: Path) -> None:
    gate = Gate()
    before, after = tmp_path / "before", tmp_path / "after"
    after.mkdir()
    async with asked([paced(text("Hel", "lo"), gate)], data_dir=before) as (client, _, service):
        begun = await client.responses.create(model="chat", input="Hi.", background=True)
        await gate.reached()
        source, copy = (sqlite3.connect(path / "parley.db") for path in (before, after))
        with closing(source), closing(copy):
            source.backup(copy)
        gate.open()
        told = await frames(service, f"/{begun.id}?stream=true")
    async with asked([text("Hel", "p")], data_dir=after) as (client, _, service):
        lost = await frames(service, f"/{begun.id}?stream=true&starting_after=4")
        anew = await frames(service, f"/{begun.id}?stream=true")
        behind = await frames(service, f"/{begun.id}?stream=true&starting_after={EPOCH + 4}")
        done = await client.responses.retrieve(begun.id)
    assert numbers(told) == list(range(10))
    assert [(frame["type"], frame["sequence_number"]) for frame in lost] == [("error", 5)]
    assert numbers(anew) == [EPOCH + number for number in range(10)]
    assert behind == anew[5:]
    assert done.output_text == "Help"


async def test_a_failure_is_an_error_or_the_last_frame_and_kept() -> None:
    script = [status(400, "No."), eof_after(3), eof_after(3)]
    async with asked(script, openai_max_retries=0) as (client, _, service):
        with pytest.raises(openai.APIStatusError):
            await client.responses.create(model="chat", input="Hi.")
        told = await frames(service, json={"model": "chat", "input": "Hi.", "stream": True})
        id = told[0]["response"]["id"]
        kept = await client.responses.retrieve(id)
        refused = await refusal(service, previous_response_id=id)
    assert told[-1]["type"] == "response.failed"
    assert told[-1]["response"]["error"]["code"] == "server_error"
    assert kept.to_dict() == told[-1]["response"]
    assert (kept.status, kept.output_text) == ("failed", "one two")
    assert "has failed" in refused["message"]


async def test_an_answer_that_was_cut_is_incomplete_and_can_be_gone_on_with() -> None:
    async with asked([text("Hel", finish_reason="length"), text("lo")]) as (client, _, _service):
        cut = await client.responses.create(model="chat", input="Hi.", max_output_tokens=1)
        more = await client.responses.create(
            model="chat", input="Go on.", previous_response_id=cut.id
        )
    assert cut.status == "incomplete"
    assert cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"
    assert more.output_text == "lo"


async def test_the_same_key_is_the_same_response() -> None:
    async with asked([text("One"), text("Two")]) as (client, upstream, service):
        headers = {"Idempotency-Key": "k1"}
        first = await client.responses.create(model="chat", input="Hi.", extra_headers=headers)
        again = await client.responses.create(model="chat", input="Hi.", extra_headers=headers)
        other = await service.json(
            "POST",
            "/v1/responses",
            expect=409,
            json={"model": "chat", "input": "No."},
            headers=headers,
        )
    assert first.id == again.id
    assert len(upstream.requests) == 1
    assert other["error"]["code"] == "idempotency_conflict"


async def test_what_follows_a_user_s_response_is_that_user_s() -> None:
    async with asked([text("One"), text("Two")]) as (client, _, service):
        first = await client.responses.create(model="chat", input="Hi.", user="anna")
        second = await client.responses.create(
            model="chat", input="On.", previous_response_id=first.id
        )
        error = await refusal(service, 404, previous_response_id=first.id, user="bert")
        run = await service.registry.run(OPEN, run_id_of(second.id) or "")
    assert run.owner == Caller("open", "anna")
    assert json.loads(run.request)["memory"] is True
    assert error["code"] == "previous_response_not_found"
