"""The process: how it starts, what protects it, how it ends."""

import asyncio
import os
import re
import resource
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import aiohttp
import pytest
from websockets.frames import Frame, Opcode

import server
from tests.api.support import refused, request, rest, scripted, send, streaming, until
from tests.service import DEADLINE, Event, Service, events, running
from tests.upstream import Upstream, held, paced, text

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
SECRET = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"
PYTHON = (sys.executable, "app.py")


ENVIRONMENT = ("PATH", "HOME", "COVERAGE_PROCESS_CONFIG")
"""The variables that a process has of the tests', where they are set."""


@asynccontextmanager
async def started(*command: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a process with these variables and no other settings, in a folder of its own."""
    kept = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    with TemporaryDirectory() as directory:
        child = await asyncio.create_subprocess_exec(
            *command,
            cwd=ROOT,
            env=kept | {"DATA_DIR": directory, "PORT": "0"} | environment,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield child
        finally:
            if child.returncode is None:
                child.kill()
            await child.communicate()


@dataclass
class Process:
    """A service in a process of its own."""

    child: asyncio.subprocess.Process
    url: str
    session: aiohttp.ClientSession

    async def said(self, words: str, within: float = DEADLINE) -> str:
        """Return the next line of the log that holds `words`."""
        assert self.child.stderr is not None
        async with asyncio.timeout(within):
            while line := (await self.child.stderr.readline()).decode():
                if words in line:
                    return line
        raise AssertionError(f"the process never said {words!r}")

    async def address(self) -> str:
        """Wait until the process says where it listens, on a port that the system chose."""
        line = await self.said("http://127.0.0.1:", within=3 * DEADLINE)
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found
        return found[0]

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[AsyncIterator[Event]]:
        """Send a message and yield the events as they come."""
        body = {"message": "hi"}
        async with self.session.post(self.url + "/chat/stream", json=body) as response:
            yield events(response)

    async def stops_listening(self) -> None:
        """Return once no connection is taken; until then the service says what it does."""
        async with asyncio.timeout(DEADLINE):
            while True:
                try:
                    async with self.session.get(self.url + "/health") as response:
                        assert response.status in (200, 503)
                    await asyncio.sleep(0.02)
                except aiohttp.ClientConnectionError:
                    return

    async def ended(self, within: float) -> int:
        """Wait until the process has ended by itself, and return its exit status."""
        async with asyncio.timeout(within):
            return await self.child.wait()


@asynccontextmanager
async def process(*command: str, **environment: str) -> AsyncIterator[Process]:
    """Run the service in a process; it is up when the body begins."""
    async with (
        started(*(command or PYTHON), **environment) as child,
        aiohttp.ClientSession() as session,
    ):
        up = Process(child, "", session)
        up.url = await up.address()
        yield up


async def failed(**environment: str) -> tuple[int, list[str]]:
    """Start the service where it cannot start; return its exit status and what it said."""
    async with started(*PYTHON, **environment) as child:
        async with asyncio.timeout(DEADLINE):
            _, said = await child.communicate()
        assert child.returncode is not None
        return child.returncode, said.decode().splitlines()


@pytest.mark.parametrize(("name", "value"), [("PORT", "eighty"), ("OPENAI_TIMEOUT", "sk-oops")])
async def test_a_bad_setting_is_one_line_and_exit_status_2(name: str, value: str) -> None:
    status, said = await failed(**{name: value})
    assert (status, len(said)) == (2, 1), said
    assert name in said[0]
    assert value not in said[0]


async def test_a_port_that_is_taken_is_one_line_and_exit_status_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, said = await failed(PORT=port, LOG_LEVEL="WARNING")
    assert (status, len(said)) == (2, 1), said
    assert f"127.0.0.1:{port}" in said[0]


async def test_an_address_that_is_none_is_one_line_and_exit_status_2() -> None:
    status, said = await failed(HOST="no.such.host.invalid", LOG_LEVEL="WARNING")
    assert (status, len(said)) == (2, 1), said
    assert "no.such.host.invalid" in said[0]


async def start_to_first_health() -> None:
    """Start the service, wait for its first answer, and stop it."""
    unmeasured = {"COVERAGE_PROCESS_CONFIG": ""}
    async with process(**unmeasured) as up, up.session.get(up.url + "/health") as response:
        assert response.status == 200


def cpu_of_children() -> float:
    """Return the seconds of CPU that the processes started here have used, once they ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def test_a_start_to_the_first_answer_takes_less_than_two_seconds() -> None:
    # Of CPU, which it is busy with from first to last: others on the machine do not count.
    times: list[float] = []
    while len(times) < 3 and not (times and times[-1] < 2):
        before = cpu_of_children()
        await start_to_first_health()
        times.append(cpu_of_children() - before)
    assert 0 < min(times) < 2, times


async def test_the_process_greets_and_keeps_its_secrets() -> None:
    async with Upstream([text("hello")]) as upstream:
        options = {"OPENAI_BASE_URL": upstream.base_url, "LOG_LEVEL": "DEBUG", "DEBUG": "true"}
        async with process(**options, OPENAI_API_KEY=SECRET) as up:
            async with up.stream() as incoming:
                assert (await rest(incoming))[-1]["final_response"] == "hello"
            up.child.send_signal(signal.SIGTERM)
            assert up.child.stderr is not None
            async with asyncio.timeout(DEADLINE):
                said = (await up.child.stderr.read()).decode()
    assert SECRET not in said
    assert SECRET in upstream.headers[0]["authorization"]


async def test_the_greeting_says_who_can_connect() -> None:
    line = ""
    async with started(*PYTHON) as child, asyncio.timeout(DEADLINE):
        assert child.stderr is not None
        while "Parley" not in line:
            line = (await child.stderr.readline()).decode()
    assert "open, without credentials" in line
    assert "only this machine" in line
    assert "demo" in line


UVICORN = (sys.executable, "-m", "uvicorn", "app:app", "--port", "0")


@pytest.mark.parametrize("command", [PYTHON, UVICORN], ids=["python app.py", "uvicorn app:app"])
async def test_open_streams_are_finished_before_the_process_ends(command: tuple[str, ...]) -> None:
    async with (
        Upstream([paced(text("one", " two"))]) as upstream,
        process(*command, OPENAI_BASE_URL=upstream.base_url) as up,
        up.stream() as incoming,
    ):
        await until(incoming, "chat_start")
        for _ in range(2):
            await upstream.gate.pass_one()
        await until(incoming, "chat_chunk")
        up.child.send_signal(signal.SIGTERM)
        await up.stops_listening()
        upstream.gate.open()
        end = (await rest(incoming))[-1]
        assert (end["event_type"], end["final_response"]) == ("chat_complete", "one two")
        status = await up.ended(within=3)
    if command is PYTHON:
        assert status == 0


@pytest.mark.parametrize("command", [PYTHON, UVICORN], ids=["python app.py", "uvicorn app:app"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_what_outlasts_the_grace_is_let_go_and_the_process_ends(
    command: tuple[str, ...], number: signal.Signals
) -> None:
    async with Upstream([held(text("never"))]) as upstream:
        options = {"OPENAI_BASE_URL": upstream.base_url, "SHUTDOWN_GRACE": "0.4"}
        async with process(*command, **options) as up, up.stream() as incoming:
            await until(incoming, "chat_start")
            began = time.perf_counter()
            up.child.send_signal(number)
            async with asyncio.timeout(DEADLINE):
                assert await rest(incoming) == []  # it goes on after the restart
            lasted = time.perf_counter() - began
            status = await up.ended(within=4)
    assert 0.4 <= lasted < 2.5
    if command is PYTHON:
        assert status == 0


async def test_a_service_that_stops_refuses_new_work_and_says_when_to_come_back() -> None:
    async with (
        scripted([held(text("hi"))]) as (service, upstream),
        streaming(service, message="hi") as (_, incoming),
    ):
        service.registry.drain()
        problem = await refused(
            service, "POST", "/chat", 503, "unavailable", json={"message": "more"}
        )
        assert problem["retryable"] is True
        async with service.session.post(
            service.url + "/chat/stream", json={"message": "more"}
        ) as response:
            assert (response.status, response.headers["retry-after"]) == (503, "10")
        health = await service.json("GET", "/health", expect=503)
        assert (health["status"], health["active_runs"]) == ("draining", 1)
        upstream.gate.open()
        assert (await rest(incoming))[-1]["final_response"] == "hi"


async def connect(service: Service) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = urlsplit(service.url)
    return await asyncio.open_connection(address.hostname, address.port)


async def closed(reader: asyncio.StreamReader) -> bytes:
    """Wait until the service closes the connection; return what it sent before."""
    got = b""
    async with asyncio.timeout(DEADLINE):
        try:
            while data := await reader.read(65_536):
                got += data
        except ConnectionError:
            pass
    return got


@pytest.mark.parametrize(
    "sent", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: "]
)
async def test_a_head_that_is_not_finished_in_time_is_closed(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(server, "HEAD_TIMEOUT", 0.1)
    async with running() as service:
        reader, writer = await connect(service)
        writer.write(sent)
        assert await closed(reader) == b""
        writer.close()
        assert (await service.json("GET", "/health"))["status"] == "healthy"


async def test_the_head_of_a_second_request_has_its_own_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "HEAD_TIMEOUT", 0.1)
    async with running() as service:
        reader, writer = await connect(service)
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(DEADLINE):
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"GET /health HTTP/1.1\r\nHo")
        assert b"HTTP/1.1" not in await closed(reader)
        writer.close()


async def test_the_time_for_a_head_does_not_end_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_TIMEOUT", 0.05)
    async with (
        scripted([held(text("late"))], heartbeat_interval=0.05) as (service, upstream),
        service.session.post(service.url + "/chat/stream", json={"message": "hi"}) as response,
    ):
        raw = b""
        async with asyncio.timeout(DEADLINE):
            while raw.count(b": keep-alive") < 3:
                raw += await response.content.readany()
            upstream.gate.open()
            assert b'"final_response":"late"' in await response.content.read()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000,
        b"GET /" + b"x" * 200_000,
        b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 40_000,
    ],
    ids=["a header", "the address", "many headers"],
)
async def test_a_head_that_is_too_large_is_closed(head: bytes) -> None:
    async with running() as service:
        reader, writer = await connect(service)
        writer.write(head)
        assert b" 200 " not in await closed(reader)
        writer.close()
        assert (await service.json("GET", "/health"))["status"] == "healthy"


async def test_a_large_body_is_not_taken_for_a_head() -> None:
    async with running() as service:
        body = b'{"message":"hi","x":"%b"}' % (b"x" * 500_000)
        assert (await send(service, request("POST", "/chat", body))).status == 200


async def test_the_kernel_notices_who_is_gone_and_sends_at_once() -> None:
    with (
        server.listen("127.0.0.1", 0) as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as accepted,
    ):
        kept = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        has_no_delay = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert kept == server.USER_TIMEOUT_MS
    assert has_no_delay


async def test_the_service_listens_on_ipv6_too() -> None:
    try:
        listening = server.listen("::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with listening:
        assert listening.family is socket.AF_INET6


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 100_000])
def test_a_message_written_at_once_is_framed_as_the_library_would(size: int) -> None:
    payload = b"x" * size
    assert server._text_frame(payload) == Frame(Opcode.TEXT, payload).serialize(mask=False)


async def test_requests_that_come_together_are_answered_one_after_the_other() -> None:
    body = b'{"message": "Tell me a story."}'
    head = b"POST /chat/stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    asked = head + b"Content-Length: %d\r\n" % len(body)
    async with running(demo_tokens_per_second=500) as service:
        reader, writer = await connect(service)
        writer.write(asked + b"\r\n" + body + asked + b"Connection: close\r\n\r\n" + body)
        _, first, second = (await closed(reader)).split(b"HTTP/1.1 200 OK")
        writer.close()
    runs: set[bytes] = set()
    for answer in (first, second):
        assert answer.endswith(b"0\r\n\r\n")
        assert answer.count(b'"chat_start"') == answer.count(b'"chat_complete"') == 1
        runs |= {line.split(b":")[1] for line in answer.split(b"\n") if line.startswith(b"id: ")}
    assert len(runs) == 2


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://localhost/x", "Bad settings: DATABASE_URL"),
        ("nonsense", "Bad settings: DATABASE_URL"),
        ("postgresql://user:hidden-password@127.0.0.1:1/parley", "The database cannot be used"),
    ],
)
async def test_a_database_that_cannot_be_used_is_one_line_and_exit_status_2(
    url: str, said: str
) -> None:
    status, lines = await failed(DATABASE_URL=url)
    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith(said)
    assert "hidden-password" not in lines[0]


async def test_a_second_process_on_the_same_file_is_told_so(tmp_path: Path) -> None:
    async with process(*PYTHON, DATA_DIR=str(tmp_path)):
        status, lines = await failed(DATA_DIR=str(tmp_path), PORT="0")
        assert (status, len(lines)) == (2, 1)
        assert "Another process works with this file" in lines[0]
