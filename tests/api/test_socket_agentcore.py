"""`/ws` for clients of an AgentCore runtime: their sessions, their users, their messages."""

import asyncio
import json
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest

from api.http.payloads import SESSION_HEADER, USER_HEADER
from tests.api.support import scripted
from tests.service import DEADLINE, Service
from tests.upstream import Reply, text
from tests.wsclient import ENDS, Client, connected, text_of

pytestmark = pytest.mark.usefixtures("no_mistakes")

SESSION = "0b7a6f2e-6d3f-4a57-9a3e-2f1c5d8e9b10"


def echo(body: dict[str, Any]) -> Reply:
    """Answer with what was said: `user:a|assistant:…|user:b`."""
    said = [f"{m['role']}:{m['content']}" for m in body["messages"] if m["role"] != "system"]
    return text("|".join(said))


async def asked(client: Client, **payload: Any) -> str:
    """Send an object without a type and return the answer."""
    await client.send_raw(json.dumps(payload))
    frames = await client.until(*ENDS)
    assert frames[0]["type"] == "chat_start", frames
    return text_of(frames)


async def told(service: Service, question: str, **headers: str) -> str:
    """Ask on a socket of its own."""
    async with connected(service, headers=headers) as client:
        return await asked(client, prompt=question)


QUESTIONS: list[dict[str, Any]] = [
    {"prompt": "hi"},
    {"message": "hi"},
    {"input": "hi", "action": "unknown"},
    {"messages": [{"role": "user", "content": "hi"}]},
    {"input": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
]


async def test_an_object_without_a_type_that_asks_is_a_chat() -> None:
    async with scripted(echo) as (service, _):
        for payload in QUESTIONS:
            async with connected(service) as client:
                await client.send_raw(json.dumps(payload | {"request_id": "r1"}))
                frames = await client.until(*ENDS)
                assert {frame["request_id"] for frame in frames} == {"r1"}
                assert text_of(frames) == "user:hi", payload
                again = await client.chat("you")
                assert text_of(again) == "user:hi|assistant:user:hi|user:you"


async def test_a_payload_that_asks_nothing_is_an_error_of_its_request() -> None:
    async with scripted(echo) as (service, _), connected(service) as client:
        for payload in ({"prompt": ""}, {"prompt": 1}, {"prompt": "a", "message": "b"}):
            await client.send_raw(json.dumps(payload | {"request_id": "r1"}))
            frame = await client.receive()
            assert (frame["type"], frame["request_id"]) == ("error", "r1")
            assert frame["data"]["code"] == "invalid_value"
        assert await asked(client, prompt="hi") == "user:hi"


async def test_what_has_a_type_is_read_by_its_type() -> None:
    async with scripted(echo) as (service, _), connected(service) as client:
        await client.send_raw('{"type":"ping","prompt":"hi"}')
        assert (await client.receive())["type"] == "pong"
        for message in ('{"type":1,"prompt":"hi"}', '{"type":null,"message":"hi"}', '{"data":{}}'):
            await client.send_raw(message)
            assert (await client.refusal())["code"] == "invalid_request"


async def test_the_session_of_the_header_is_the_conversation_of_the_socket() -> None:
    async with scripted(echo) as (service, _):
        assert await told(service, "a", **{SESSION_HEADER: SESSION}) == "user:a"
        async with connected(service, headers={SESSION_HEADER: SESSION}) as client:
            assert text_of(await client.chat("b")) == "user:a|assistant:user:a|user:b"
            assert text_of(await client.chat("c", conversation_id="other")) == "user:c"
        assert await told(service, "d", **{SESSION_HEADER: SESSION + "x"}) == "user:d"
        assert await told(service, "e") == "user:e"
        async with service.session.post(
            service.url + "/invocations", json={"prompt": "f"}, headers={SESSION_HEADER: SESSION}
        ) as response:
            answer = await response.json()
    assert answer["conversation_id"] == SESSION
    assert answer["result"].startswith("user:a|assistant:user:a|user:b|")


async def test_the_session_may_be_in_the_query_as_in_a_signed_address() -> None:
    arn = "arn%3Aaws%3Abedrock-agentcore%3Aus-west-2%3A123456789012%3Aruntime%2Fmy-runtime"
    query = urlencode({"qualifier": "DEFAULT", SESSION_HEADER: SESSION, "X-Amz-Expires": 300})
    async with scripted(echo) as (service, _):
        await told(service, "a", **{SESSION_HEADER: SESSION})
        for path in ("/ws", f"/runtimes/{arn}/ws"):
            address = f"{service.url}{path}?{query}"
            async with service.session.ws_connect(address) as connection:
                client = Client(connection)
                assert (await asked(client, prompt="b")).startswith("user:a|")


async def test_a_reset_empties_the_session_and_stays_in_it() -> None:
    async with scripted(echo) as (service, _):
        async with connected(service, headers={SESSION_HEADER: SESSION}) as client:
            await client.chat("a")
            assert text_of(await client.chat("b", reset_history=True)) == "user:b"
        again = await told(service, "c", **{SESSION_HEADER: SESSION})
    assert again == "user:b|assistant:user:b|user:c"


async def test_the_user_of_the_header_is_that_of_every_message() -> None:
    ada = {SESSION_HEADER: SESSION, USER_HEADER: "ada"}
    async with scripted(echo) as (service, _):
        await told(service, "a", **ada)
        assert await told(service, "b", **(ada | {USER_HEADER: "bob"})) == "user:b"
        async with connected(service, headers=ada) as client:
            chat = await client.chat("c", user_id="bob")
            assert text_of(chat).startswith("user:a|")
            await client.send("regenerate", conversation_id=SESSION)
            again = await client.until(*ENDS)
        assert text_of(again) == text_of(chat)
        found = await service.json("GET", f"/conversations/{SESSION}?user_id=ada")
    assert found["message_count"] == 4


async def test_sessions_that_are_turned_off_are_not_remembered() -> None:
    async with scripted(echo, enable_sessions=False) as (service, _):
        headers = {SESSION_HEADER: SESSION}
        assert await told(service, "a", **headers) == "user:a"
        assert await told(service, "b", **headers) == "user:b"


async def test_a_session_that_is_none_is_refused_before_the_socket_opens() -> None:
    async with scripted(echo) as (service, _):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            async with (
                asyncio.timeout(DEADLINE),
                connected(service, headers={SESSION_HEADER: "s" * 257}),
            ):
                raise AssertionError("it opened")
    assert refusal.value.status == 400
