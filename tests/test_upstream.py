"""The scripted upstream does what its script says, seen by a client that hides nothing."""

import asyncio
import json
from typing import Any

import aiohttp
import openai
import pytest

import tests.upstream as up
from tests.openai_rules import fault_of
from tests.upstream import Upstream

USER = {"role": "user", "content": "Hello?"}
BODY = {"model": "m", "messages": [USER]}


async def post(upstream: Upstream, body: Any = BODY) -> tuple[int, bytes, str]:
    """Return status, the bytes that came, and the name of the error that ended them."""
    came = b""
    async with aiohttp.ClientSession() as session, asyncio.timeout(10):
        try:
            async with session.post(f"{upstream.base_url}/chat/completions", json=body) as answer:
                async for piece in answer.content.iter_any():
                    came += piece
                return answer.status, came, ""
        except aiohttp.ClientError as error:
            return 0, came, type(error).__name__


def written(reply: up.Reply) -> bytes:
    return b"".join(step for step in reply.steps if isinstance(step, bytes))


async def test_the_official_client_reads_its_replies() -> None:
    script = [up.text("Hello", " world"), up.calls(("get_weather", {"city": "Tokyo"}))]
    said, arguments, reasons = "", "", []
    async with (
        Upstream(script) as upstream,
        openai.AsyncOpenAI(api_key="k", base_url=upstream.base_url) as client,
    ):
        for _ in script:
            stream = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "x"}], stream=True
            )
            async for event in stream:
                for choice in event.choices:
                    said += choice.delta.content or ""
                    reasons.append(choice.finish_reason)
                    for call in choice.delta.tool_calls or ():
                        assert call.function
                        arguments += call.function.arguments or ""
    assert said == "Hello world"
    assert json.loads(arguments) == {"city": "Tokyo"}
    assert [reason for reason in reasons if reason] == ["stop", "tool_calls"]


@pytest.mark.parametrize("form", [up.at_once, up.bytewise, lambda reply: up.cut(reply, 100)])
async def test_however_it_is_written_the_body_is_the_same(form: Any) -> None:
    async with Upstream([form(up.FOUR)]) as upstream:
        assert await post(upstream) == (200, written(up.FOUR), "")
        await upstream.finished.reach(1)


async def test_replies_are_taken_in_order_and_the_end_of_the_script_is_an_error() -> None:
    async with Upstream([up.text("a"), up.text("b")]) as upstream:
        for piece in (b'"a"', b'"b"'):
            assert piece in (await post(upstream))[1]
        code, body, _ = await post(upstream)
    assert code == 400
    assert json.loads(body)["error"]["code"] == "script_exhausted"
    assert upstream.requests == [BODY] * 3
    assert upstream.headers[0]["content-type"] == "application/json"


async def test_a_script_may_be_a_function_of_the_request() -> None:
    async def reply(body: dict[str, Any]) -> up.Reply:
        return up.text(body["messages"][-1]["content"])

    async with Upstream(lambda body: up.text(body["model"])) as upstream:
        assert b'"content":"m"' in (await post(upstream))[1]
    async with Upstream(reply) as upstream:
        assert b'"content":"Hello?"' in (await post(upstream))[1]


@pytest.mark.parametrize(
    ("reply", "events", "error"),
    [
        (up.reset_after(2), 2, "ClientPayloadError"),
        (up.reset_after(0), 0, "ClientPayloadError"),
        (up.eof_after(2), 2, ""),
        (up.eof_after(2, clean=False), 2, "ClientPayloadError"),
        (up.error_event_after(1), 2, ""),
        (up.bad_json_after(1), 9, ""),
    ],
)
async def test_a_fault_comes_after_so_many_events(reply: up.Reply, events: int, error: str) -> None:
    async with Upstream([reply]) as upstream:
        _, body, ended = await post(upstream)
    assert (body.count(b"\n\n"), ended) == (events, error)


@pytest.mark.parametrize(
    ("reply", "is_reset"), [(up.reset_after(1), True), (up.eof_after(1, clean=False), False)]
)
async def test_a_reset_is_a_real_one_and_a_broken_end_is_not(
    reply: up.Reply, is_reset: bool
) -> None:
    async with Upstream([reply]) as upstream, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        body = json.dumps(BODY).encode()
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        try:
            await reader.read()
            ended_by_reset = False
        except ConnectionResetError:
            ended_by_reset = True
        writer.transport.abort()
    assert ended_by_reset is is_reset


async def test_a_reset_before_the_first_byte() -> None:
    async with Upstream([up.reset_at_once()] * 2) as upstream:
        _, body, error = await post(upstream)
    assert (body, error) in [(b"", "ClientOSError"), (b"", "ServerDisconnectedError")]


async def test_an_address_at_which_nobody_listens() -> None:
    upstream = Upstream([])
    with up.refusing() as base_url:
        upstream.port = int(base_url.split(":")[2].split("/")[0])
        assert (await post(upstream))[2] == "ClientConnectorError"


async def test_a_gate_lets_one_event_pass_at_a_time() -> None:
    async with (
        Upstream([up.paced(up.FOUR)]) as upstream,
        aiohttp.ClientSession() as session,
        session.post(f"{upstream.base_url}/chat/completions", json=BODY) as answer,
        asyncio.timeout(10),
    ):
        for step in up.FOUR.steps:
            await upstream.gate.reached()
            assert answer.content.read_nowait() == b""
            await upstream.gate.pass_one()
            assert isinstance(step, bytes)
            assert await answer.content.readexactly(len(step)) == step
        assert await answer.content.read() == b""


async def test_an_open_gate_lets_everything_pass() -> None:
    async with Upstream([up.held(up.paced(up.FOUR))]) as upstream:
        asked = asyncio.ensure_future(post(upstream))
        await upstream.gate.reached()
        upstream.gate.open()
        assert await asked == (200, written(up.FOUR), "")


async def test_two_replies_can_have_gates_of_their_own() -> None:
    gates = {name: up.Gate() for name in ("one", "two")}
    async with Upstream(lambda body: up.held(up.text("x"), gates[body["model"]])) as upstream:
        one, two = (asyncio.ensure_future(post(upstream, {**BODY, "model": m})) for m in gates)
        await gates["one"].reached()
        await gates["two"].pass_one()
        assert (await two)[0] == 200
        assert not one.done()
        await gates["one"].pass_one()
        assert (await one)[0] == 200


async def test_it_is_seen_when_a_client_goes_away() -> None:
    async with Upstream([up.stall_after(1), up.held(up.FOUR)]) as upstream:
        for count in (1, 2):
            asked = asyncio.ensure_future(post(upstream))
            await upstream.asked.reach(count)
            asked.cancel()
            await upstream.closed_by_client(count)
        assert upstream.finished.value == 0
        assert upstream.connections.value == 2


async def test_a_wait_that_is_in_vain_ends() -> None:
    async with Upstream([]) as upstream:
        for wait in (
            upstream.closed_by_client(within=0.01),
            upstream.asked.reach(1, within=0.01),
            upstream.gate.pass_one(within=0.01),
            upstream.gate.reached(within=0.01),
        ):
            with pytest.raises(TimeoutError):
                await wait


async def test_an_error_has_openais_shape() -> None:
    async with Upstream([up.status(429, "Slow down.", retry_after=0.5)]) as upstream:
        code, body, _ = await post(upstream)
    assert code == 429
    assert json.loads(body) == {
        "error": {
            "message": "Slow down.",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }
    }


# What the strictest server refuses.

A, B = "call00001", "call00002"
SYSTEM = {"role": "system", "content": "Be brief."}
ANSWER = {"role": "assistant", "content": "Yes."}


def asking(*ids: str, arguments: str = "{}", name: str = "f", **more: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    wanted = [{"id": id, "type": "function", "function": function, **more} for id in ids]
    return {"role": "assistant", "content": None, "tool_calls": wanted}


def result(id: str, content: str = "done") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": content}


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


@pytest.mark.parametrize(
    "messages",
    [
        [USER],
        [SYSTEM, USER, ANSWER, USER],
        [user([{"type": "text", "text": "x"}], name="ann")],
        [USER, asking(A, B), result(B), result(A), ANSWER, USER],
        [USER, asking(A), result(A), asking(B), result(B)],
    ],
)
def test_a_good_history_is_accepted(messages: list[dict[str, Any]]) -> None:
    assert fault_of({"messages": messages}) is None


def test_what_the_server_gave_is_accepted() -> None:
    signed = asking(A, extra_content={"google": {"thought_signature": "x"}})
    messages = [USER, {**signed, "reasoning_content": "Hm."}, result(A)]
    assert fault_of({"messages": messages}, ("extra_content", "reasoning_content")) is None
    for knows in ("extra_content", "reasoning_content"):
        assert fault_of({"messages": messages}, (knows,)) is not None


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (None, "Missing required parameter"),
        ([], "empty array"),
        ([{"role": "robot", "content": "x"}], "Invalid value: 'robot'"),
        ([{"role": "developer", "content": "x"}, USER], "Invalid value: 'developer'"),
        ([USER, SYSTEM], "must be at the beginning"),
        ([SYSTEM, SYSTEM, USER], "must be at the beginning"),
        ([{"role": "system", "content": " "}, USER], "must not be empty"),
        ([SYSTEM, ANSWER, USER], "Unexpected role 'assistant' after role 'system'"),
        ([ANSWER, USER], "Unexpected role 'assistant'"),
        ([SYSTEM], "Expected last role User or Tool"),
        ([USER, ANSWER], "Expected last role User or Tool"),
        ([USER, USER], "must alternate"),
        ([USER, ANSWER, ANSWER, USER], "must alternate"),
        ([USER, asking(A), result(A), USER], "Unexpected role 'user' after role 'tool'"),
        ([user(None)], "expected a string, got null"),
        ([USER, {"role": "assistant"}], "expected a string, got null"),
        ([user(5)], "Invalid type"),
        ([user("")], "must not be empty"),
        ([user([])], "must not be empty"),
        ([user([{"type": "text", "text": "\n"}])], "must not be empty"),
        ([user("x", name="Ann Lee")], "expected a string that matches"),
        ([user("x", prefix=True)], "Extra inputs are not permitted"),
        ([USER, {**ANSWER, "content": " \n"}, USER], "role 'assistant' must not be empty"),
        ([USER, asking(A), result(A, "")], "must not be empty"),
        ([USER, asking(A), ANSWER], f"did not have response messages: {A}"),
        ([USER, asking(A, B), result(A)], f"did not have response messages: {B}"),
        ([USER, asking(A), USER, result(A)], f"did not have response messages: {A}"),
        ([USER, result(A)], "must be a response to a preceeding message"),
        ([USER, asking(A), result(B), result(A)], "Unexpected tool call id"),
        ([USER, asking(A), result(A), result(A)], "Unexpected tool call id"),
        ([USER, asking(A, A), result(A)], f"Duplicate tool call id '{A}'"),
        ([USER, asking(A), result(A), asking(A), result(A)], f"Duplicate tool call id '{A}'"),
        ([USER, {**ANSWER, "tool_calls": []}, USER], "empty array"),
        ([USER, asking(A, arguments="{"), result(A)], "must be a valid JSON object"),
        ([USER, asking(A, arguments="[1]"), result(A)], "must be a valid JSON object"),
        ([USER, asking(A, arguments='{"x": NaN}'), result(A)], "must be a valid JSON object"),
        ([USER, asking(A, name="a b"), result(A)], "expected a string that matches"),
        ([USER, asking("call_0001"), result("call_0001")], "with a length of 9"),
        ([USER, asking("x" * 10), result("x" * 10)], "with a length of 9"),
        ([USER, asking(A, index=0), result(A)], "Extra inputs are not permitted"),
    ],
)
async def test_a_bad_history_is_refused(messages: Any, words: str) -> None:
    async with Upstream([up.text("ok")]) as upstream:
        code, body, _ = await post(upstream, {"model": "m", "messages": messages})
        assert code == 400
        error = json.loads(body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert words in error["message"]
        assert (await post(upstream))[0] == 200, "a refused request takes no reply"


@pytest.mark.parametrize(
    ("names", "words"),
    [(["f", "f"], "must be unique"), (["a.b"], "expected a string"), (["x" * 65], "expected")],
)
def test_bad_tools_are_refused(names: list[str], words: str) -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    fault = fault_of({"messages": [USER], "tools": tools})
    assert fault is not None
    assert words in fault.message


async def test_the_check_can_be_left_out() -> None:
    async with Upstream([up.text("ok")], check=False) as upstream:
        assert (await post(upstream, {"messages": []}))[0] == 200
