"""`POST /chat/stream` and `POST /chat`."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.api.support import (
    Hanging,
    add,
    fail,
    follow,
    refused,
    rest,
    said,
    scripted,
    streaming,
    types,
    until,
)
from tests.service import DEADLINE, Service, events, running
from tests.upstream import calls, held, paced, status, text

pytestmark = pytest.mark.usefixtures("no_mistakes")


async def test_a_stream_is_the_runs_events_from_chat_start_to_chat_complete() -> None:
    async with scripted([text("Hel", "lo", "!")]) as (service, _):
        found = await service.stream(message="hi")
    assert types(found) == ["chat_start", "chat_chunk", "chat_complete"]
    assert said(found) == found[-1]["final_response"] == "Hello!"
    assert found[-1]["finish_reason"] == "stop"
    assert found[-1]["usage"] == {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    run_id = found[0]["run_id"]
    for seq, event in enumerate(found, 1):
        assert event["run_id"] == run_id
        assert event["seq"] == seq
        assert event["id"] == f"{run_id}:1:{seq}"


async def test_a_stream_has_the_headers_that_keep_proxies_from_holding_it_back() -> None:
    async with (
        running() as service,
        service.session.post(service.url + "/chat/stream", json={"message": "hi"}) as response,
    ):
        found = [event async for event in events(response)]
    assert response.headers["content-type"].split(";")[0] == "text/event-stream"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-run-id"] == found[0]["run_id"]
    assert "content-encoding" not in response.headers
    assert "content-length" not in response.headers
    assert "server" not in response.headers


async def test_each_piece_is_sent_when_it_comes_and_not_later() -> None:
    async with (
        scripted([paced(text("one", " two"))]) as (service, upstream),
        service.session.post(service.url + "/chat/stream", json={"message": "hi"}) as response,
    ):
        incoming = events(response)
        assert (await anext(incoming))["event_type"] == "chat_start"
        await upstream.gate.pass_one()  # the role
        for piece in ("one", " two"):
            await upstream.gate.pass_one()
            assert (await anext(incoming))["content"] == piece
        upstream.gate.open()
        assert [event["event_type"] async for event in incoming] == ["chat_complete"]


async def test_tool_calls_are_shown_with_their_arguments_and_results() -> None:
    script = [calls(("add", {"a": 15, "b": 27}), ids=["call00001"]), text("It is 42.")]
    async with scripted(script, tools=[add]) as (service, upstream):
        found = await service.stream(message="15 + 27?")
    assert types(found) == [
        "chat_start",
        "tool_call_start",
        "tool_call_complete",
        "chat_chunk",
        "chat_complete",
    ]
    start, done = found[1]["tool_call"], found[2]["tool_call"]
    at = start["started_at"]
    arguments = {"a": 15, "b": 27}
    assert start == {"id": "call00001", "name": "add", "arguments": arguments, "started_at": at}
    assert datetime.fromisoformat(at).utcoffset() == timedelta(0)
    assert done == start | {"result": 42, "truncated": False, "duration_ms": done["duration_ms"]}
    assert 0 < done["duration_ms"] < 1000 * DEADLINE
    assert found[-1]["usage"]["total_tokens"] == 30
    told = upstream.requests[1]["messages"][-1]
    assert (told["role"], told["tool_call_id"], told["content"]) == ("tool", "call00001", "42")


async def test_a_failing_tool_is_an_event_and_a_result_and_not_the_end() -> None:
    script = [calls(("fail", {"why": "no luck"}), ("add", {"a": 1, "b": 1})), text("So it goes.")]
    async with scripted(script, tools=[add, fail]) as (service, _):
        found = await service.stream(message="try")
    (error,) = [event for event in found if event["event_type"] == "tool_call_error"]
    assert error["tool_call"]["code"] == "failed"
    assert "no luck" in error["tool_call"]["error"]
    assert "tool_call_complete" in types(found)
    assert found[-1]["final_response"] == "So it goes."


async def test_without_parallel_tools_calls_run_one_after_another() -> None:
    script = [calls(("add", {"a": 1, "b": 1}), ("add", {"a": 2, "b": 2})), text("done")]
    async with scripted(script, tools=[add]) as (service, _):
        found = await service.stream(message="add", parallel_tools=False)
    one = ["tool_call_start", "tool_call_complete"]
    assert types(found)[1:6] == [one[0], "tool_call_queued", one[1], *one]


async def test_the_whole_answer_is_the_stream_in_one_piece() -> None:
    script = [calls(("add", {"a": 1, "b": 2}), ("fail", {}), ids=["a", "b"]), text("three")]
    async with (
        scripted(script, tools=[add, fail]) as (service, upstream),
        service.session.post(service.url + "/chat", json={"message": "1 + 2?"}) as response,
    ):
        answer = await response.json()
    assert response.status == 200
    assert response.headers["x-run-id"] == answer["run_id"]
    assert answer["response"] == "three"
    assert answer["finish_reason"] == "stop"
    assert (answer["agent"], answer["model"]) == ("chat", upstream.requests[0]["model"])
    records = {record["id"]: record for record in answer["tool_calls"]}
    assert (records["a"]["result"], records["a"]["error"]) == (3, None)
    assert records["b"]["result"] is None
    assert "broken" in records["b"]["error"]
    assert answer["usage"]["total_tokens"] == 30


@pytest.mark.parametrize(
    ("upstream_status", "code", "retryable"),
    [
        (401, "upstream_unauthorized", False),
        (429, "upstream_rate_limited", True),
        (500, "upstream_error", True),
    ],
)
async def test_a_whole_answer_that_failed_is_a_problem(
    upstream_status: int, code: str, retryable: bool
) -> None:
    async with scripted([status(upstream_status)], openai_max_retries=0) as (service, _):
        problem = await refused(service, "POST", "/chat", 502, code, json={"message": "hi"})
    assert problem["retryable"] is retryable


async def test_a_run_that_takes_too_long_is_a_504() -> None:
    async with scripted([held(text("late"))], run_timeout=0.2) as (service, upstream):
        await refused(service, "POST", "/chat", 504, "run_timeout", json={"message": "hi"})
    await upstream.closed_by_client()


async def test_all_readers_of_a_run_get_the_same_events_whenever_they_come() -> None:
    async with (
        scripted([paced(text("a", "b", "c"))]) as (service, upstream),
        streaming(service, message="hi") as (run_id, incoming),
    ):
        readers = [asyncio.create_task(rest(incoming))]
        for _ in range(3):
            readers.append(asyncio.create_task(follow(service, run_id)))
            await upstream.gate.pass_one()
        upstream.gate.open()
        async with asyncio.timeout(DEADLINE):
            found = await asyncio.gather(*readers)
        found.append(await follow(service, run_id))
    assert said(found[0]) == "abc"
    assert all(other == found[0] for other in found[1:])


async def test_a_client_that_leaves_ends_nothing_and_can_come_back() -> None:
    async with scripted([paced(text("one", " two", " three"))]) as (service, upstream):
        async with streaming(service, message="hi") as (run_id, incoming):
            await until(incoming, "chat_start")
            for _ in range(2):
                await upstream.gate.pass_one()
            seen = await anext(incoming)
        upstream.gate.open()
        later = await follow(service, run_id, last=seen["id"])
        info = await service.json("GET", f"/runs/{run_id}")
    assert seen["content"] + said(later) == "one two three" == later[-1]["final_response"]
    assert [event["seq"] for event in later] == [3, 4, 5]
    assert info["status"] == "completed"
    assert upstream.abandoned.value == 0


async def post(service: Service, key: str, **body: Any) -> tuple[int, Any]:
    async with service.session.post(
        service.url + "/chat", json=body, headers={"Idempotency-Key": key}
    ) as response:
        return response.status, await response.json()


async def test_the_same_request_under_the_same_key_is_the_same_run() -> None:
    async with scripted([held(text("once")), text("again")]) as (service, upstream):
        twins = [asyncio.create_task(post(service, "k1", message="hi")) for _ in range(5)]
        await upstream.gate.pass_one()
        async with asyncio.timeout(DEADLINE):
            answers = await asyncio.gather(*twins)
        late = await post(service, "k1", message="hi")
        assert all(answer == (200, late[1]) for answer in answers)
        assert upstream.asked.value == 1
        async with service.session.post(
            service.url + "/chat/stream",
            json={"message": "hi"},
            headers={"Idempotency-Key": "k1"},
        ) as response:
            replayed = [event async for event in events(response)]
        other_body, problem = await post(service, "k1", message="something else")
        other_key, answer = await post(service, "k2", message="hi")
    assert replayed[0]["event_type"] == "chat_start"
    assert replayed[-1]["run_id"] == late[1]["run_id"]
    assert (other_body, problem["code"]) == (409, "idempotency_conflict")
    assert (other_key, answer["response"]) == (200, "again")


async def test_two_messages_into_one_conversation_take_turns() -> None:
    async with scripted([held(text("first")), text("second")]) as (service, upstream):
        talk = [asyncio.create_task(service.stream(message="1", conversation_id="c"))]
        await upstream.asked.reach(1)
        async with service.session.post(
            service.url + "/chat/stream", json={"message": "2", "conversation_id": "c"}
        ) as response:
            incoming = events(response)
            queued = await anext(incoming)
            info = await service.json("GET", f"/runs/{queued['run_id']}")
            assert (info["status"], info["started_at"]) == ("queued", None)
            upstream.gate.open()
            found = [event async for event in incoming]
        await talk[0]
    assert said(found) == "second"
    contents = [message["content"] for message in upstream.requests[1]["messages"][1:]]
    assert contents == ["1", "first", "2"]


async def test_a_busy_conversation_can_refuse() -> None:
    async with scripted([held(text("first"))]) as (service, upstream):
        talk = asyncio.create_task(service.stream(message="1", conversation_id="c"))
        await upstream.asked.reach(1)
        body = {"message": "2", "conversation_id": "c", "if_busy": "reject"}
        problem = await refused(service, "POST", "/chat", 409, "conversation_busy", json=body)
        upstream.gate.open()
        found = await talk
    assert found[0]["run_id"] in problem["detail"]
    assert found[-1]["final_response"] == "first"


async def test_a_message_can_interrupt_the_run_before_it() -> None:
    async with scripted([paced(text("long", " story")), text("short")]) as (service, upstream):
        talk = asyncio.create_task(service.stream(message="1", conversation_id="c"))
        for _ in range(2):
            await upstream.gate.pass_one()
        await upstream.gate.reached()
        found = await service.stream(message="2", conversation_id="c", if_busy="interrupt")
        before = await talk
    assert (before[-1]["event_type"], before[-1]["finish_reason"]) == ("chat_complete", "cancelled")
    assert before[-1]["final_response"] == "long"
    assert found[-1]["final_response"] == "short"
    contents = [message["content"] for message in upstream.requests[1]["messages"][1:]]
    assert contents == ["1", "long", "2"]


async def test_too_many_waiting_messages_are_refused_with_a_time_to_come_back() -> None:
    async with scripted([held(text("first"))], max_queued_messages=0) as (service, upstream):
        talk = asyncio.create_task(service.stream(message="1", conversation_id="c"))
        await upstream.asked.reach(1)
        async with service.session.post(
            service.url + "/chat", json={"message": "2", "conversation_id": "c"}
        ) as response:
            problem = await response.json()
        upstream.gate.open()
        await talk
    assert (response.status, problem["code"]) == (429, "too_many_requests")
    assert int(response.headers["retry-after"]) >= 1


async def test_when_a_model_may_be_asked_again_is_passed_on() -> None:
    script = [status(429, retry_after=7)] * 2
    async with scripted(script, openai_max_retries=0) as (service, _):
        async with service.session.post(service.url + "/chat", json={"message": "1"}) as response:
            assert (response.status, response.headers["retry-after"]) == (502, "7")
        last = (await service.stream(message="1"))[-1]
        assert (last["code"], last["retry_after"]) == ("upstream_rate_limited", 7)


async def test_a_full_service_refuses_and_takes_work_again_afterwards() -> None:
    async with scripted([held(text("first")), text("second")], max_active_runs=1) as (
        service,
        upstream,
    ):
        talk = asyncio.create_task(service.stream(message="1"))
        await upstream.asked.reach(1)
        await refused(service, "POST", "/chat", 503, "unavailable", json={"message": "2"})
        upstream.gate.open()
        await talk
        answer = await service.json("POST", "/chat", json={"message": "2"})
    assert answer["response"] == "second"


async def test_the_demo_remembers_a_name_within_its_conversation_only() -> None:
    async with running() as service:
        ask = {"message": "What is my name?", "conversation_id": "sarahs"}
        await service.stream(message="Hi, my name is Sarah", conversation_id="sarahs")
        assert "Sarah" in (await service.json("POST", "/chat", json=ask))["response"]
        stranger = await service.json("POST", "/chat", json={"message": "What is my name?"})
        assert "Sarah" not in stranger["response"]
        forgotten = await service.json("POST", "/chat", json=ask | {"reset_history": True})
        assert "Sarah" not in forgotten["response"]


async def test_a_conversation_goes_on_after_every_kind_of_tool_trouble() -> None:
    hanging, ids = Hanging(), [f"call0000{number}" for number in range(8)]
    trouble = [
        calls(("fail", {}), ("add", {"a": 1, "b": 1}), ids=ids[:2]),
        text("one"),
        calls(("nothing", {}), ("add", '{"a": 1'), ("add", "[1]"), ("add", "NaN"), ids=ids[2:6]),
        text("two"),
        calls(("hang", {}), ("add", {"a": 1, "b": 1}), ids=ids[6:]),
        text("three"),
    ]
    tools = [add, fail, hanging.hang]
    async with scripted(trouble, tools=tools, history_messages=100) as (service, upstream):
        for message in ("1", "2"):
            found = await service.stream(message=message, conversation_id="c")
            assert found[-1]["event_type"] == "chat_complete", found[-1]
        async with streaming(service, message="3", conversation_id="c") as (run_id, incoming):
            await until(incoming, "tool_call_start")
            await service.json("POST", f"/runs/{run_id}/cancel")
            ended = await rest(incoming)
        last = await service.stream(message="4", conversation_id="c")
    assert ended[-1]["finish_reason"] == "cancelled"
    assert last[-1]["final_response"] == "three"
    told = upstream.requests[-1]["messages"]
    assert [m["content"] for m in told if m["role"] == "user"] == ["1", "2", "3", "4"]
    assert [m["tool_call_id"] for m in told if m["role"] == "tool"] == ids
