"""`/ws` and what it must not be brought down by."""

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
import websockets.asyncio.client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed

from tests.service import DEADLINE, Service, running
from tests.upstream import Upstream, calls, paced, text
from tests.wsclient import ENDS, Client, connected, text_of

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.usefixtures("no_mistakes"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def demo() -> AsyncIterator[Service]:
    """One service for all tests: none of them may harm it."""
    async with running(websocket_max_bytes=2048) as service:
        yield service


@pytest_asyncio.fixture(loop_scope="module")
async def client(demo: Service) -> AsyncIterator[Client]:
    async with connected(demo) as client:
        yield client


def library(service: Service, **options: Any) -> websockets.asyncio.client.connect:
    """Connect with a client that can send frames no other one sends."""
    address = "ws" + service.url.removeprefix("http") + "/ws"
    return websockets.asyncio.client.connect(address, compression=None, **options)


async def still_chats(client: Client) -> None:
    """Check that the socket is open and answers, with nothing left over from before."""
    await client.send("ping", "still")
    assert (await client.receive())["type"] == "pong"
    frames = await client.chat("What's 15 + 27?", "after")
    assert "42" in text_of(frames)


# Faults of the content: an error frame, and the socket stays open

NOT_MESSAGES = {
    "nothing": "",
    "broken JSON": '{"type":"chat"',
    "trailing text": '{"type":"ping"} x',
    "not a number": '{"type":"ping","data":NaN}',
    "a huge exponent": '{"type":"ping","data":1e999}',
    "a lone high surrogate": '{"type":"chat","data":{"message":"\\ud800"}}',
    "a lone low surrogate": '{"type":"chat","data":{"message":"\\udc00x"}}',
    "a surrogate as a key": '{"\\ud800":1,"type":"ping"}',
    "deep arrays": '{"type":"chat","data":' + "[" * 1900 + "}",
    "an array": '[{"type":"ping"}]',
    "a string": '"ping"',
    "null": "null",
    "no type": '{"data":{}}',
    "a type that is no string": '{"type":1}',
    "a null type": '{"type":null}',
    "an unknown type": '{"type":"shout"}',
    "a type in capitals": '{"type":"PING"}',
    "an empty type": '{"type":""}',
    "a binary message": b'{"type":"ping"}',
    "an empty binary message": b"",
}


@pytest.mark.parametrize("message", NOT_MESSAGES.values(), ids=NOT_MESSAGES.keys())
async def test_what_is_no_message_gets_an_error_and_the_socket_stays_open(
    client: Client, message: str | bytes
) -> None:
    await client.send_raw(message)
    refusal = await client.refusal()
    assert refusal["code"] in ("invalid_request", "invalid_json", "unknown_type")
    assert refusal["message"]
    assert refusal["retryable"] is False
    await still_chats(client)


@pytest.mark.parametrize(
    "request_id", ["", "with space", "ä", "x" * 257, 'a"b', "a\n", 1, [], {}, True]
)
async def test_a_bad_request_id_is_refused_and_not_echoed(client: Client, request_id: Any) -> None:
    await client.send_raw(json.dumps({"type": "ping", "request_id": request_id}))
    frame = await client.receive()
    assert frame["type"] == "error"
    assert "request_id" not in frame
    await still_chats(client)


async def test_a_message_may_be_nested_deep_where_nothing_reads_it(client: Client) -> None:
    data = '{"message":"hello","extra":' + "[" * 400 + "]" * 400 + "}"
    await client.send_raw('{"type":"chat","data":' + data + "}")
    assert (await client.until(*ENDS))[-1]["type"] == "chat_complete"
    await still_chats(client)


BAD_CHATS: dict[str, Any] = {
    "no data": None,
    "data that is a string": "hello",
    "data that is a list": [],
    "no message": {},
    "a message that is null": {"message": None},
    "a message that is a number": {"message": 42},
    "an empty message": {"message": ""},
    "NUL": {"message": "a\0b"},
    "a bad agent name": {"message": "hi", "agent": "../etc"},
    "a bad conversation": {"message": "hi", "conversation_id": "a b"},
    "an empty conversation": {"message": "hi", "conversation_id": ""},
    "an unknown if_busy": {"message": "hi", "if_busy": "wait"},
    "an empty key": {"message": "hi", "idempotency_key": ""},
    "a long key": {"message": "hi", "idempotency_key": "k" * 256},
    "NUL in a key": {"message": "hi", "idempotency_key": "k\0"},
    "a reset that is no boolean": {"message": "hi", "reset_history": "perhaps"},
}


@pytest.mark.parametrize("data", BAD_CHATS.values(), ids=BAD_CHATS.keys())
async def test_a_chat_with_bad_data_is_refused_with_its_faults(client: Client, data: Any) -> None:
    await client.send_raw(json.dumps({"type": "chat", "request_id": "r1", "data": data}))
    frame = await client.receive()
    assert (frame["type"], frame["request_id"]) == ("error", "r1")
    assert frame["data"]["code"] == "invalid_value"
    assert all(fault["message"] for fault in frame["data"]["errors"])
    await still_chats(client)


@pytest.mark.parametrize("kind", ["regenerate", "edit"])
async def test_a_key_that_no_store_takes_is_refused_wherever_there_is_one(
    client: Client, kind: str
) -> None:
    await client.send(kind, conversation_id="c", message_id="m", message="x", idempotency_key="\0")
    refusal = await client.refusal()
    assert [fault["field"] for fault in refusal["errors"]] == ["idempotency_key"]
    await still_chats(client)


async def test_an_unknown_agent_is_named(client: Client) -> None:
    await client.send("chat", message="hi", agent="nobody")
    refusal = await client.refusal()
    assert refusal["code"] == "agent_not_found"
    assert "nobody" in refusal["message"]
    await still_chats(client)


async def test_a_message_longer_than_the_service_takes_is_refused() -> None:
    async with running(max_message_chars=10) as service, connected(service) as client:
        await client.send("chat", message="x" * 11)
        assert (await client.refusal())["code"] == "invalid_value"
        assert (await client.chat("hello"))[-1]["type"] == "chat_complete"


@pytest.mark.parametrize("kind", ["tool_result", "approve", "deny"])
async def test_a_reserved_type_says_that_nothing_waits_for_it(client: Client, kind: str) -> None:
    await client.send(kind, "r1", run_id="run_x", tool_call_id="call_x", result=1)
    frame = await client.receive()
    assert frame["request_id"] == "r1"
    assert frame["data"]["code"] == "not_expected"
    await still_chats(client)


@pytest.mark.parametrize(
    ("kind", "data", "code"),
    [
        ("cancel", {"run_id": "run_nobody"}, "run_not_found"),
        ("cancel", {}, "invalid_value"),
        ("cancel", {"run_id": "a:b"}, "invalid_value"),
        ("cancel", {"run_id": 7}, "invalid_value"),
        ("cancel_tool", {"run_id": "run_nobody", "tool_call_id": "x"}, "run_not_found"),
        ("cancel_tool", {"run_id": "run_nobody"}, "invalid_value"),
        ("cancel_tool", {"run_id": "run_x", "tool_call_id": "x" * 201}, "invalid_value"),
        ("subscribe", {"run_id": "run_nobody"}, "run_not_found"),
        ("subscribe", {}, "invalid_value"),
        ("unsubscribe", {"run_id": "run_nobody"}, "not_subscribed"),
        ("unsubscribe", {"run_id": ""}, "invalid_value"),
    ],
)
async def test_what_names_no_run_is_refused(
    client: Client, kind: str, data: dict[str, Any], code: str
) -> None:
    await client.send(kind, **data)
    assert (await client.refusal())["code"] == code
    await still_chats(client)


async def test_a_call_that_is_not_under_way_cannot_be_cancelled(client: Client) -> None:
    run_id = (await client.chat("What's 15 + 27?"))[0]["data"]["run_id"]
    await client.send("cancel_tool", run_id=run_id, tool_call_id="call_x")
    assert (await client.refusal())["code"] == "tool_call_not_found"


@pytest.mark.parametrize(
    "after",
    [
        "run_other:1:1",
        "{run}:1",
        "{run}:1:1:1",
        "{run}:1:-1",
        "{run}:2:1",
        "{run}:1:999999",
        "{run}:1:9999999999999999",
        "{run}:1:99999999999999999",
        "{run}:1: 1",
        "{run}:1:1_0",
        "{run}:1:٣",
        "{run}:x:y",
        "::",
        "",
        "-1",
        "1.5",
        "999999",
        -1,
        999999,
        2**53,
        2**63 - 1,
    ],
)
async def test_a_cursor_that_cannot_be_continued_is_refused(
    client: Client, after: str | int
) -> None:
    run_id = (await client.chat("hello"))[0]["data"]["run_id"]
    wish = after.replace("{run}", run_id) if isinstance(after, str) else after
    await client.send("subscribe", "s1", run_id=run_id, after=wish)
    frame = await client.receive()
    assert (frame["type"], frame["request_id"]) == ("error", "s1")
    assert frame["data"]["code"] == "invalid_cursor"
    await still_chats(client)


@pytest.mark.parametrize("after", [1.5, [], {}, "x" * 201])
async def test_a_cursor_of_a_wrong_type_is_refused(client: Client, after: Any) -> None:
    run_id = (await client.chat("hello"))[0]["data"]["run_id"]
    await client.send("subscribe", run_id=run_id, after=after)
    assert (await client.refusal())["code"] == "invalid_value"
    await still_chats(client)


async def test_a_cursor_of_a_log_that_has_expired_gets_a_reset() -> None:
    async with running(run_log_ttl=0.001) as service, connected(service) as client:
        frames = await client.chat("hello")
        await client.chat("hello")
        cursor, run_id = frames[1]["id"], frames[0]["data"]["run_id"]
        await client.send("subscribe", "s1", run_id=run_id, after=cursor)
        again = await client.until(*ENDS)
    assert [frame["type"] for frame in again] == [
        "ack",
        "reset",
        "chat_start",
        "chat_chunk",
        "chat_complete",
    ]
    assert "id" not in again[1]
    assert again[1]["data"]["reason"] == "log_expired"
    assert text_of(again) == text_of(frames)


# Bounds in bytes


async def test_a_message_over_the_limit_gets_an_error_and_the_socket_stays_open(
    client: Client,
) -> None:
    for size in (2049, 4000, 8192):
        await client.send_raw('"' + "x" * (size - 2) + '"')
        assert (await client.refusal())["code"] == "too_large"
    await client.send_raw('"' + "ä" * 1024 + '"')
    assert (await client.refusal())["code"] == "too_large"
    await still_chats(client)


async def test_a_message_at_the_limit_is_read(client: Client) -> None:
    message = '{"type":"ping","data":"%s"}'
    await client.send_raw(message % ("x" * (2048 - len(message) + 2)))
    assert (await client.receive())["type"] == "pong"


async def test_a_message_over_four_times_the_limit_closes_with_1009(client: Client) -> None:
    await client.send_raw('"' + "x" * 8191 + '"')
    assert await client.closed() == 1009


async def test_a_fragmented_message_is_bounded_as_a_whole(demo: Service) -> None:
    async with library(demo) as raw:
        with contextlib.suppress(ConnectionClosed):
            await raw.send(["x" * 1000] * 9)
        async with asyncio.timeout(DEADLINE):
            await raw.wait_closed()
        assert raw.close_code == 1009


async def test_a_fragmented_message_is_read(demo: Service) -> None:
    async with library(demo) as raw, asyncio.timeout(DEADLINE):
        await raw.send(['{"type":', '"pi', "", 'ng"}'])
        assert json.loads(await raw.recv())["type"] == "pong"


async def test_invalid_utf8_closes_with_1007(
    demo: Service, caplog: pytest.LogCaptureFixture
) -> None:
    async with library(demo) as raw:
        await raw.send(b'{"type":"\xff"}', text=True)
        async with asyncio.timeout(DEADLINE):
            await raw.wait_closed()
        assert raw.close_code == 1007
    caplog.clear()  # uvicorn logs it as an error


async def test_a_fault_of_the_framing_during_a_chat_is_no_mistake_of_the_service() -> None:
    async with running(websocket_max_bytes=1024) as service:
        for _ in range(5):
            async with connected(service) as client:
                for number in range(8):
                    await client.send("chat", f"r{number}", message="long text please")
                await client.until("chat_chunk")
                await client.send_raw("x" * 5000)
                assert await client.closed() == 1009
        async with connected(service) as client:
            await still_chats(client)


# Floods, and clients that do not read


async def test_a_flood_of_pings_of_both_kinds_is_answered(demo: Service) -> None:
    async with library(demo) as raw, connected(demo) as other, asyncio.timeout(DEADLINE):
        pongs = [await raw.ping() for _ in range(1000)]
        for _ in range(1000):
            await raw.send('{"type":"ping"}')
        await still_chats(other)
        for _ in range(1000):
            assert json.loads(await raw.recv())["type"] == "pong"
        await asyncio.gather(*pongs)


def narrow_socket(service: Service) -> socket.socket:
    """Return a connection that takes little before it is full."""
    address = urlsplit(service.url)
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.connect((address.hostname, address.port))
    narrow.setblocking(False)
    return narrow


async def test_pings_of_a_client_that_never_reads_do_not_pile_up(demo: Service) -> None:
    loop = asyncio.get_running_loop()
    pings = (b"\x89\xfd" + bytes(4) + b"x" * 125) * 500
    with narrow_socket(demo) as narrow:
        head = (
            f"GET /ws HTTP/1.1\r\nHost: {urlsplit(demo.url).netloc}\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        await loop.sock_sendall(narrow, head.encode())
        assert b" 101 " in await loop.sock_recv(narrow, 1000)

        async def flood() -> None:
            for _ in range(500):
                async with asyncio.timeout(2):
                    await loop.sock_sendall(narrow, pings)

        with pytest.raises((ConnectionError, TimeoutError)):  # cut off, or read no further
            await flood()


class _Heard(logging.Handler):
    """Waits for a message in the log."""

    def __init__(self, text: str) -> None:
        super().__init__(logging.INFO)
        self.heard = asyncio.Event()
        self._text = text

    def emit(self, record: logging.LogRecord) -> None:
        if self._text in record.getMessage():
            self.heard.set()


@contextlib.contextmanager
def _listening(text: str) -> Iterator[asyncio.Event]:
    logger = logging.getLogger("parley.api")
    handler, level = _Heard(text), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield handler.heard
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


async def test_a_client_that_never_reads_is_cut_off_and_the_others_go_on() -> None:
    piece = "x" * 65_536
    async with (
        Upstream(lambda body: text(*[piece] * 128)) as upstream,
        running(upstream=upstream.base_url, slow_reader_timeout=0.3) as service,
    ):
        narrow = narrow_socket(service)
        with _listening("cut off") as cut_off:
            async with library(service, sock=narrow, max_size=None, ping_interval=None) as raw:
                raw.transport.pause_reading()
                await raw.send('{"type":"chat","data":{"message":"hi","conversation_id":"c"}}')
                async with asyncio.timeout(DEADLINE):
                    await upstream.finished.reach(1)
                    async with connected(service, max_msg_size=0) as other:
                        assert len(text_of(await other.chat("hi"))) == 128 * len(piece)
                    await cut_off.wait()
                serving = {task for task in asyncio.all_tasks() if "run_asgi" in repr(task)}
                raw.transport.abort()
                async with asyncio.timeout(DEADLINE):  # its mistakes would be logged
                    await asyncio.gather(*serving)
        assert service.registry.active_runs == 0


async def test_a_client_that_reads_slowly_but_reads_is_not_cut_off() -> None:
    async with (
        Upstream([paced(text("one", "two"))]) as upstream,
        running(upstream=upstream.base_url, slow_reader_timeout=0.1) as service,
        connected(service) as client,
    ):
        await client.send("chat", message="hi")
        await client.until("chat_start")
        await asyncio.sleep(0.4)  # silence is no slowness: several checks pass
        upstream.gate.open()
        assert text_of(await client.until(*ENDS)) == "onetwo"


async def test_a_socket_that_leaves_while_its_tools_run_leaves_no_trace() -> None:
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def wait() -> str:
        """Wait."""
        loop.call_soon_threadsafe(started.set)
        await asyncio.Event().wait()
        return ""

    async with (
        Upstream([calls(("wait", {}))]) as upstream,
        running(upstream=upstream.base_url, tools=[wait]) as service,
    ):
        async with connected(service) as client:
            await client.send("chat", message="hi")
            run_id = (await client.until("chat_start"))[0]["data"]["run_id"]
            async with asyncio.timeout(DEADLINE):
                await started.wait()
            client.abort()
        run = await service.json("POST", f"/runs/{run_id}/cancel")
        assert run["status"] == "cancelled"
    assert not [task for task in asyncio.all_tasks() if "_send_run" in repr(task)]


# Anything at all

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=12,
)
_types = st.sampled_from(
    ["chat", "cancel", "cancel_tool", "subscribe", "unsubscribe", "tool_result", "ping", "x"]
)
_fields = st.dictionaries(
    st.sampled_from(
        ["message", "agent", "conversation_id", "run_id", "after", "tool_call_id", "if_busy"]
    ),
    _json | st.sampled_from(["chat", "hi", "reject", "interrupt", "run_x", "run_x:1:1"]),
)
_messages = st.one_of(
    st.text(max_size=50),
    st.binary(max_size=50),
    _json.map(json.dumps),
    st.fixed_dictionaries(
        {"type": _types | _json, "data": _json | _fields},
        optional={"request_id": _json | st.sampled_from(["r1", "r2"])},
    ).map(json.dumps),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(messages=st.lists(_messages, max_size=25))
async def test_no_garbage_closes_the_socket_or_is_logged_as_a_mistake(
    demo: Service, messages: list[str | bytes]
) -> None:
    async with connected(demo) as client:
        for message in messages:
            await client.send_raw(message)
        frames = await client.chat("What's 15 + 27?", "after-all", conversation_id="clean")
        assert "42" in text_of([f for f in frames if f.get("request_id") == "after-all"])
