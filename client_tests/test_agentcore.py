"""AWS's clients of an AgentCore runtime, with this service as their endpoint.

boto3 takes the address from `AWS_ENDPOINT_URL_BEDROCK_AGENTCORE`. The helpers of
`bedrock-agentcore` sign the platform's own address, so that here a socket is opened with their
path, query and headers on the service's address.
"""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import boto3
import pytest
from bedrock_agentcore.runtime import AgentCoreRuntimeClient
from botocore.exceptions import ClientError
from websockets.sync.client import connect

from client_tests.service import Model, Service
from tests.upstream import error_event_after, text

ARN = "arn:aws:bedrock-agentcore:us-west-2:123456789012:runtime/my-runtime-abc"

HANDSHAKE = ("host", "upgrade", "connection", "sec-websocket-key", "sec-websocket-version")
"""Headers that whoever opens the socket makes anew."""


@pytest.fixture(params=["boto3", "bedrock-agentcore"])
def client(
    request: pytest.FixtureRequest, service: Service, monkeypatch: pytest.MonkeyPatch
) -> Any:
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_AGENTCORE", service.url)
    if request.param == "boto3":
        return boto3.client("bedrock-agentcore", region_name="us-west-2")
    return AgentCoreRuntimeClient("us-west-2")


def asked(prompt: str) -> bytes:
    return json.dumps({"prompt": prompt}).encode()


def test_a_runtime_answers_with_json(client: Any, model: Model) -> None:
    model.says(text("Good", " day"))
    session = str(uuid4())
    answer = client.invoke_agent_runtime(
        agentRuntimeArn=ARN, runtimeSessionId=session, payload=asked("Hello!"), qualifier="DEFAULT"
    )
    assert (answer["statusCode"], answer["contentType"]) == (200, "application/json")
    assert answer["runtimeSessionId"] == session
    assert json.loads(answer["response"].read())["result"] == "Good day"


def test_a_session_is_a_conversation(client: Any, model: Model) -> None:
    model.says(text("Hello Ada."), text("Ada."), text("I do not know."))
    session = str(uuid4())
    for prompt in ("I am Ada.", "Who am I?"):
        client.invoke_agent_runtime(
            agentRuntimeArn=ARN, runtimeSessionId=session, payload=asked(prompt)
        )["response"].read()
    client.invoke_agent_runtime(agentRuntimeArn=ARN, payload=asked("Who am I?"))["response"].read()
    said = [
        [m["content"] for m in request["messages"] if m["role"] != "system"]
        for request in model.requests
    ]
    assert said[1:] == [["I am Ada.", "Hello Ada.", "Who am I?"], ["Who am I?"]]


def test_a_runtime_streams(client: Any, model: Model) -> None:
    model.says(text("Good", " day"))
    answer = client.invoke_agent_runtime(
        agentRuntimeArn=ARN, payload=asked("Hello!"), accept="text/event-stream"
    )
    assert "text/event-stream" in answer["contentType"]
    events = frames(answer["response"].iter_lines(chunk_size=10))
    assert "".join(e["content"] for e in events if e["event_type"] == "chat_chunk") == "Good day"
    assert events[-1]["event_type"] == "chat_complete"


def test_a_stream_that_breaks_off_ends_in_an_error(client: Any, model: Model) -> None:
    model.says(error_event_after(3))
    answer = client.invoke_agent_runtime(
        agentRuntimeArn=ARN, payload=asked("Hello!"), accept="text/event-stream"
    )
    last = frames(answer["response"].iter_lines())[-1]
    assert last["error"] == last["message"]
    assert last["error_type"]


def frames(lines: Any) -> list[Any]:
    """Return the events of a stream, read by lines as AWS's examples do."""
    texts = [line.decode() for line in lines]
    return [json.loads(each.removeprefix("data: ")) for each in texts if each.startswith("data: ")]


def test_a_payload_without_a_question_is_refused(client: Any, model: Model) -> None:
    with pytest.raises(ClientError) as caught:
        client.invoke_agent_runtime(agentRuntimeArn=ARN, payload=b"{}")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert "prompt" in caught.value.response["Error"]["Message"]


def by_signed_headers(client: AgentCoreRuntimeClient, session: str) -> tuple[str, dict[str, str]]:
    url, headers = client.generate_ws_connection(ARN, session, "DEFAULT")
    return url, headers


def by_token(client: AgentCoreRuntimeClient, session: str) -> tuple[str, dict[str, str]]:
    url, headers = client.generate_ws_connection_oauth(ARN, "a.b.c", session)
    return url, headers


def by_signed_address(client: AgentCoreRuntimeClient, session: str) -> tuple[str, dict[str, str]]:
    return client.generate_presigned_url(ARN, session, "DEFAULT"), {}


@pytest.mark.parametrize("way", [by_signed_headers, by_token, by_signed_address])
def test_a_socket_is_opened_and_its_session_is_a_conversation(
    service: Service,
    model: Model,
    way: Callable[[AgentCoreRuntimeClient, str], tuple[str, dict[str, str]]],
) -> None:
    model.says(text("Hello Ada."), text("Ada."))
    runtime, session = AgentCoreRuntimeClient("us-west-2"), str(uuid4())
    for prompt in ("I am Ada.", "Who am I?"):
        signed, headers = way(runtime, session)
        address = urlsplit(signed)._replace(scheme="ws", netloc=urlsplit(service.url).netloc)
        own = {name: v for name, v in headers.items() if name.lower() not in HANDSHAKE}
        with connect(address.geturl(), additional_headers=own, proxy=None) as socket:
            socket.send(asked(prompt).decode())
            kinds: list[str] = []
            while not kinds or kinds[-1] not in ("chat_complete", "error"):
                kinds.append(json.loads(socket.recv(timeout=20))["type"])
            assert kinds[-1] == "chat_complete"
    said = [m["content"] for m in model.requests[1]["messages"] if m["role"] != "system"]
    assert said == ["I am Ada.", "Hello Ada.", "Who am I?"]
