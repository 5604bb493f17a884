"""`/invocations` and `/ping`: what the platform of an AgentCore runtime asks and reads."""

import asyncio
import hashlib
import logging
import statistics
import threading
import time
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
import pytest

import sse
from api import agentcore
from api.agentcore import REQUEST_HEADER, Pulse
from api.http.payloads import SESSION_HEADER, USER_HEADER
from tests.api.support import scripted
from tests.service import Service, running
from tests.upstream import Counter, Reply, calls, held, reset_after, status, text

pytestmark = pytest.mark.usefixtures("no_mistakes")

SESSION = "0b7a6f2e-6d3f-4a57-9a3e-2f1c5d8e9b10"
STREAM = {"Accept": "text/event-stream"}

STORY: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "I am Ada."}]},
    {"role": "assistant", "content": "Hello Ada."},
    {"role": "user", "content": "Who am I?"},
]


class Answer(NamedTuple):
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def frames(self) -> list[Any]:
        return [msgspec.json.decode(data) for data in sse.Decoder().feed(self.body)]


async def invoked(
    service: Service,
    payload: Any,
    headers: dict[str, str] | None = None,
    path: str = "/invocations",
) -> Answer:
    """Send a payload, bytes as they are, without saying of which type."""
    data = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
    async with service.session.post(
        service.url + path, data=data, headers=headers, skip_auto_headers=["Content-Type"]
    ) as response:
        return Answer(response.status, response.headers, await response.read())


async def told(
    service: Service, question: str, session: str | None = None, user: str | None = None
) -> str:
    headers = {SESSION_HEADER: session, USER_HEADER: user}
    sent = {name: value for name, value in headers.items() if value}
    answer = await invoked(service, {"prompt": question}, sent)
    assert answer.status == 200, answer
    return str(answer.json["result"])


def echo(body: dict[str, Any]) -> Reply:
    """Answer with what was said: `user:a|assistant:…|user:b`."""
    said = [f"{m['role']}:{m['content']}" for m in body["messages"] if m["role"] != "system"]
    return text("|".join(said))


# The answer


async def test_an_answer_is_that_of_chat_and_what_callers_of_a_runtime_look_for() -> None:
    async with scripted([text("Hi."), text("Hi.")]) as (service, _):
        answer = await invoked(service, {"prompt": "Hello"}, {SESSION_HEADER: SESSION})
        native = await service.json("POST", "/chat", json={"message": "Hello"})
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Run-Id"] == answer.json["run_id"]
    own = {"result": "Hi.", "status": "success", "session_id": SESSION}
    same = {"conversation_id": SESSION, "run_id": answer.json["run_id"]}
    assert answer.json == native | own | same


ONE_QUESTION: list[Any] = [
    {"prompt": "Who am I?", "history": STORY[:1]},
    {"message": "Who am I?", "prompt": None, "unknown": 1, "history": STORY[:1]},
    {"input": "Who am I?", "messages": [], "history": STORY[:1]},
    {"input": [STORY[0], {"role": "user", "content": "Who am I?"}]},
    {"messages": [STORY[0], STORY[3]]},
    {"prompt": [STORY[0], {"role": "user", "content": [{"type": "text", "text": "Who am I?"}]}]},
    [STORY[0], STORY[3]],
]


@pytest.mark.parametrize("headers", [{}, STREAM])
async def test_every_form_of_a_payload_asks_the_same(headers: dict[str, str]) -> None:
    async with scripted(echo) as (service, upstream):
        for payload in ONE_QUESTION:
            answer = await invoked(service, payload, headers)
            assert answer.status == 200, (payload, answer)
            said = [(m["role"], m["content"]) for m in upstream.requests[-1]["messages"]]
            rules = "You are a helpful assistant.\n\nBe brief."
            assert said == [("system", rules), ("user", "Who am I?")], payload


async def test_messages_are_what_was_said_before_and_the_question() -> None:
    async with scripted(echo) as (service, _):
        answer = await invoked(service, {"messages": STORY})
        plain = await invoked(service, "Who am I?")
    assert answer.json["result"] == "user:I am Ada.|assistant:Hello Ada.|user:Who am I?"
    assert plain.json["result"] == "user:Who am I?"


async def test_the_body_is_json_whatever_its_content_type_says() -> None:
    async with scripted(echo) as (service, _):
        for kind in ("application/json", "application/octet-stream", "text/plain"):
            answer = await invoked(service, {"prompt": "hi"}, {"Content-Type": kind})
            assert answer.json["result"] == "user:hi", kind


async def test_an_agent_and_an_idempotency_key_are_those_of_every_surface() -> None:
    async with scripted([text("one"), text("two")]) as (service, upstream):
        await service.json("POST", "/agents/mine", expect=201, json={"instructions": "Be mine."})
        payload, headers = {"prompt": "hi", "agent": "mine"}, {"Idempotency-Key": "k"}
        first, second = [await invoked(service, payload, headers) for _ in range(2)]
        assert first.json == second.json
        assert first.json["agent"] == "mine"
        assert [r["messages"][0]["content"] for r in upstream.requests] == ["Be mine."]


# Sessions, users, ids


async def test_a_session_is_a_conversation_whether_it_is_streamed_or_not() -> None:
    async with scripted(echo) as (service, _):
        headers = {SESSION_HEADER: SESSION}
        await invoked(service, {"prompt": "a"}, headers | STREAM)
        assert await told(service, "b", SESSION) == "user:a|assistant:user:a|user:b"
        assert await told(service, "c", SESSION.replace("0", "1")) == "user:c"
        found = await service.json("GET", f"/conversations/{SESSION}")
    assert [message["content"] for message in found["messages"][::2]] == ["a", "b"]


async def test_without_a_session_nothing_is_remembered_or_listed() -> None:
    async with scripted(echo) as (service, _):
        first = await invoked(service, {"prompt": "a"}, {SESSION_HEADER: ""})
        assert first.json["session_id"] is None
        assert SESSION_HEADER not in first.headers
        assert await told(service, "b") == "user:b"
        assert (await service.json("GET", "/conversations"))["conversations"] == []


async def test_a_payload_may_name_the_conversation_and_the_header_wins() -> None:
    async with scripted(echo) as (service, _):
        await told(service, "a", "mine")
        for name in ("session_id", "conversation_id"):
            answer = await invoked(service, {"prompt": "b", name: "mine"})
            assert answer.json["result"].startswith("user:a|")
            assert answer.json["session_id"] == "mine"
            other = await invoked(service, {"prompt": "c", name: "mine"}, {SESSION_HEADER: name})
            assert other.json["result"] == "user:c"


async def test_sessions_can_be_turned_off() -> None:
    async with scripted(echo, enable_sessions=False) as (service, _):
        await told(service, "a", SESSION)
        assert await told(service, "b", SESSION) == "user:b"


async def test_a_session_that_is_no_conversations_id_stands_for_one() -> None:
    async with scripted(echo) as (service, _):
        for session in ("s" * 129, "s" * 256, "tenant/7: a b"):
            await told(service, "a", session)
            answer = await invoked(service, {"prompt": "b"}, {SESSION_HEADER: session})
            assert answer.json["result"].startswith("user:a|"), session
            assert answer.json["session_id"] == answer.headers[SESSION_HEADER] == session
            digest = hashlib.sha256(session.encode()).hexdigest()
            assert answer.json["conversation_id"] == f"session_{digest}"
            assert await told(service, "c", session[:-1] + "x") == "user:c"


async def test_a_session_that_fits_is_the_conversations_id_itself() -> None:
    async with running() as service:
        for session in ("s", "ws-session-123", "s" * 128):
            answer = await invoked(service, "hi", {SESSION_HEADER: session})
            assert answer.json["conversation_id"] == session


async def test_users_do_not_share_a_session_and_the_header_says_who_it_is() -> None:
    async with scripted(echo) as (service, _):
        for ada, bob in (("ada", "bob"), ("a" * 200, "a" * 201), ("a/1", "a/2")):
            await told(service, "a", SESSION, ada)
            assert await told(service, "b", SESSION, bob) == "user:b"
            headers = {SESSION_HEADER: SESSION, USER_HEADER: ada}
            answer = await invoked(service, {"prompt": "c", "user_id": "bob"}, headers)
            assert answer.json["result"].startswith("user:a|"), ada


async def test_the_ids_of_a_request_come_back_on_every_answer() -> None:
    headers = {SESSION_HEADER: SESSION, REQUEST_HEADER: "request-1"}
    async with running() as service:
        for payload, more in (("hi", {}), ("hi", STREAM), (b"{", {})):
            answer = await invoked(service, payload, headers | more)
            assert {name: answer.headers[name] for name in headers} == headers
        new = [(await invoked(service, "hi")).headers[REQUEST_HEADER] for _ in range(2)]
    assert UUID(new[0]) != UUID(new[1])


# Streams


ACCEPTS = {
    "text/event-stream": True,
    "Text/Event-Stream; charset=utf-8": True,
    "application/json, text/event-stream": True,
    "application/json;q=0.5,text/event-stream;q=0.9": True,
    "text/event-stream;q=0.5, application/json": False,
    "text/event-stream;q=0": False,
    "application/json": False,
    "*/*": False,
}


async def test_the_accept_header_chooses_between_an_answer_and_a_stream() -> None:
    async with running() as service:
        for accept, streams in ACCEPTS.items():
            answer = await invoked(service, {"prompt": "hi"}, {"Accept": accept})
            kind = answer.headers["Content-Type"].partition(";")[0]
            assert kind == ("text/event-stream" if streams else "application/json"), accept


async def test_a_stream_has_the_native_events_or_another_protocols() -> None:
    async with scripted([text("one ", "two"), text("three")]) as (service, _):
        native = await invoked(service, "hi", STREAM)
        run_id = native.headers["X-Run-Id"]
        async with service.session.get(f"{service.url}/runs/{run_id}/events") as response:
            assert native.body == await response.read()
        other = await invoked(service, "hi", STREAM, "/invocations?protocol=chunks")
    assert other.body.endswith(b"data: [DONE]\n\n")
    assert b'"content":"three"' in other.body


@pytest.mark.parametrize("query", ["", "?protocol=events"])
async def test_a_stream_that_fails_ends_in_one_frame_for_both_kinds_of_clients(query: str) -> None:
    async with scripted([reset_after(2)]) as (service, _):
        answer = await invoked(service, "hi", STREAM, "/invocations" + query)
        run = await service.json("GET", f"/runs/{answer.headers['X-Run-Id']}")
    *before, last = answer.frames
    assert answer.status == 200
    assert [frame["event_type"] for frame in before] == ["chat_start", "chat_chunk"]
    assert last == run["error"] | {
        "event_type": "error",
        "run_id": run["run_id"],
        "seq": 3,
        "error": run["error"]["message"],
        "error_type": run["error"]["code"],
    }


async def test_a_stream_of_another_protocol_fails_in_its_own_way() -> None:
    async with scripted([reset_after(2)]) as (service, _):
        answer = await invoked(service, "hi", STREAM, "/invocations?protocol=chunks")
    assert answer.frames[-1]["error"]["code"].startswith("upstream_")
    assert "error_type" not in answer.frames[-1]


# Failures

NOT_PAYLOADS: dict[str, tuple[Any, int, str, str]] = {
    "broken JSON": (b'{"prompt', 400, "Invalid JSON", "truncated"),
    "nothing": (b"", 400, "Invalid JSON", "truncated"),
    "deep arrays": (b"[" * 5000, 400, "Invalid JSON", ""),
    "no UTF-8": (b'"\xff"', 400, "Invalid encoding", "utf-8"),
    "no question": ({"test": "data"}, 400, "Invalid payload", "prompt, message, input, messages"),
    "two questions": ({"prompt": "a", "input": "b"}, 400, "Invalid payload", "one of"),
    "an empty text": ({"prompt": ""}, 400, "Invalid payload", "one of"),
    "an empty list": ([], 400, "Invalid payload", "one of"),
    "a number": (42, 400, "Invalid payload", "one of"),
    "null": (None, 400, "Invalid payload", "one of"),
    "a question that is an object": ({"prompt": {"a": 1}}, 400, "Invalid payload", "one of"),
    "NUL": ({"prompt": "a\0"}, 400, "Invalid payload", "NUL"),
    "no user's last": ({"messages": STORY[:3]}, 400, "Invalid payload", "messages: The last"),
    "a tool's message": (
        {"input": [{"role": "tool", "content": "x"}]},
        400,
        "Invalid payload",
        "input.0.role",
    ),
    "a bad agent": ({"prompt": "hi", "agent": "../"}, 400, "Invalid payload", "agent"),
    "a bad session": ({"prompt": "hi", "session_id": "a b"}, 400, "Invalid payload", "conv"),
    "too long": ({"prompt": "h" * 40_000}, 400, "Invalid payload", "32000"),
    "no such agent": ({"prompt": "hi", "agent": "no"}, 404, "Not Found", "no"),
}


async def test_what_the_caller_can_mend_has_a_title_and_details() -> None:
    async with running() as service:
        for name, (payload, code, title, says) in NOT_PAYLOADS.items():
            answer = await invoked(service, payload, STREAM)
            assert (answer.status, answer.json["error"]) == (code, title), name
            assert says in answer.json["details"], name
            assert answer.json["message"] == answer.json["details"]
            assert answer.json["retryable"] is False


NOT_REQUESTS: list[tuple[dict[str, str], str, int]] = [
    ({SESSION_HEADER: "s" * 257}, "/invocations", 400),
    ({SESSION_HEADER: "s\tt"}, "/invocations", 400),
    ({SESSION_HEADER: "säson"}, "/invocations", 400),
    ({USER_HEADER: "u" * 1025}, "/invocations", 400),
    ({"Idempotency-Key": ""}, "/invocations", 400),
    ({}, "/invocations?protocol=no", 400),
]


async def test_what_is_wrong_around_the_payload_is_refused_in_the_same_shape() -> None:
    async with running() as service:
        for headers, path, code in NOT_REQUESTS:
            answer = await invoked(service, {"prompt": "hi"}, headers, path)
            assert answer.status == code, (headers, answer)
            assert {"error", "details", "code"} <= answer.json.keys()
            assert service.registry.active_runs == 0


async def test_a_page_of_the_service_may_ask() -> None:
    async with running() as service:
        headers = {"Origin": service.url}
        assert (await invoked(service, {"prompt": "hi"}, headers)).status == 200


async def test_a_body_that_grows_too_large_is_refused_in_the_same_shape() -> None:
    async def body() -> Any:
        for _ in range(20):
            yield b"h" * 1000

    async with (
        running(max_body_bytes=4096) as service,
        service.session.post(service.url + "/invocations", data=body()) as response,
    ):
        failure = await response.json()
    assert (response.status, failure["code"]) == (413, "too_large")
    assert "4096" in failure["details"]


async def test_a_client_that_leaves_within_its_body_is_no_mistake_of_the_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, refusal = Counter(), agentcore._refusal

    def noted(error: Exception) -> Any:
        seen.add()
        return refusal(error)

    monkeypatch.setattr(agentcore, "_refusal", noted)
    async with running() as service:
        address = urlsplit(service.url)
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        await writer.drain()
        writer.close()
        await seen.reach(1)


async def test_a_run_that_fails_has_its_message_as_the_error() -> None:
    async with scripted([status(401, "no")]) as (service, _):
        answer = await invoked(service, "hi")
    assert answer.status == 502
    assert "credentials" in answer.json["error"]
    assert answer.json["message"] == answer.json["error"]
    assert "details" not in answer.json
    assert answer.headers["X-Run-Id"]


async def test_a_full_service_says_when_to_come_again() -> None:
    async with scripted([held(text("one"))], max_active_runs=1) as (service, upstream):
        first = asyncio.create_task(invoked(service, "hi"))
        await upstream.asked.reach(1)
        answer = await invoked(service, "hi")
        upstream.gate.open()
        assert (await first).status == 200
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert (answer.json["code"], answer.json["retryable"]) == ("unavailable", True)


async def test_a_mistake_of_the_service_is_logged_and_told_in_the_same_shape(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*args: Any, **options: Any) -> None:
        raise RuntimeError("a secret")

    async with running() as service:
        monkeypatch.setattr(service.registry, "start", broken)
        answer = await invoked(service, "hi")
    assert answer.status == 500
    assert answer.json["error"]
    assert b"secret" not in answer.body
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    caplog.clear()


# Pings


async def test_a_ping_says_whether_runs_are_under_way_and_since_when() -> None:
    began = int(time.time())
    async with scripted([held(text("one"))]) as (service, upstream):
        idle = await service.json("GET", "/ping")
        run = asyncio.create_task(invoked(service, "hi"))
        await upstream.asked.reach(1)
        busy = await service.json("GET", "/ping")
        upstream.gate.open()
        await run
        after = await service.json("GET", "/ping")
    assert [idle["status"], busy["status"], after["status"]] == [
        "Healthy",
        "HealthyBusy",
        "Healthy",
    ]
    for beat in (idle, busy, after):
        assert beat.keys() == {"status", "time_of_last_update"}
        assert isinstance(beat["time_of_last_update"], int)
        assert began <= beat["time_of_last_update"] <= time.time()


def test_the_time_of_a_ping_moves_only_when_the_status_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(100, 200))
    monkeypatch.setattr(agentcore, "time", SimpleNamespace(time=lambda: next(clock) + 0.5))
    pulse = Pulse()
    beats = [pulse.beat(busy=busy) for busy in (False, False, True, True, False, False)]
    assert [beat.time_of_last_update for beat in beats] == [100, 100, 101, 101, 102, 102]


async def test_a_ping_is_answered_within_100_ms_while_every_tool_worker_is_blocked() -> None:
    release, entered = threading.Event(), threading.Semaphore(0)

    def block() -> str:
        """Block its thread."""
        entered.release()
        release.wait(10)
        return "done"

    def script(body: dict[str, Any]) -> Reply:
        has_result = body["messages"][-1]["role"] == "tool"
        return text("ok") if has_result else calls(*[("block", {})] * 4)

    took = []
    async with (
        scripted(script, tools=[block], tool_workers=8) as (service, _),
        AsyncExitStack() as stack,
    ):
        stack.callback(release.set)
        runs = [asyncio.create_task(invoked(service, f"{n}")) for n in range(3)]
        for _ in range(8):
            assert await asyncio.to_thread(entered.acquire, timeout=10)
        for _ in range(15):
            started = time.perf_counter()
            beat = await service.json("GET", "/ping")
            took.append(time.perf_counter() - started)
            assert beat["status"] == "HealthyBusy"
        assert not entered.acquire(blocking=False)
        release.set()
        assert [(await run).status for run in runs] == [200] * 3
    assert statistics.median(took) < 1
