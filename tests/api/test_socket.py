"""`/ws` over real sockets: what a client that keeps to the protocol gets."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from tests.service import Event, Service, events, running
from tests.upstream import Gate, Reply, Upstream, calls, paced, text
from tests.wsclient import ENDS, Client, Closed, Frame, as_sse, connected, text_of

pytestmark = pytest.mark.usefixtures("no_mistakes")


@pytest.fixture
async def demo() -> AsyncIterator[Service]:
    async with running() as service:
        yield service


def echo(body: dict[str, Any]) -> Reply:
    """Answer with the history as the model sees it: `user:a|assistant:…|user:b`."""
    told = [f"{m['role']}:{m['content']}" for m in body["messages"] if m["role"] != "system"]
    return text("|".join(told))


async def quick() -> str:
    """Return at once."""
    return "done"


async def endless() -> str:
    """Never return."""
    await asyncio.Event().wait()
    return "never"


async def rest_over_sse(service: Service, run_id: str, after: str = "") -> list[Event]:
    query = {"after": after} if after else {}
    address = f"{service.url}/runs/{run_id}/events"
    async with service.session.get(address, params=query) as response:
        assert response.status == 200, await response.text()
        return [event async for event in events(response)]


async def replay(client: Client, run_id: str, **data: Any) -> list[Frame]:
    await client.send("subscribe", run_id=run_id, **data)
    return [frame for frame in await client.until(*ENDS) if frame["type"] != "ack"]


async def finished(service: Service, run_id: str) -> None:
    """Return once the run has ended."""
    await rest_over_sse(service, run_id)


# Shapes


async def test_a_chat_comes_in_the_shapes_that_published_clients_read(demo: Service) -> None:
    async with connected(demo) as client:
        frames = await client.chat("What's 15 + 27?", reset_history=False, parallel_tools=True)
    kinds = [frame["type"] for frame in frames]
    assert kinds[0] == "chat_start"
    assert kinds[1:3] == ["tool_call", "tool_call"]
    assert set(kinds[3:-1]) == {"chat_chunk"}
    assert kinds[-1] == "chat_complete"
    assert "42" in text_of(frames)
    assert frames[-1]["data"]["final_response"] == text_of(frames)
    assert [f["data"]["event_type"] for f in frames[1:3]] == [
        "tool_call_start",
        "tool_call_complete",
    ]
    assert frames[1]["data"]["tool_call"]["name"] == "calculate"


async def test_data_and_id_are_the_same_as_over_sse(demo: Service) -> None:
    async with connected(demo) as client:
        frames = await client.chat("What's 15 + 27?")
    over_sse = await rest_over_sse(demo, frames[0]["data"]["run_id"])
    assert as_sse(frames) == over_sse
    assert [f["data"]["seq"] for f in frames] == list(range(1, len(frames) + 1))


async def test_a_run_that_fails_ends_with_an_error_frame() -> None:
    async with (
        Upstream([]) as upstream,
        running(upstream=upstream.base_url) as service,
        connected(service) as client,
    ):
        frames = await client.chat("hello", "r1")
        assert frames[-1]["type"] == "error"
        assert frames[-1]["request_id"] == "r1"
        assert frames[-1]["data"]["run_id"] == frames[0]["data"]["run_id"]
        assert {"code", "message", "retryable"} <= frames[-1]["data"].keys()


@pytest.mark.parametrize("request_id", ["r1", "a.b-c_D", "x" * 256])
async def test_the_request_id_is_on_every_frame_of_its_chat(demo: Service, request_id: str) -> None:
    async with connected(demo) as client:
        frames = await client.chat("What's 15 + 27?", request_id)
    assert {frame.get("request_id") for frame in frames} == {request_id}


async def test_a_chat_without_a_request_id_gets_none(demo: Service) -> None:
    async with connected(demo) as client:
        frames = await client.chat("hello")
    assert not any("request_id" in frame for frame in frames)


async def test_a_ping_is_answered_by_a_pong(demo: Service) -> None:
    async with connected(demo) as client:
        await client.send("ping", "p1")
        assert await client.receive() == {"type": "pong", "request_id": "p1", "data": {}}
        await client.send_raw('{"type":"ping"}')
        assert await client.receive() == {"type": "pong", "data": {}}


# Several chats on one socket


async def test_chats_on_one_socket_interleave_and_are_told_apart() -> None:
    gates = {name: Gate() for name in "abcd"}

    def answer(body: dict[str, Any]) -> Reply:
        name = body["messages"][-1]["content"]
        return paced(text(f"{name}0 ", f"{name}1 ", f"{name}2 "), gates[name])

    frames = []
    async with (
        Upstream(answer) as upstream,
        running(upstream=upstream.base_url) as service,
        connected(service) as client,
    ):
        for name, gate in gates.items():
            await client.send("chat", name, message=name, conversation_id=name)
            await gate.pass_one()
        for _ in range(3):
            for name, gate in gates.items():
                await gate.pass_one()
                frames += await client.until("chat_chunk", request_id=name)
        for name, gate in gates.items():
            gate.open()
            frames += await client.until(*ENDS, request_id=name)
    order = "".join(f["request_id"] for f in frames if f["type"] == "chat_chunk")
    assert order == "abcdabcdabcd"
    for name in gates:
        own = [frame for frame in frames if frame["request_id"] == name]
        assert text_of(own) == f"{name}0 {name}1 {name}2 "
        assert [frame["data"]["seq"] for frame in own] == list(range(1, len(own) + 1))
        assert len({frame["data"]["run_id"] for frame in own}) == 1


async def test_a_socket_follows_only_as_many_chats_as_allowed() -> None:
    gate = Gate()
    async with (
        Upstream(lambda body: paced(text("hi"), gate)) as upstream,
        running(upstream=upstream.base_url, websocket_max_chats=2) as service,
        connected(service) as client,
    ):
        for name in ("a", "b", "c"):
            await client.send("chat", name, message=name, conversation_id=name)
        frames = await client.until("error")
        assert frames[-1]["request_id"] == "c"
        assert frames[-1]["data"]["code"] == "too_many_requests"
        assert frames[-1]["data"]["retryable"] is True
        gate.open()
        await client.until("chat_complete")
        await client.until("chat_complete")
        assert (await client.chat("d", "d"))[-1]["type"] == "chat_complete"


# Conversations


async def test_a_socket_remembers_and_two_sockets_share_nothing() -> None:
    async with (
        Upstream(echo) as upstream,
        running(upstream=upstream.base_url) as service,
        connected(service) as one,
        connected(service) as other,
    ):
        await one.chat("first")
        assert text_of(await one.chat("second")) == "user:first|assistant:user:first|user:second"
        assert text_of(await other.chat("third")) == "user:third"


async def test_reset_history_begins_a_new_conversation() -> None:
    async with (
        Upstream(echo) as upstream,
        running(upstream=upstream.base_url) as service,
        connected(service) as client,
    ):
        before = await client.chat("first")
        after = await client.chat("second", reset_history=True)
        assert text_of(after) == "user:second"
        assert conversation(before) != conversation(after)
        assert conversation(await client.chat("third")) == conversation(after)


def conversation(frames: list[Frame]) -> str:
    return str(frames[0]["data"]["conversation_id"])


async def test_reset_history_empties_a_named_conversation() -> None:
    async with (
        Upstream(echo) as upstream,
        running(upstream=upstream.base_url) as service,
        connected(service) as client,
    ):
        await client.chat("first", conversation_id="ours")
        frames = await client.chat("second", conversation_id="ours", reset_history=True)
        assert text_of(frames) == "user:second"
        assert conversation(frames) == "ours"


async def test_two_sockets_share_a_conversation_that_both_name() -> None:
    async with (
        Upstream(echo) as upstream,
        running(upstream=upstream.base_url) as service,
        connected(service) as one,
        connected(service) as other,
    ):
        await one.chat("first", conversation_id="ours")
        frames = await other.chat("second", conversation_id="ours")
        assert text_of(frames) == "user:first|assistant:user:first|user:second"


async def test_a_busy_conversation_enqueues() -> None:
    replies = [paced(text("one")), text("two")]
    async with (
        Upstream(replies) as upstream,
        running(upstream=upstream.base_url) as service,
        connected(service) as one,
        connected(service) as other,
    ):
        await one.send("chat", message="first", conversation_id="ours")
        await one.until("chat_start")
        await other.send("chat", message="second", conversation_id="ours")
        await other.until("chat_start")
        assert len(upstream.requests) <= 1
        upstream.gate.open()
        assert text_of(await one.until(*ENDS)) == "one"
        assert text_of(await other.until(*ENDS)) == "two"
        told = [message["content"] for message in upstream.requests[1]["messages"][1:]]
        assert told == ["first", "one", "second"]


async def test_a_busy_conversation_rejects_if_asked_to() -> None:
    async with (
        Upstream([paced(text("one"))]) as upstream,
        running(upstream=upstream.base_url) as service,
        connected(service) as one,
        connected(service) as other,
    ):
        await one.send("chat", message="first", conversation_id="ours")
        await one.until("chat_start")
        await other.send("chat", message="second", conversation_id="ours", if_busy="reject")
        assert (await other.refusal())["code"] == "conversation_busy"
        upstream.gate.open()
        assert text_of(await one.until(*ENDS)) == "one"


async def test_a_busy_conversation_is_interrupted_if_asked_to() -> None:
    replies = [paced(text("one")), text("two")]
    async with (
        Upstream(replies) as upstream,
        running(upstream=upstream.base_url) as service,
        connected(service) as one,
        connected(service) as other,
    ):
        await one.send("chat", message="first", conversation_id="ours")
        await one.until("chat_start")
        await upstream.asked.reach(1)
        await other.send("chat", message="second", conversation_id="ours", if_busy="interrupt")
        assert (await one.until(*ENDS))[-1]["data"]["finish_reason"] == "cancelled"
        assert text_of(await other.until(*ENDS)) == "two"
        await upstream.closed_by_client()


async def test_messages_that_interrupt_each_other_at_once_all_end() -> None:
    async with Upstream(echo) as upstream, running(upstream=upstream.base_url) as service:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(connected(service)) for _ in range(8)]
            async with asyncio.TaskGroup() as tasks:
                chats = [
                    tasks.create_task(
                        client.chat("hi", conversation_id="ours", if_busy="interrupt")
                    )
                    for client in clients
                ]
        ends = [chat.result()[-1]["data"]["finish_reason"] for chat in chats]
        assert set(ends) <= {"stop", "cancelled"}
        assert service.registry.active_runs == 0


# Cancelling


async def test_a_cancel_is_acknowledged_and_ends_the_run() -> None:
    async with (
        Upstream([paced(text("one", " two"))]) as upstream,
        running(upstream=upstream.base_url) as service,
        connected(service) as client,
    ):
        await client.send("chat", "r1", message="hi")
        run_id = (await client.until("chat_start"))[0]["data"]["run_id"]
        await upstream.gate.pass_one()
        await upstream.gate.pass_one()
        await client.until("chat_chunk")
        await client.send("cancel", "c1", run_id=run_id)
        frames = [await client.receive(), await client.receive()]
        ack = next(frame for frame in frames if frame["type"] == "ack")
        end = next(frame for frame in frames if frame["type"] == "chat_complete")
        assert ack == {
            "type": "ack",
            "request_id": "c1",
            "data": {"type": "cancel", "run_id": run_id},
        }
        assert end["request_id"] == "r1"
        assert end["data"]["finish_reason"] == "cancelled"
        assert end["data"]["final_response"] == "one"
        await upstream.closed_by_client()


async def test_a_run_can_be_cancelled_from_another_socket_and_twice() -> None:
    async with (
        Upstream([paced(text("one"))]) as upstream,
        running(upstream=upstream.base_url) as service,
        connected(service) as one,
        connected(service) as other,
    ):
        await one.send("chat", message="hi")
        run_id = (await one.until("chat_start"))[0]["data"]["run_id"]
        for _ in range(2):
            await other.send("cancel", run_id=run_id)
            assert (await other.receive())["type"] == "ack"
        assert (await one.until(*ENDS))[-1]["data"]["finish_reason"] == "cancelled"


async def test_a_cancelled_tool_leaves_its_siblings_and_the_run_alone() -> None:
    replies = [calls(("endless", {}), ("quick", {}), ids=["slow", "fast"]), text("all done")]
    async with (
        Upstream(replies) as upstream,
        running(upstream=upstream.base_url, tools=[quick, endless]) as service,
        connected(service) as client,
    ):
        await client.send("chat", message="go")
        frames = await tool_events(client, 3)
        run_id = frames[0]["data"]["run_id"]
        await client.send("cancel_tool", "c1", run_id=run_id, tool_call_id="slow")
        frames += await client.until(*ENDS)
    tool_ends = {
        frame["data"]["tool_call"]["id"]: frame["data"]["event_type"]
        for frame in frames
        if frame["type"] == "tool_call"
    }
    assert tool_ends == {"fast": "tool_call_complete", "slow": "tool_call_error"}
    assert {"type": "cancel_tool", "run_id": run_id, "tool_call_id": "slow"} in [
        frame["data"] for frame in frames if frame["type"] == "ack"
    ]
    assert text_of(frames) == "all done"
    assert [m["role"] for m in upstream.requests[1]["messages"][-2:]] == ["tool", "tool"]


async def tool_events(client: Client, count: int) -> list[Frame]:
    frames: list[Frame] = []
    while sum(frame["type"] == "tool_call" for frame in frames) < count:
        frames.append(await client.receive())
    return frames


async def test_a_run_whose_time_ends_while_it_is_cancelled_leaves_no_call_open() -> None:
    time_limit = 0.6
    blocked = threading.Event()

    async def stubborn() -> str:
        """Block for longer than a cancelled tool may take."""
        try:
            await asyncio.Event().wait()
        finally:
            blocked.wait(0.5)
        return ""

    async with (
        Upstream([calls(("stubborn", {}))]) as upstream,
        running(upstream=upstream.base_url, tools=[stubborn], run_timeout=time_limit) as service,
        connected(service) as client,
    ):
        await client.send("chat", message="go")
        frames = await tool_events(client, 1)
        run_id = frames[0]["data"]["run_id"]
        began = datetime.fromisoformat((await service.json("GET", f"/runs/{run_id}"))["started_at"])
        passed = (datetime.now(UTC) - began).total_seconds()
        # Late enough for the time to end while the tool has its grace.
        loop = asyncio.get_running_loop()
        run = service.registry._index.live(run_id)
        assert run is not None
        loop.call_later(time_limit - passed - 0.1, run.stop, "cancelled")
        frames += await client.until(*ENDS)
    assert [f["data"]["event_type"] for f in frames if f["type"] == "tool_call"] == [
        "tool_call_start",
        "tool_call_error",
    ]


# Following a run again


async def test_a_run_is_read_again_from_every_position(demo: Service) -> None:
    async with connected(demo) as client, connected(demo) as other:
        frames = await client.chat("What's 15 + 27?")
        run_id = frames[0]["data"]["run_id"]
        assert await replay(other, run_id) == frames
        for at in range(len(frames) - 1):
            rest = frames[at + 1 :]
            assert await replay(other, run_id, after=frames[at]["id"]) == rest
            assert await replay(other, run_id, after=at + 1) == rest
            assert await replay(other, run_id, after=str(at + 1)) == rest
        assert await replay(other, run_id, after=0) == frames


async def test_two_sockets_follow_one_run_live() -> None:
    async with (
        Upstream([paced(text("one", " two", " three"))]) as upstream,
        running(upstream=upstream.base_url) as service,
        connected(service) as one,
        connected(service) as other,
    ):
        await one.send("chat", message="hi")
        start = await one.until("chat_start")
        await other.send("subscribe", "s", run_id=start[0]["data"]["run_id"])
        copied = (await other.until("chat_start"))[1:]
        upstream.gate.open()
        frames = start + await one.until(*ENDS)
        copied += await other.until(*ENDS)
    assert text_of(frames) == "one two three"
    assert as_sse(copied) == as_sse(frames)
    assert {frame["request_id"] for frame in copied} == {"s"}


async def test_after_an_unsubscribe_nothing_comes_and_the_run_goes_on() -> None:
    async with (
        Upstream([paced(text("one", " two"))]) as upstream,
        running(upstream=upstream.base_url) as service,
        connected(service) as client,
    ):
        await client.send("chat", "r1", message="hi")
        run_id = (await client.until("chat_start"))[0]["data"]["run_id"]
        await client.send("unsubscribe", "u1", run_id=run_id)
        ack = await client.receive()
        assert ack["data"] == {"type": "unsubscribe", "run_id": run_id}
        upstream.gate.open()
        await finished(service, run_id)
        await client.send("ping")
        assert (await client.receive())["type"] == "pong"
        assert text_of(await replay(client, run_id)) == "one two"


async def test_one_subscription_to_a_run_is_enough() -> None:
    async with (
        Upstream([paced(text("one"))]) as upstream,
        running(upstream=upstream.base_url) as service,
        connected(service) as client,
    ):
        await client.send("chat", message="hi")
        run_id = (await client.until("chat_start"))[0]["data"]["run_id"]
        await client.send("subscribe", run_id=run_id)
        assert (await client.refusal())["code"] == "already_subscribed"


async def test_a_subscription_behind_the_end_is_not_met_with_silence(demo: Service) -> None:
    async with connected(demo) as client:
        frames = await client.chat("hello")
        run_id, cursor = frames[0]["data"]["run_id"], frames[-1]["id"]
        await client.send("subscribe", "s1", run_id=run_id, after=cursor)
        await client.send("ping")
        frames = await client.until("pong")
    assert [frame.get("request_id") for frame in frames] == ["s1", None]


@pytest.mark.parametrize("way", ["sse", "ws"])
@pytest.mark.parametrize("ending", ["close", "abort"])
async def test_a_socket_that_goes_away_ends_no_run_and_can_be_continued(
    way: str, ending: str
) -> None:
    async with (
        Upstream([paced(text("one", " two", " three"))]) as upstream,
        running(upstream=upstream.base_url) as service,
    ):
        async with connected(service) as client:
            await client.send("chat", message="hi")
            for _ in range(2):
                await upstream.gate.pass_one()
            seen = await client.until("chat_chunk")
            if ending == "abort":
                client.abort()
        run_id, cursor = seen[0]["data"]["run_id"], seen[-1]["id"]
        upstream.gate.open()
        await finished(service, run_id)
        if way == "sse":
            rest = await rest_over_sse(service, run_id, cursor)
        else:
            async with connected(service) as other:
                rest = as_sse(await replay(other, run_id, after=cursor))
        assert upstream.abandoned.value == 0
        assert as_sse(seen) + rest == await rest_over_sse(service, run_id)
        assert rest[-1]["final_response"] == "one two three"


# Idempotency


async def test_a_repeated_chat_with_its_key_is_the_same_run() -> None:
    async with Upstream(echo) as upstream, running(upstream=upstream.base_url) as service:
        async with connected(service) as client:
            first = await client.chat("hi", idempotency_key="k1")
            assert await client.chat("hi", idempotency_key="k1") == first
            await client.send("chat", message="other", idempotency_key="k1")
            assert (await client.refusal())["code"] == "idempotency_conflict"
        assert upstream.asked.value == 1


async def test_a_chat_is_repeated_on_a_new_socket_after_the_old_one_broke() -> None:
    async with Upstream(echo) as upstream, running(upstream=upstream.base_url) as service:
        async with connected(service) as client:
            first = await client.chat("hi", idempotency_key="k1")
        async with connected(service) as client:
            assert await client.chat("hi", idempotency_key="k1") == first
        assert upstream.asked.value == 1


async def test_a_chat_repeated_while_it_is_followed_is_not_met_with_silence() -> None:
    async with (
        Upstream([paced(text("one"))]) as upstream,
        running(upstream=upstream.base_url) as service,
        connected(service) as client,
    ):
        chat = {"message": "hi", "idempotency_key": "k1", "conversation_id": "ours"}
        await client.send("chat", "r1", **chat)
        await client.until("chat_start")
        await client.send("chat", "r2", **chat)
        await client.until("chat_start", request_id="r2")
        upstream.gate.open()
        frames = await client.until(*ENDS)
        frames += await client.until(*ENDS)
    ended = {frame["request_id"] for frame in frames if frame["type"] == "chat_complete"}
    assert ended == {"r1", "r2"}


async def test_a_key_holds_across_http_and_websocket() -> None:
    async with Upstream(echo) as upstream, running(upstream=upstream.base_url) as service:
        over_sse = await service.session.post(
            service.url + "/chat",
            json={"message": "hi", "conversation_id": "ours"},
            headers={"Idempotency-Key": "k1"},
        )
        run_id = (await over_sse.json())["run_id"]
        async with connected(service) as client:
            frames = await client.chat("hi", conversation_id="ours", idempotency_key="k1")
        assert frames[0]["data"].get("run_id") == run_id
        assert upstream.asked.value == 1


# Origins


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "x"])
async def test_a_strange_origin_is_refused_before_the_accept(demo: Service, origin: str) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
        async with connected(demo, origin=origin):
            pass
    assert refusal.value.status == 403


async def test_an_origin_that_is_no_url_is_refused(demo: Service) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
        async with connected(demo, origin="http://[::1"):
            pass
    assert refusal.value.status == 403


async def test_an_allowed_origin_and_the_own_one_pass() -> None:
    async with running(websocket_origins="https://chat.example") as service:
        for origin in ("https://chat.example", service.url, None):
            async with connected(service, origin=origin) as client:
                assert (await client.chat("hello"))[-1]["type"] == "chat_complete"


# Many, and the end


async def test_two_hundred_idle_sockets_cost_no_one_anything(demo: Service) -> None:
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(demo)) for _ in range(200)]
        assert (await clients[0].chat("hello"))[-1]["type"] == "chat_complete"
        for client in clients:
            await client.send("ping")
        for client in clients:
            while (await client.receive())["type"] != "pong":
                pass


async def test_a_stop_of_the_service_closes_with_1012() -> None:
    async with contextlib.AsyncExitStack() as outer:
        async with running(shutdown_grace=0) as service:
            client = await outer.enter_async_context(connected(service))
            await client.chat("hello")
        assert await client.closed() == 1012


async def test_a_closed_socket_says_so(demo: Service) -> None:
    async with connected(demo) as client:
        await client.socket.close()
        with pytest.raises(Closed):
            await client.receive()
