"""What waits, and when what waited was executed: in events, on sockets, in conversations."""

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import pytest

from caller import Caller
from messages import AssistantMessage, Message, ToolCall, ToolMessage
from storage import Begin
from tests.api.support import Hanging, add, fail, rest, scripted, streaming, types, until
from tests.scripted import DEADLINE, Gate
from tests.service import Event, Service, running
from tests.storage.support import DONE, a_run
from tests.upstream import calls, held, text
from tests.wsclient import ENDS, connected

pytestmark = pytest.mark.usefixtures("no_mistakes")

ADD = ("add", {"a": 1, "b": 2})


async def shown(service: Service, conversation_id: str = "c") -> Any:
    return await service.json("GET", f"/conversations/{conversation_id}")


async def queued(service: Service, stack: AsyncExitStack, path: str, **body: Any) -> str:
    """Send what has to wait, and return its run's id once it was accepted."""
    sending = service.session.post(service.url + path, json=body)
    response = await stack.enter_async_context(sending)
    assert response.status == 200, await response.text()
    return response.headers["X-Run-Id"]


def tools_of(detail: Any) -> dict[str, Any]:
    """Return the results that a conversation shows, by the name of their tool."""
    return {each["name"]: each for each in detail["messages"] if each["role"] == "tool"}


# Calls.


async def test_a_socket_tells_of_a_call_that_waits_in_a_type_of_its_own() -> None:
    script = [calls(ADD, ADD, ids=["a", "b"]), text("3 and 3")]
    async with (
        scripted(script, tools=[add]) as (service, _),
        connected(service) as client,
    ):
        await client.send("chat", "r1", message="go", parallel_tools=False)
        frames = await client.until(*ENDS)
    assert [frame["type"] for frame in frames[1:6]] == [
        "tool_call",
        "tool_call_queued",
        "tool_call",
        "tool_call",
        "tool_call",
    ]
    waits = frames[2]
    assert (waits["request_id"], waits["data"]["event_type"]) == ("r1", "tool_call_queued")
    assert waits["data"]["tool_call"] == {"id": "b", "name": "add", "arguments": ADD[1]}


async def test_a_conversation_shows_when_its_calls_were_executed_and_how_long() -> None:
    before = datetime.now(UTC)
    script = [calls(ADD, ("fail", {}), ("nothing", {})), text("Well.")]
    async with scripted(script, tools=[add, fail]) as (service, _):
        found = await service.stream(message="go", conversation_id="c")
        detail = await shown(service)
        exported = await service.json("GET", "/conversations/c/export")
        assert exported | {"last_run": detail["last_run"]} == detail
    ended = {
        event["tool_call"]["name"]: event["tool_call"]
        for event in found
        if event["event_type"] in ("tool_call_complete", "tool_call_error")
    }
    results = tools_of(detail)
    for name in ("add", "fail"):
        assert results[name]["started_at"] == ended[name]["started_at"]
        assert before <= datetime.fromisoformat(results[name]["started_at"]) <= datetime.now(UTC)
        assert results[name]["duration_ms"] == ended[name]["duration_ms"] > 0
    assert ended["nothing"]["started_at"] is None
    for message in detail["messages"]:
        if message.get("name") not in ("add", "fail"):
            assert (message["started_at"], message["duration_ms"]) == (None, None)


async def test_a_call_that_was_stored_without_its_time_is_shown_without() -> None:
    said: list[Message] = [
        AssistantMessage("", (ToolCall("c1", "add", "{}"),)),
        ToolMessage("c1", "add", "3"),
        AssistantMessage("3"),
    ]
    async with running() as service:
        run, store = a_run("c", Caller("open", "default")), service.registry.store
        await store.accept(run, begin=Begin())
        await store.finish(run, said, DONE)
        result = tools_of(await shown(service))["add"]
    assert (result["content"], result["is_error"]) == ("3", False)
    assert (result["started_at"], result["duration_ms"]) == (None, None)


async def test_a_call_that_is_cancelled_while_it_waits_was_never_executed() -> None:
    hanging = Hanging()
    script = [calls(("hang", {}), ADD, ids=["first", "second"]), text("Well.")]
    async with scripted(script, tools=[hanging.hang, add]) as (service, _):
        body = {"message": "go", "conversation_id": "c", "parallel_tools": False}
        async with streaming(service, **body) as (run_id, incoming):
            found = await until(incoming, "tool_call_queued")
            for call_id in ("second", "first"):
                path = f"/runs/{run_id}/tool_calls/{call_id}/cancel"
                await service.json("POST", path, expect=204)
                found += await until(incoming, "tool_call_error")
            found += await rest(incoming)
        results = tools_of(await shown(service))
    told: dict[str, list[Event]] = {"first": [], "second": []}
    for event in found:
        if "tool_call" in event:
            told[event["tool_call"]["id"]].append(event)
    assert types(told["first"]) == ["tool_call_start", "tool_call_error"]
    assert types(told["second"]) == ["tool_call_queued", "tool_call_error"]
    assert told["second"][1]["tool_call"]["code"] == "cancelled"
    assert told["second"][1]["tool_call"]["started_at"] is None
    assert told["first"][1]["tool_call"]["started_at"] == results["hang"]["started_at"] is not None
    assert (results["add"]["started_at"], results["add"]["duration_ms"]) == (None, None)
    assert found[-1]["final_response"] == "Well."


# Messages.


async def test_a_conversation_lists_what_waits_in_its_order_and_then_nothing() -> None:
    script = [held(text("1")), *map(text, "2345")]
    async with scripted(script) as (service, upstream), AsyncExitStack() as stack:
        chat = {"path": "/chat/stream", "conversation_id": "c"}
        first = await queued(service, stack, message="one", **chat)
        await upstream.asked.reach(1)
        assert (await shown(service))["waiting"] == []
        waiting: list[dict[str, Any]] = [
            {"run_id": await queued(service, stack, message=message, **chat), "message": message}
            for message in ("two", "three")
        ]
        anew = await queued(service, stack, "/conversations/c/regenerate/stream")
        waiting.append({"run_id": anew, "message": None})
        detail = await shown(service)
        assert (detail["active_run_id"], detail["waiting"]) == (first, waiting)
        [listed] = (await service.json("GET", "/conversations"))["conversations"]
        assert listed["waiting"] == waiting
        [message] = detail["messages"]
        assert (message["content"], message["run_id"]) == ("one", first)

        await service.json("POST", f"/runs/{waiting[0]['run_id']}/cancel")
        await ended(service, waiting[0]["run_id"])
        assert (await shown(service))["waiting"] == waiting[1:]

        upstream.gate.open()
        await ended(service, anew)
        detail = await shown(service)
    assert (detail["active_run_id"], detail["waiting"]) == (None, [])
    assert [each["content"] for each in detail["messages"]] == ["one", "1", "three", "3"]


async def test_a_conversation_is_shown_while_the_end_of_what_waits_is_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = [held(text("1"))]
    async with scripted(script) as (service, upstream), AsyncExitStack() as stack:
        chat = {"path": "/chat/stream", "conversation_id": "c"}
        await queued(service, stack, message="one", **chat)
        await upstream.asked.reach(1)
        second = await queued(service, stack, message="two", **chat)
        gate, store = Gate(), service.registry.store
        finish = store.finish

        async def stopped(*args: Any) -> bool:
            await gate.pass_through()
            return await finish(*args)

        monkeypatch.setattr(store, "finish", stopped)
        cancelling = asyncio.create_task(service.json("POST", f"/runs/{second}/cancel"))
        await gate.reached()
        assert (await shown(service))["waiting"] == [{"run_id": second, "message": "two"}]
        gate.open()
        assert (await cancelling)["status"] == "cancelled"
        assert (await shown(service))["waiting"] == []
        upstream.gate.open()


async def ended(service: Service, run_id: str) -> None:
    """Wait for the end of a run, and until it has left its conversation."""
    async with service.session.get(f"{service.url}/runs/{run_id}/events") as response:
        await response.read()
    await service.registry._commands.wait([run_id], DEADLINE)


async def test_what_waits_in_one_conversation_is_not_listed_in_another() -> None:
    script = [held(text("1")), held(text("2")), text("3")]
    async with scripted(script) as (service, upstream), AsyncExitStack() as stack:
        path = "/chat/stream"
        await queued(service, stack, path, message="one", conversation_id="c")
        await queued(service, stack, path, message="two", conversation_id="d")
        await upstream.asked.reach(2)
        await queued(service, stack, path, message="three", conversation_id="d")
        assert (await shown(service))["waiting"] == []
        assert len((await shown(service, "d"))["waiting"]) == 1
        upstream.gate.open()
