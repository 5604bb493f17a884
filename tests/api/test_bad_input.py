"""Whatever a client sends: a clear problem, no mistake of the service, and it goes on."""

import asyncio
import json
import string
from collections.abc import AsyncIterator

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.support import assert_problem, follow, refused, request, send
from tests.service import Service, running

pytestmark = pytest.mark.usefixtures("no_mistakes")

LIMIT = 65_536


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """A service that still answers when the test is done."""
    async with running(max_body_bytes=LIMIT) as service:
        yield service
        assert (await service.stream(message="hi"))[-1]["event_type"] == "chat_complete"
        assert (await service.json("GET", "/health"))["active_runs"] == 0


VALUES = {
    "no message": (b"{}", "message"),
    "an empty message": (b'{"message":""}', "message"),
    "a null message": (b'{"message":null}', "message"),
    "a number as the message": (b'{"message":1}', "message"),
    "an over-long message": (b'{"message":"%b"}' % (b"x" * 32_001), "message"),
    "a lone surrogate": (b'{"message":"\\ud800"}', "message"),
    "surrogates the wrong way round": (b'{"message":"\\udc00\\ud800"}', "message"),
    "a surrogate in UTF-8": (b'{"message":"\xed\xa0\x80"}', "message"),
    "a NUL": (b'{"message":"a\\u0000b"}', "message"),
    "an agent name that is none": (b'{"message":"hi","agent":"a b"}', "agent"),
    "a surrogate in the agent": (b'{"message":"hi","agent":"\\ud800"}', "agent"),
    "a conversation id that is none": (
        b'{"message":"hi","conversation_id":"/"}',
        "conversation_id",
    ),
    "an over-long id": (
        b'{"message":"hi","conversation_id":"%b"}' % (b"c" * 129),
        "conversation_id",
    ),
    "an unknown if_busy": (b'{"message":"hi","if_busy":"wait"}', "if_busy"),
    "a boolean that is none": (b'{"message":"hi","parallel_tools":"maybe"}', "parallel_tools"),
    "NaN for a boolean": (b'{"message":"hi","reset_history":NaN}', "reset_history"),
    "an empty body": (b"", ""),
    "null": (b"null", ""),
    "a list": (b"[]", ""),
    "a string": (b'"hi"', ""),
}


@pytest.mark.parametrize("path", ["/chat", "/chat/stream"])
async def test_a_bad_value_is_named(service: Service, path: str) -> None:
    for name, (body, field) in VALUES.items():
        answer = await send(service, request("POST", path, body))
        problem = assert_problem(answer, 422, "invalid_value")
        assert [fault["field"] for fault in problem["errors"]] == [field], name
        assert len(answer.body) < 2000, name


BROKEN = {
    "not JSON": b"hello",
    "half of it": b'{"message":"hi"',
    "two documents": b'{"message":"hi"}{}',
    "invalid UTF-8": b'{"message":"\xff\xfe"}',
    "a truncated character": b'{"message":"\xe2\x82"}',
    "an integer of 5,000 digits": b'{"message":"hi","x":%b}' % (b"9" * 5000),
}


async def test_what_is_not_json_is_said_to_be_none(service: Service) -> None:
    answers = {name: await send(service, request("POST", "/chat", BROKEN[name])) for name in BROKEN}
    codes = {name: json.loads(answer.body)["code"] for name, answer in answers.items()}
    assert codes == dict.fromkeys(BROKEN, "invalid_json")
    for answer in answers.values():
        assert_problem(answer, 400, "invalid_json")


DEEP = {
    "lists": b"[" * 14_000 + b"]" * 14_000,
    "objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "a field that is ignored": b'{"message":"hi","x":%b1%b}' % (b"[" * 14_000, b"]" * 14_000),
}


async def test_deep_nesting_does_no_harm(service: Service) -> None:
    """How deep is too deep differs between the versions of Python."""
    for name, body in DEEP.items():
        answer = await send(service, request("POST", "/chat", body))
        if answer.status == 422:
            assert_problem(answer, 422, "invalid_value")
        elif answer.status != 200:
            assert_problem(answer, 400, "invalid_json")
        assert answer.status != 200 or name == "a field that is ignored"


async def test_a_hundred_thousand_levels_are_refused() -> None:
    async with running() as service:
        for body in (b"[" * 100_000, b'{"message":"hi","x":%b}' % (b"[" * 100_000)):
            answer = await send(service, request("POST", "/chat", body))
            assert_problem(answer, 413, "too_large")
        for body in (b"[" * 20_000, b'{"message":"hi","x":%b}' % (b"[" * 20_000)):
            answer = await send(service, request("POST", "/chat", body))
            assert_problem(answer, 400, "invalid_json")


async def test_a_body_of_another_type_is_refused_with_what_to_send(service: Service) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        data = request("POST", "/chat", b'{"message":"hi"}', f"Content-Type: {kind}")
        assert_problem(await send(service, data), 415, "unsupported_media_type")


async def test_a_body_that_declares_too_much_is_refused_before_it_is_sent(
    service: Service,
) -> None:
    data = request("POST", "/chat", b"", "Content-Length: 99999999999")
    assert_problem(await send(service, data), 413, "too_large")


async def test_a_body_over_the_limit_is_refused(service: Service) -> None:
    body = b'{"message":"hi","x":"%b"}' % (b"x" * LIMIT)
    assert_problem(await send(service, request("POST", "/chat", body)), 413, "too_large")


async def test_a_chunked_body_over_the_limit_is_refused(service: Service) -> None:
    body = b"".join(b"1000\r\n%b\r\n" % (b" " * 0x1000) for _ in range(LIMIT // 0x1000 + 2))
    data = request("POST", "/chat", body + b"0\r\n\r\n", "Transfer-Encoding: chunked")
    assert_problem(await send(service, data), 413, "too_large")


async def test_a_body_at_the_limit_is_taken(service: Service) -> None:
    head, tail = b'{"message":"hi","x":"', b'"}'
    body = head + b"x" * (LIMIT - len(head) - len(tail)) + tail
    assert (await send(service, request("POST", "/chat", body))).status == 200


async def test_thousands_of_faults_get_a_short_answer(service: Service) -> None:
    body = msgspec.json.encode({f"k{number}": 0 for number in range(5000)})
    answer = await send(service, request("POST", "/agents/x", body))
    assert_problem(answer, 422, "invalid_value")
    assert len(answer.body) < 16_384


async def test_a_surrogate_as_a_key_is_refused(service: Service) -> None:
    answer = await send(service, request("POST", "/agents/x", b'{"\\ud800":1}'))
    assert_problem(answer, 422, "invalid_value")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_a_number_that_is_none_is_refused(service: Service, number: str) -> None:
    for field in ("temperature", "tool_call_timeout", "max_turns"):
        body = b'{"%b":%b}' % (field.encode(), number.encode())
        answer = await send(service, request("POST", "/agents/x", body))
        problem = assert_problem(answer, 422, "invalid_value")
        assert problem["errors"][0]["field"] == field


async def test_an_unknown_agent_is_a_404(service: Service) -> None:
    body = {"message": "hi", "agent": "nobody"}
    for path in ("/chat", "/chat/stream"):
        problem = await refused(service, "POST", path, 404, "agent_not_found", json=body)
        assert "nobody" in problem["detail"]


async def test_an_unknown_protocol_is_refused_and_starts_nothing(service: Service) -> None:
    path = "/chat/stream?protocol=morse"
    problem = await refused(service, "POST", path, 400, "invalid_request", json={"message": "hi"})
    assert "events" in problem["detail"]
    assert (await service.json("GET", "/health"))["active_runs"] == 0


ASTRAY = [
    ("GET", "/nothing", 404, "not_found"),
    ("GET", "/chat", 405, "method_not_allowed"),
    ("PUT", "/chat", 405, "method_not_allowed"),
    ("PATCH", "/agents/chat", 405, "method_not_allowed"),
    ("DELETE", "/runs/run_1", 405, "method_not_allowed"),
    ("POST", "/health", 405, "method_not_allowed"),
    ("GET", "/runs/%2e%2e", 404, "run_not_found"),
    ("GET", "/runs/a%00b", 422, "invalid_value"),
    ("GET", "/runs/%ff", 422, "invalid_value"),
    ("GET", "/runs/" + "r" * 129, 422, "invalid_value"),
    ("GET", "/docs/assets/%2e%2e/%2e%2e/app.py", 404, "not_found"),
    ("GET", "/docs/assets/%00", 404, "not_found"),
    ("GET", "/docs/assets/" + "a" * 5000, 404, "not_found"),
    ("GET", "/ws", 426, "upgrade_required"),
]


async def test_an_unknown_path_or_method_is_a_problem(service: Service) -> None:
    for method, path, status, code in ASTRAY:
        assert_problem(await send(service, request(method, path)), status, code)


@pytest.mark.parametrize("key", ["", "k" * 256], ids=["an empty key", "an over-long key"])
async def test_a_bad_idempotency_key_is_refused(service: Service, key: str) -> None:
    data = request("POST", "/chat", b'{"message":"hi"}', f"Idempotency-Key: {key}")
    assert_problem(await send(service, data), 422, "invalid_value")


async def test_every_bad_cursor_is_refused_and_the_events_are_still_there(
    service: Service,
) -> None:
    found = await service.stream(message="hi")
    run_id, end = found[0]["run_id"], found[-1]["seq"]
    bad = [
        "-1",
        "+1",
        "1.0",
        "x",
        "0x1",
        " 1",
        "\u0661",
        "9" * 30,
        str(end + 1),
        f"{run_id}",
        f"{run_id}:1",
        f"{run_id}:1:",
        f"{run_id}:1:-1",
        f"{run_id}:1:{end + 1}",
        f"{run_id}:2:1",
        f"{run_id}:1:1:1",
        f"run_of_somebody_else:1:{end}",
        "::",
        "\x00",
    ]
    for cursor in bad:
        path = f"/runs/{run_id}/events"
        await refused(service, "GET", path, 400, "invalid_cursor", params={"after": cursor})
        if cursor.isprintable() and cursor.isascii() and cursor == cursor.strip():
            headers = {"Last-Event-ID": cursor}
            await refused(service, "GET", path, 400, "invalid_cursor", headers=headers)
    assert await follow(service, run_id) == found


async def test_an_over_long_cursor_is_refused(service: Service) -> None:
    found = await service.stream(message="hi")
    path = f"/runs/{found[0]['run_id']}/events"
    await refused(service, "GET", path, 422, "invalid_value", params={"after": "1" * 201})


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x00" * 99,
    ],
    ids=["words", "TLS", "a wrong version", "zeros"],
)
async def test_what_is_not_http_is_refused(service: Service, data: bytes) -> None:
    assert (await send(service, data + b"\r\n\r\n")).status == 400


TEXTS = st.text(st.characters(codec=None, categories=None), max_size=12) | st.text(string.printable)
FIELDS = st.sampled_from(
    ["message", "agent", "conversation_id", "reset_history", "parallel_tools", "if_busy", "x"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
BODIES = st.dictionaries(FIELDS, JSON, max_size=7) | JSON | st.binary(max_size=40)


async def test_no_body_whatever_makes_the_service_err(service: Service) -> None:
    async def check(path: str, body: bytes) -> None:
        answer = await send(service, request("POST", path, body))
        if answer.status in (200, 201):
            msgspec.json.decode(answer.body)
        else:
            assert answer.status in (400, 404, 413, 422), answer
            assert answer.headers["content-type"] == "application/problem+json"

    bodies: list[tuple[str, bytes]] = []

    @settings(
        max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.sampled_from(["/chat", "/agents/x"]), BODIES)
    def collect(path: str, body: object) -> None:
        bodies.append((path, body if isinstance(body, bytes) else json.dumps(body).encode()))

    collect()
    for at in range(0, len(bodies), 20):
        await asyncio.gather(*(check(path, body) for path, body in bodies[at : at + 20]))
