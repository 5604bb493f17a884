"""What the client does, against the service."""

import asyncio
import gc
import threading
from typing import Any

import pytest

import parley_client.course
from parley_client import (
    ChatChunk,
    ChatComplete,
    ChatStart,
    Event,
    ParleyClient,
    ParleyError,
    Reset,
    RunError,
    Status,
    Timings,
    ToolCallComplete,
    ToolCallError,
    ToolCallQueued,
    ToolCallStart,
)
from tests.api.support import Hanging, add, scripted
from tests.python_client.proxy import Proxy
from tests.python_client.support import QUICK, all_of, client_of, log_of, until
from tests.service import DEADLINE, running
from tests.upstream import calls, held, paced, text

TRANSPORTS = ("websocket", "sse")
both = pytest.mark.parametrize("transport", TRANSPORTS)


@both
async def test_events_are_typed_and_the_answer_is_a_text(transport: Any) -> None:
    script = [calls(("add", {"a": 15, "b": 27})), text("It is ", "42."), text("Hello.")]
    async with (
        scripted(script, tools=[add]) as (service, _),
        client_of(service.url, transport=transport) as client,
    ):
        run = client.chat("What is 15 + 27?", conversation_id="c1")
        assert run.conversation_id == "c1"
        found = await all_of(run)
        assert [type(event) for event in found] == [
            ChatStart,
            ToolCallStart,
            ToolCallComplete,
            ChatChunk,
            ChatChunk,
            ChatComplete,
        ]
        done = found[2]
        assert isinstance(done, ToolCallComplete)
        assert (done.tool_call.result, done.tool_call.arguments) == (42, {"a": 15, "b": 27})
        assert done.tool_call.started_at is not None
        assert run.outcome is found[-1]
        assert run.cursor == f"{run.id}:1:6"
        assert await client.chat("Hi.", conversation_id="c1").text() == "Hello."


async def test_a_message_without_a_conversation_has_one_of_its_own() -> None:
    async with scripted([text("a"), text("b")]) as (service, upstream):
        async with client_of(service.url) as client:
            first, second = client.chat("one"), client.chat("two")
            await asyncio.gather(first.text(), second.text())
            assert first.conversation_id != second.conversation_id
            start = (await all_of(client.follow(str(first.id))))[0]
            assert isinstance(start, ChatStart)
            assert start.conversation_id == first.conversation_id
        assert [len(body["messages"]) for body in upstream.requests] == [2, 2]


@both
async def test_a_refused_request_raises_what_the_service_says(transport: Any) -> None:
    async with running() as service, client_of(service.url, transport=transport) as client:
        run = client.chat("")
        with pytest.raises(ParleyError) as caught:
            await run.text()
        assert caught.value.code == "invalid_value"
        assert not caught.value.retryable
        assert caught.value.errors[0]["field"] == "message"
        assert caught.value.status == (422 if transport == "sse" else None)
        with pytest.raises(ParleyError):
            await run.started()
        with pytest.raises(ParleyError, match="run_not_found"):
            await client.follow("run_nobody_knows").text()
        with pytest.raises(ParleyError) as unknown:
            await client.conversation("nobody_knows")
        assert (unknown.value.status, unknown.value.code) == (404, "conversation_not_found")


@both
async def test_a_run_that_fails_ends_with_an_event_and_text_raises_it(transport: Any) -> None:
    async with (
        scripted([]) as (service, _),
        client_of(service.url, transport=transport) as client,
    ):
        run = client.chat("Fail.")
        found = await all_of(run)
        assert isinstance(found[-1], RunError)
        with pytest.raises(ParleyError) as caught:
            await run.text()
        assert caught.value.code == found[-1].code


@both
async def test_while_nobody_listens_everything_waits(transport: Any) -> None:
    async with running() as service, Proxy(service.url) as proxy:
        await proxy.refuse()
        async with client_of(proxy.url, transport=transport) as client:
            run = client.chat("What is 1 + 1?")
            asked = asyncio.create_task(client.health())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await run.started()
            assert client.status.state == "offline"
            assert client.status.retry_at is not None
            await proxy.listen()
            async with asyncio.timeout(DEADLINE):
                assert "2" in await run.text()
                assert (await asked).status == "healthy"


async def test_reconnect_ends_a_long_pause() -> None:
    patient = Timings(backoff_first=10_000, backoff_most=10_000)
    async with running() as service, Proxy(service.url) as proxy:
        await proxy.refuse()
        went_off = asyncio.Event()

        def on_status(status: Status) -> None:
            if status.state == "offline":
                went_off.set()

        async with client_of(proxy.url, timings=patient, on_status=on_status) as client:
            run = client.chat("What is 1 + 1?")
            async with asyncio.timeout(DEADLINE):
                await went_off.wait()
                await proxy.listen()
                client.reconnect()
                assert "2" in await run.text()


@both
async def test_a_network_that_is_gone_without_a_word_is_noticed(transport: Any) -> None:
    quick = Timings(
        backoff_first=0.01, backoff_most=0.05, ping_every=0.1, pong_within=0.5, silence=1.0
    )
    script = [paced(text("one", " two"))]
    async with (
        scripted(script, stream_heartbeat=0.2) as (service, upstream),
        Proxy(service.url) as proxy,
        client_of(proxy.url, transport=transport, timings=quick) as client,
    ):
        run = client.chat("Go.")
        await until(run, ChatStart)
        proxy.freeze()
        upstream.gate.open()
        await upstream.finished.reach(1)
        opened = proxy.opened.value
        await proxy.opened.reach(opened + 1)
        proxy.thaw()
        assert (await log_of(service, run))[1:] == await all_of(run)


async def test_it_falls_back_to_server_sent_events_where_no_socket_comes_through() -> None:
    async with (
        running() as service,
        Proxy(service.url, blocks_sockets=True) as proxy,
    ):
        async with client_of(proxy.url) as client:
            first, second = client.chat("What is 1 + 1?"), client.chat("What is 2 + 2?")
            assert await all_of(first) == await log_of(service, first)
            assert await all_of(second) == await log_of(service, second)
            assert client.status.transport == "sse"
            assert "4" in await client.chat("What is 3 + 1?").text()
        async with client_of(proxy.url, transport="websocket") as client:
            with pytest.raises(ParleyError, match="websocket_blocked"):
                await client.chat("hi").text()


async def test_a_reader_that_takes_nothing_holds_up_nobody_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parley_client.course, "MAX_EVENTS", 16)
    words = [f"{number} " for number in range(200)]
    async with (
        scripted([text(*words), text("quick")]) as (service, _),
        client_of(service.url) as client,
    ):
        slow = client.chat("Say much.")
        await until(slow, ChatStart)
        course = slow._course
        async with asyncio.timeout(DEADLINE):
            while not course.is_full:  # noqa: ASYNC110 - nobody is told when a buffer is full
                await asyncio.sleep(0)
            assert await client.chat("Say little.").text() == "quick"
        assert len(course._buffer) <= 16
        found = await all_of(slow)
        said = "".join(event.content for event in found if isinstance(event, ChatChunk))
        assert said == "".join(words)


@both
async def test_cancel_ends_the_run_and_leave_only_the_following(transport: Any) -> None:
    script = [paced(text("one", " two")), held(text("done"))]
    async with (
        scripted(script) as (service, upstream),
        client_of(service.url, transport=transport) as client,
    ):
        run = client.chat("Cancel this.")
        await upstream.gate.reached()
        await run.cancel()
        last = (await all_of(run))[-1]
        assert isinstance(last, ChatComplete)
        assert last.finish_reason == "cancelled"

        left = client.chat("Leave this.")
        await upstream.gate.reached()
        run_id = await left.started()
        left.leave()
        assert await all_of(left) == []
        with pytest.raises(ParleyError, match="left"):
            await left.text()
        upstream.gate.open()
        assert await client.follow(run_id).text() == "done"


@both
async def test_what_is_here_is_taken_together_and_waited_for_a_time_at_most(transport: Any) -> None:
    async with (
        scripted([paced(text("one", " two"))]) as (service, upstream),
        client_of(service.url, transport=transport) as client,
    ):
        run = client.chat("Count.")
        assert [type(event) for event in await run.take(DEADLINE)] == [ChatStart]
        assert await run.take(0.05) == []
        upstream.gate.open()
        found: list[Event] = []
        async with asyncio.timeout(DEADLINE):
            while run.outcome is None:
                found += await run.take(DEADLINE)
            found += await run.take(0)
        assert found == (await log_of(service, run))[1:]
        assert await run.take(DEADLINE) == []
        with pytest.raises(ParleyError, match="invalid_value"):
            await client.chat("").take(DEADLINE)


@both
async def test_a_run_tells_that_its_connection_is_gone(transport: Any) -> None:
    async with (
        scripted([held(text("All ", "here."))]) as (service, upstream),
        Proxy(service.url) as proxy,
        client_of(proxy.url, transport=transport) as client,
    ):
        run = client.chat("Wait.")
        await upstream.gate.reached()
        assert not run.is_lost
        await proxy.refuse()
        async with asyncio.timeout(DEADLINE):
            while not run.is_lost:
                await run.take(0.01)
            await proxy.listen()
            while run.is_lost:
                await run.take(0.01)
        upstream.gate.open()
        assert await run.text() == "All here."


async def test_a_run_that_another_thread_drops_is_left_in_the_loops_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leave, threads = parley_client.course.Course.leave, []

    def left(course: parley_client.course.Course) -> None:
        threads.append(threading.current_thread())
        leave(course)

    monkeypatch.setattr(parley_client.course.Course, "leave", left)
    async with (
        scripted([held(text("never"))]) as (service, upstream),
        client_of(service.url) as client,
    ):
        runs = [client.chat("Wait.")]
        await upstream.gate.reached()
        course = runs[0]._course
        assert isinstance(await course.take(), ChatStart)
        await asyncio.to_thread(runs.clear)
        async with asyncio.timeout(DEADLINE):
            assert await course.take() is None
        assert threads == [threading.current_thread()]


@both
async def test_a_message_is_sent_though_its_run_is_left_at_once(transport: Any) -> None:
    async with (
        scripted([text("said")]) as (service, upstream),
        client_of(service.url, transport=transport) as client,
    ):
        client.chat("Say it.").leave()
        client.chat("And this: nobody holds it.")
        gc.collect()
        await upstream.asked.reach(2)


async def test_one_tool_call_is_cancelled_and_the_other_goes_on() -> None:
    hanging = Hanging()
    script = [calls(("hang", {}), ("add", {"a": 1, "b": 1})), text("Done.")]
    async with (
        scripted(script, tools=[hanging.hang, add]) as (service, _),
        client_of(service.url) as client,
    ):
        run = client.chat("Both.")
        found = await until(run, ToolCallComplete)
        started = {e.tool_call.name: e.tool_call.id for e in found if isinstance(e, ToolCallStart)}
        await run.cancel_tool(started["hang"])
        rest = await all_of(run)
        failed = [event for event in rest if isinstance(event, ToolCallError)]
        assert [event.tool_call.code for event in failed] == ["cancelled"]
        assert isinstance(rest[-1], ChatComplete)
        assert rest[-1].finish_reason == "stop"
        with pytest.raises(ParleyError, match="tool_call_not_found"):
            await run.cancel_tool(started["hang"])


async def test_a_call_that_waits_for_its_place_is_an_event() -> None:
    hanging = Hanging()
    async with (
        scripted([calls(("hang", {}), ("hang", {})), text("-")], tools=[hanging.hang]) as (
            service,
            _,
        ),
        client_of(service.url) as client,
    ):
        run = client.chat("Both.", parallel_tools=False)
        queued = (await until(run, ToolCallQueued))[-1]
        assert isinstance(queued, ToolCallQueued)
        assert queued.tool_call.name == "hang"
        await run.cancel()


@both
async def test_regenerate_and_edit_answer_anew(transport: Any) -> None:
    script = [text("first"), text("second"), text("third")]
    async with (
        scripted(script) as (service, _),
        client_of(service.url, transport=transport) as client,
    ):
        await client.chat("Question?", conversation_id="c1").text()
        assert await client.regenerate("c1").text() == "second"
        asked = (await client.conversation("c1")).messages[0]
        branch = client.edit("c1", asked.id, "Another question?")
        assert await branch.text() == "third"
        assert branch.conversation_id not in (None, "c1")
        messages = (await client.conversation(str(branch.conversation_id))).messages
        assert [message.content for message in messages] == ["Another question?", "third"]


@both
async def test_following_goes_on_behind_a_place_and_ends_behind_the_end(transport: Any) -> None:
    async with (
        scripted([text("one", " two", " three")]) as (service, _),
        client_of(service.url, transport=transport) as client,
    ):
        run = client.chat("Count.")
        found = await all_of(run)
        run_id, cursor = str(run.id), str(run.cursor)
        assert await all_of(client.follow(run_id, after=2)) == found[2:]
        assert await all_of(client.follow(run_id, after=f"{run_id}:1:3")) == found[3:]
        assert await all_of(client.follow(run_id, after=cursor)) == []
        with pytest.raises(ValueError, match="no cursor of"):
            client.follow("run_other", after=cursor)


@both
async def test_a_reset_is_passed_on_and_the_state_follows_it(transport: Any) -> None:
    async with (
        scripted([paced(text("one", " two"))]) as (service, upstream),
        client_of(service.url, transport=transport) as client,
    ):
        run = client.chat("Count.")
        run_id = await run.started()
        again = client.follow(run_id, after=f"{run_id}:0:5")
        assert isinstance(await anext(again), Reset)
        upstream.gate.open()
        assert await all_of(again) == await all_of(run)


@both
async def test_a_service_that_stops_is_waited_for_and_a_full_one_is_not(transport: Any) -> None:
    async with (
        scripted([held(text("a")), text("b")], max_active_runs=1) as (service, upstream),
        client_of(service.url, transport=transport) as client,
    ):
        first = client.chat("First.")
        await upstream.gate.reached()
        with pytest.raises(ParleyError) as caught:
            await client.chat("Too much.").text()
        assert (caught.value.code, caught.value.retryable) == ("unavailable", True)
        upstream.gate.open()
        await first.text()

        service.registry.drain()
        assert (await client.health()).status == "draining"
        waiting = client.chat("Second.")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await waiting.started()
        service.registry._runner.draining = False
        client.reconnect()
        async with asyncio.timeout(DEADLINE):
            assert await waiting.text() == "b"


@both
async def test_a_restart_of_the_service_is_survived(transport: Any, tmp_path: Any) -> None:
    async with (
        Proxy("http://127.0.0.1:9") as proxy,
        client_of(proxy.url, transport=transport) as client,
    ):
        folder = {"data_dir": str(tmp_path), "shutdown_grace": 0.1}
        async with scripted([held(text("never"))], **folder) as (service, model):
            proxy.target = service.url
            run = client.chat("Before.", conversation_id="c1")
            await model.gate.reached()
            service.registry.drain()
            service.registry.stop_all()  # what a signal does when the grace is over
        later = client.chat("After.", conversation_id="c1")
        async with scripted(lambda _: text("back"), **folder) as (service, _):
            proxy.target = service.url
            # Whether it was ended by the stop or goes on now, it has one end and it comes here.
            found = await all_of(run)
            assert isinstance(found[-1], RunError | ChatComplete)
            assert await later.text() == "back"


@pytest.mark.parametrize("size", [3_000, 30_000])
async def test_a_message_too_large_for_the_socket_comes_through_all_the_same(size: int) -> None:
    async with (
        scripted([text("long"), text("short")], websocket_max_bytes=1024) as (service, upstream),
        client_of(service.url) as client,
    ):
        assert await client.chat("x" * size).text() == "long"
        assert await client.chat("y").text() == "short"
        assert client.status.transport == "websocket"
        assert upstream.requests[0]["messages"][-1]["content"] == "x" * size


async def test_questions_have_typed_answers() -> None:
    async with (
        running() as service,
        client_of(service.url, user_id="ann") as client,
        client_of(service.url, user_id="bob") as other,
    ):
        await client.chat("What is 15 + 27?", conversation_id="c1").text()
        await client.chat("What is 1 + 1?", conversation_id="c2").text()
        page = await client.conversations(limit=1)
        assert [each.conversation_id for each in page.conversations] == ["c2"]
        page = await client.conversations(before=page.next)
        assert [each.conversation_id for each in page.conversations] == ["c1"]
        assert (await other.conversations()).conversations == ()

        assert (await client.rename("c1", "Sums")).title == "Sums"
        whole = await client.conversation("c1")
        assert (whole.title, whole.message_count) == ("Sums", len(whole.messages))
        assert whole.messages[1].tool_calls is not None
        assert whole.messages[1].tool_calls[0].name == "calculate"
        assert whole.messages[2].duration_ms is not None
        assert {hit.conversation_id for hit in await client.search("Sums")} == {"c1"}
        assert "chat" in [agent.agent_name for agent in await client.agents()]
        assert "calculate" in [tool.name for tool in (await client.health()).tools]

        await client.delete("c1")
        with pytest.raises(ParleyError, match="conversation_not_found"):
            await client.delete("c1")


async def test_another_kind_of_server_is_told_from_one_that_is_away() -> None:
    async with (
        scripted([]) as (_, upstream),
        client_of(upstream.base_url.removesuffix("/v1")) as client,
    ):
        async with asyncio.timeout(DEADLINE):
            with pytest.raises(ParleyError) as caught:
                await client.agents()
        assert caught.value.code == "http_error"


@both
async def test_no_task_outlives_the_client_and_who_waits_is_told(transport: Any) -> None:
    async with scripted([held(text("never"))]) as (service, upstream):
        async with client_of(service.url, transport=transport) as client:
            run = client.chat("Wait.")
            await upstream.gate.reached()
            reading = asyncio.create_task(run.text())
            await asyncio.sleep(0)
            own = [task for task in asyncio.all_tasks() if _is_of_client(task)]
            assert own
        with pytest.raises(ParleyError, match="client_closed"):
            await reading
        assert all(task.done() for task in own)
        assert client.status.state == "closed"
        with pytest.raises(ParleyError, match="client_closed"):
            await client.chat("Too late.").text()


async def test_an_error_in_the_body_comes_out_as_it_is() -> None:
    async with running() as service:
        with pytest.raises(KeyError):
            await _fails_within(service.url)


def _is_of_client(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and "parley_client" in code.co_filename.split("/")


async def _fails_within(url: str) -> None:
    async with ParleyClient(url, timings=QUICK) as client:
        client.connect()
        raise KeyError
