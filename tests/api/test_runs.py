"""`/runs`: state, resumption, cancellation."""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from protocols import ENCODERS
from tests.api.support import (
    Hanging,
    add,
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
from tests.upstream import calls, held, paced, refusing, text

pytestmark = pytest.mark.usefixtures("no_mistakes")


async def test_every_cursor_in_every_form_gives_exactly_the_rest() -> None:
    script = [calls(("add", {"a": 1, "b": 2})), text("It", " is", " three", ".")]
    async with scripted(script, tools=[add]) as (service, _):
        found = await service.stream(message="1 + 2?")
        run_id = found[0]["run_id"]
        for seq in range(len(found)):
            later, cursor = found[seq:], f"{run_id}:1:{seq}"
            assert await follow(service, run_id, after=seq) == later
            assert await follow(service, run_id, after=cursor) == later
            assert await follow(service, run_id, last=cursor) == later
            # An EventSource repeats the address that it began with.
            assert await follow(service, run_id, after=0, last=cursor) == later


async def test_a_run_under_way_is_resumed_at_every_position_without_loss() -> None:
    async with (
        scripted([paced(text("a", "b", "c"))]) as (service, upstream),
        streaming(service, message="hi") as (run_id, incoming),
    ):
        whole = await until(incoming, "chat_start")
        readers = []
        await upstream.gate.pass_one()  # the role
        for _ in range(4):
            readers.append(asyncio.create_task(follow(service, run_id, after=len(whole))))
            await upstream.gate.pass_one()
            whole += [await anext(incoming)] if len(whole) < 4 else []
        upstream.gate.open()
        whole += await rest(incoming)
        async with asyncio.timeout(DEADLINE):
            rests = await asyncio.gather(*readers)
    assert said(whole) == "abc"
    assert rests == [whole[seq:] for seq in (1, 2, 3, 4)]


async def status_behind(service: Service, run_id: str, cursor: str, protocol: str = "") -> int:
    """Return the status with which the events behind a cursor are answered."""
    path = f"{service.url}/runs/{run_id}/events?protocol={protocol or 'events'}"
    async with service.session.get(path, headers={"Last-Event-ID": cursor}) as response:
        assert await response.read() == b"" or response.status == 200
        return response.status


async def test_behind_the_end_of_a_run_there_is_nothing_to_come_back_for(tmp_path: Path) -> None:
    async with running(data_dir=tmp_path) as service:
        found = await service.stream(message="hi")
        run_id, end = found[0]["run_id"], found[-1]["id"]
        for protocol in ENCODERS:
            assert await status_behind(service, run_id, end, protocol) == 204
        assert await status_behind(service, run_id, found[-2]["id"]) == 200
    async with running(data_dir=tmp_path) as service:
        for protocol in ENCODERS:
            assert await status_behind(service, run_id, end, protocol) == 204


async def test_an_expired_log_is_told_as_a_reset_and_the_outcome() -> None:
    async with scripted([text("All", " there")], run_log_ttl=1e-6) as (service, _):
        found = await service.stream(message="hi")
        run_id, end = found[0]["run_id"], found[-1]
        told = await follow(service, run_id, last=found[1]["id"])
        nothing_new = await status_behind(service, run_id, end["id"])
    assert types(told) == ["reset", "chat_start", "chat_chunk", "chat_complete"]
    assert told[0] == {
        "event_type": "reset",
        "run_id": run_id,
        "epoch": 1,
        "reason": "log_expired",
    }
    assert (told[1], told[-1]) == (found[0], end)
    assert said(told) == "All there"
    assert nothing_new == 204


async def test_a_run_is_forgotten_after_its_time() -> None:
    async with scripted([text("x")], run_ttl=1e-6, run_log_ttl=1e-6) as (service, _):
        found = await service.stream(message="hi")
        await refused(service, "GET", f"/runs/{found[0]['run_id']}", 404, "run_not_found")


def times(info: dict[str, Any]) -> list[datetime]:
    """Return the times that a run has had, in the order in which they have to be."""
    names = ("created_at", "started_at", "finished_at")
    return [datetime.fromisoformat(info[name]) for name in names if info[name]]


async def test_a_run_goes_from_running_to_completed() -> None:
    async with scripted([held(text("Hi", " you"))]) as (service, upstream):
        async with streaming(service, message="hello", conversation_id="c") as (run_id, incoming):
            await upstream.asked.reach(1)
            before = await service.json("GET", f"/runs/{run_id}")
            health = await service.json("GET", "/health")
            upstream.gate.open()
            await rest(incoming)
        after = await service.json("GET", f"/runs/{run_id}")
    assert health["active_runs"] == 1
    assert (before["status"], before["conversation_id"]) == ("running", "c")
    assert (before["agent"], before["model"]) == ("chat", upstream.requests[0]["model"])
    assert before["finished_at"] is before["final_response"] is before["usage"] is None
    assert (after["status"], after["finish_reason"]) == ("completed", "stop")
    assert after["final_response"] == "Hi you"
    assert after["usage"] == {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    assert after["error"] is None
    assert len(times(after)) == 3
    assert times(after) == sorted(times(after))
    assert all(time.tzinfo for time in times(after))


async def test_a_failed_run_says_why() -> None:
    with refusing() as nowhere:
        async with running(upstream=nowhere, openai_max_retries=0) as service:
            found = await service.stream(message="hi")
            info = await service.json("GET", f"/runs/{found[0]['run_id']}")
    assert types(found) == ["chat_start", "error"]
    assert info["status"] == "failed"
    assert info["error"] == {key: found[-1][key] for key in ("code", "message", "retryable")}
    assert info["error"]["code"] == "upstream_unreachable"


async def cancelled(service: Service, run_id: str) -> Any:
    """Cancel a run and return what the service said to that."""
    return await service.json("POST", f"/runs/{run_id}/cancel")


async def test_a_cancel_closes_the_connection_to_the_model_and_keeps_the_text() -> None:
    async with scripted([paced(text("one", " two"))]) as (service, upstream):
        async with streaming(service, message="hi") as (run_id, incoming):
            for _ in range(2):
                await upstream.gate.pass_one()
            found = await until(incoming, "chat_chunk")
            await cancelled(service, run_id)
            await upstream.closed_by_client()
            async with asyncio.timeout(DEADLINE):
                found += await rest(incoming)
        info = await service.json("GET", f"/runs/{run_id}")
        assert await follow(service, run_id) == found
    assert found[-1]["event_type"] == "chat_complete"
    assert found[-1]["finish_reason"] == info["finish_reason"] == "cancelled"
    assert found[-1]["final_response"] == info["final_response"] == "one"
    assert info["status"] == "cancelled"


async def test_a_cancel_before_the_first_byte_of_the_model_ends_the_run() -> None:
    async with (
        scripted([held(text("never"))]) as (service, upstream),
        streaming(service, message="hi") as (run_id, incoming),
    ):
        await upstream.asked.reach(1)
        await cancelled(service, run_id)
        await upstream.closed_by_client()
        found = await rest(incoming)
    assert types(found) == ["chat_start", "chat_complete"]
    assert (found[-1]["finish_reason"], found[-1]["final_response"]) == ("cancelled", "")


async def test_a_cancel_ends_the_tools_within_two_seconds() -> None:
    tool = Hanging()
    async with scripted([calls(("hang", {}), ("hang", {}))], tools=[tool.hang]) as (service, _):
        async with streaming(service, message="hi") as (run_id, incoming):
            found = await until(incoming, "tool_call_start")
            found += await until(incoming, "tool_call_start")
            await cancelled(service, run_id)
            async with asyncio.timeout(2):
                found += await rest(incoming)
        assert await tool.has_ended(within=2)
    codes = [e["tool_call"]["code"] for e in found if e["event_type"] == "tool_call_error"]
    assert codes == ["cancelled", "cancelled"]
    assert found[-1]["finish_reason"] == "cancelled"


async def test_cancelling_one_call_leaves_its_sibling_and_the_run_alone() -> None:
    tool, slow, fast = Hanging(), "slow00001", "fast00001"
    script = [calls(("hang", {}), ("add", {"a": 1, "b": 1}), ids=[slow, fast]), text("done")]
    async with (
        scripted(script, tools=[tool.hang, add]) as (service, upstream),
        streaming(service, message="hi") as (run_id, incoming),
    ):
        found = await until(incoming, "tool_call_complete")
        path = f"/runs/{run_id}/tool_calls"
        await service.json("POST", f"{path}/{slow}/cancel", expect=204)
        found += await until(incoming, "tool_call_error")
        await refused(service, "POST", f"{path}/{slow}/cancel", 404, "tool_call_not_found")
        found += await rest(incoming)
        assert await tool.has_ended(within=2)
    (failed,) = [e["tool_call"] for e in found if e["event_type"] == "tool_call_error"]
    assert (failed["id"], failed["code"]) == (slow, "cancelled")
    assert (found[-1]["finish_reason"], found[-1]["final_response"]) == ("stop", "done")
    results = [m for m in upstream.requests[1]["messages"] if m["role"] == "tool"]
    assert [m["tool_call_id"] for m in results] == [slow, fast]


async def test_a_queued_run_can_be_cancelled_and_the_one_before_it_goes_on() -> None:
    async with scripted([held(text("first")), text("third")]) as (service, upstream):
        first = asyncio.create_task(service.stream(message="1", conversation_id="c"))
        await upstream.asked.reach(1)
        async with streaming(service, message="2", conversation_id="c") as (run_id, incoming):
            await cancelled(service, run_id)
            _, end = await rest(incoming)
        upstream.gate.open()
        assert (await first)[-1]["final_response"] == "first"
        third = await service.stream(message="3", conversation_id="c")
    assert (end["event_type"], end["finish_reason"]) == ("chat_complete", "cancelled")
    assert third[-1]["final_response"] == "third"
    contents = [message["content"] for message in upstream.requests[1]["messages"][1:]]
    assert contents == ["1", "first", "3"]


async def test_cancelling_a_run_that_has_ended_changes_nothing() -> None:
    async with scripted([text("done")]) as (service, _):
        found = await service.stream(message="hi")
        before = await service.json("GET", f"/runs/{found[0]['run_id']}")
        assert await cancelled(service, found[0]["run_id"]) == before
        assert await follow(service, found[0]["run_id"]) == found
    assert before["status"] == "completed"


async def test_cancelling_twice_is_cancelling_once() -> None:
    tool = Hanging()
    async with (
        scripted([calls(("hang", {}))], tools=[tool.hang]) as (service, _),
        streaming(service, message="hi") as (run_id, incoming),
    ):
        await until(incoming, "tool_call_start")
        for _ in range(3):
            await cancelled(service, run_id)
        later = await rest(incoming)
    assert types(later) == ["tool_call_error", "chat_complete"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/runs/run_unknown"),
        ("GET", "/runs/run_unknown/events"),
        ("POST", "/runs/run_unknown/cancel"),
        ("POST", "/runs/run_unknown/tool_calls/call_1/cancel"),
    ],
)
async def test_a_run_that_is_not_there_is_a_404(method: str, path: str) -> None:
    async with running() as service:
        await refused(service, method, path, 404, "run_not_found")


async def test_a_call_that_is_not_under_way_is_a_404() -> None:
    async with running() as service:
        found = await service.stream(message="hi")
        path = f"/runs/{found[0]['run_id']}/tool_calls/call_1/cancel"
        await refused(service, "POST", path, 404, "tool_call_not_found")


@pytest.mark.parametrize("protocol", ["tokens", "chunks", "agents-sdk"])
@pytest.mark.parametrize("seq", [2, 3, 4])
async def test_a_protocol_with_a_memory_goes_on_as_if_it_had_not_been_left(
    protocol: str, seq: int
) -> None:
    async with scripted([text("one ", "two ", "three")]) as (service, _):
        run_id = (await service.json("POST", "/chat", json={"message": "hi"}))["run_id"]
        path = f"{service.url}/runs/{run_id}/events?protocol={protocol}"
        async with service.session.get(path) as response:
            whole = await response.text()
        async with service.session.get(f"{path}&after={seq}") as response:
            rest_of_it = await response.text()
    assert rest_of_it
    assert whole.endswith(rest_of_it)
    assert f":1:{seq}\n" in whole.removesuffix(rest_of_it)


async def test_however_long_it_is_a_message_that_is_gone_on_with_is_whole() -> None:
    pieces = [f"{number} " for number in range(600)]
    async with scripted([text(*pieces)]) as (service, _):
        run_id = (await service.json("POST", "/chat", json={"message": "hi"}))["run_id"]
        path = f"{service.url}/runs/{run_id}/events?protocol=agents-sdk&after=300"
        async with service.session.get(path) as response:
            frames = [frame async for frame in events(response)]
    [item] = [frame for frame in frames if frame.get("name") == "message_output_created"]
    assert item["item"]["raw_item"]["content"][0]["text"] == "".join(pieces)
    assert item["status"] == "completed"
