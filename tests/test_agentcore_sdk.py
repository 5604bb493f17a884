"""The calls that AgentCore's own clients make, as they put them on the wire.

`bedrock-agentcore` 1.25: the client of its integration tests, which asks a container, and
`AgentCoreRuntimeClient`, which asks the platform, by boto3 (`InvokeAgentRuntime`) or with a
WebSocket whose address and headers it has made.
"""

import asyncio
import base64
import json
import secrets
from typing import Any
from urllib.parse import quote, urlencode
from uuid import uuid4

import websockets.asyncio.client

import sse
from tests.api.support import send
from tests.service import DEADLINE, Service, running

ARN = "arn:aws:bedrock-agentcore:us-west-2:123456789012:runtime/my-runtime-abc"
RUNTIME = f"/runtimes/{quote(ARN, safe='')}"
SESSION = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
USER = "X-Amzn-Bedrock-AgentCore-Runtime-User-Id"


async def by_boto3(
    service: Service, payload: bytes, query: str = "", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Ask as `invoke_agent_runtime` does: no `Content-Type`, and a session always."""
    headers = {SESSION: str(uuid4())} | {key.replace("_", "-"): v for key, v in headers.items()}
    lines = [
        f"POST {RUNTIME}/invocations{query} HTTP/1.1",
        f"Host: {service.url.removeprefix('http://')}",
        "Accept-Encoding: identity",
        *(f"{name}: {value}" for name, value in headers.items()),
        "User-Agent: Boto3/1.44.5 md/Botocore#1.44.5 bedrock-agentcore/1.25.0",
        "X-Amz-Date: 20260101T000000Z",
        "Authorization: AWS4-HMAC-SHA256 Credential=x/20260101/us-west-2/bedrock-agentcore/"
        "aws4_request, SignedHeaders=host;x-amz-date, Signature=00",
        "amz-sdk-invocation-id: 277b669e-8903-4994-bc4a-709df3f1e46b",
        "amz-sdk-request: attempt=1; max=3",
        f"Content-Length: {len(payload)}",
        "Connection: close",
    ]
    answer = await send(service, ("\r\n".join(lines) + "\r\n\r\n").encode() + payload)
    return answer.status, answer.headers, answer.body


async def test_the_client_of_the_integration_tests_pings_and_asks() -> None:
    async with running() as service:
        async with service.session.get(service.url + "/ping") as response:
            assert "Healthy" in await response.text()
        for payload in ({"message": "What's 15 + 27?"}, {"prompt": "What's 15 + 27?"}):
            async with service.session.post(service.url + "/invocations", json=payload) as response:
                assert "42" in await response.text()


async def test_boto3_asks_below_the_arn_and_reads_the_session_and_the_body() -> None:
    session = {SESSION.replace("-", "_"): "s" * 33}
    async with running() as service:
        await by_boto3(service, b'{"prompt": "My name is Ada."}', **session)
        status, headers, body = await by_boto3(
            service, b'{"prompt": "What is my name?"}', "?qualifier=DEFAULT", **session
        )
        assert (status, headers["content-type"]) == (200, "application/json")
        assert headers[SESSION.lower()] == "s" * 33
        assert "Ada" in json.loads(body)["result"]
        _, _, other = await by_boto3(service, b'{"prompt": "What is my name?"}')
        assert "Ada" not in json.loads(other)["result"]


async def test_boto3_streams_for_a_user() -> None:
    async with running() as service:
        status, headers, body = await by_boto3(
            service, b'{"prompt": "hi"}', Accept="text/event-stream", **{USER: "ada"}
        )
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    events = [json.loads(data) for data in sse.Decoder().feed(body)]
    assert [events[0]["event_type"], events[-1]["event_type"]] == ["chat_start", "chat_complete"]


async def test_boto3_finds_what_its_error_says() -> None:
    async with running() as service:
        status, _, body = await by_boto3(service, b"{}")
    failure = json.loads(body)
    assert (status, failure["code"]) == (400, "invalid_value")
    assert "prompt" in failure["message"]


async def spoken(address: str, headers: dict[str, str], payload: dict[str, Any]) -> str:
    """Connect as the SDK's documentation says, send a payload and return the answer."""
    async with (
        asyncio.timeout(DEADLINE),
        websockets.asyncio.client.connect(address, additional_headers=headers) as socket,
    ):
        await socket.send(json.dumps(payload))
        while True:
            frame = json.loads(await socket.recv())
            if frame["type"] == "chat_complete":
                return str(frame["data"]["final_response"])
            assert frame["type"] != "error", frame


async def test_a_websocket_is_opened_with_signed_headers_a_token_or_a_signed_address() -> None:
    session = str(uuid4())
    signed = {"X-Amz-Date": "20260101T000000Z", "Authorization": "AWS4-HMAC-SHA256 Credential=x"}
    bearer = {"Authorization": "Bearer " + base64.b64encode(secrets.token_bytes(16)).decode()}
    query = {"qualifier": "DEFAULT", SESSION: session, "X-Amz-Algorithm": "AWS4-HMAC-SHA256"}
    question = {"prompt": "What is my name?"}
    async with running() as service:
        base = service.url.replace("http", "ws", 1)
        await spoken(f"{base}/ws", signed | {SESSION: session}, {"message": "My name is Ada."})
        for address, headers in (
            (f"{base}{RUNTIME}/ws?qualifier=DEFAULT", signed | {SESSION: session}),
            (f"{base}{RUNTIME}/ws", bearer | {SESSION: session}),
            (f"{base}{RUNTIME}/ws?{urlencode(query)}", {}),
        ):
            assert "Ada" in await spoken(address, headers, question)
        assert "Ada" not in await spoken(f"{base}/ws", signed | {SESSION: str(uuid4())}, question)
