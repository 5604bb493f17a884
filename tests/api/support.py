"""What the tests of the HTTP surface share: raw requests, problems, cursors, tools."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from tests.service import DEADLINE, Event, Service, events, running
from tests.upstream import Counter, Script, Upstream


@asynccontextmanager
async def scripted(script: Script, **options: Any) -> AsyncIterator[tuple[Service, Upstream]]:
    """Serve the application with a scripted model; `options` are those of `running`."""
    async with (
        Upstream(script) as upstream,
        running(upstream=upstream.base_url, **options) as service,
    ):
        yield service, upstream


@asynccontextmanager
async def streaming(
    service: Service, **body: Any
) -> AsyncIterator[tuple[str, AsyncIterator[Event]]]:
    """Send a message and yield the run's id and its events as they come."""
    async with service.session.post(service.url + "/chat/stream", json=body) as response:
        assert response.status == 200, await response.text()
        yield response.headers["X-Run-Id"], events(response)


async def rest(incoming: AsyncIterator[Event]) -> list[Event]:
    """Return the events that are still to come."""
    return [event async for event in incoming]


async def until(incoming: AsyncIterator[Event], event_type: str) -> list[Event]:
    """Return the events up to the first of a type."""
    found: list[Event] = []
    while not found or found[-1]["event_type"] != event_type:
        found.append(await anext(incoming))
    return found


class Answer(NamedTuple):
    """A response as it came over the socket; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def request(
    method: str, path: str, body: bytes = b"", *headers: str, host: str = "localhost"
) -> bytes:
    """Return an HTTP request after which the connection is to be closed."""
    named = {line.split(":")[0].lower() for line in headers}
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
    if "transfer-encoding" not in named and "content-length" not in named:
        lines.append(f"Content-Length: {len(body)}")
    if method == "POST" and "content-type" not in named:
        lines.append("Content-Type: application/json")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


async def send(service: Service, data: bytes) -> Answer:
    """Write bytes to a connection of their own and return the response."""
    address = urlsplit(service.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        async with asyncio.timeout(DEADLINE):
            try:
                writer.write(data)
                await writer.drain()
            except ConnectionError:
                pass  # refused before it was all sent; the answer is still there
            head = await reader.readuntil(b"\r\n\r\n")
            try:
                body = await reader.read()
            except ConnectionError:
                body = b""
    finally:
        writer.close()
    status, *lines = head.decode("latin-1").rstrip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (h.partition(":") for h in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = b"".join(body.split(b"\r\n")[1::2])
    return Answer(int(status.split()[1]), headers, body)


def assert_problem(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """Check that the answer is a whole problem of this status and code, and return it."""
    assert answer.status == status, answer
    assert answer.headers["content-type"].startswith("application/problem+json"), answer
    problem: dict[str, Any] = msgspec.json.decode(answer.body)
    assert problem["status"] == status
    assert problem["code"] == code, problem
    assert problem["type"] == "about:blank"
    assert problem["title"]
    assert problem["detail"]
    assert isinstance(problem["retryable"], bool)
    return problem


async def refused(
    service: Service, method: str, path: str, status: int, code: str, **options: Any
) -> dict[str, Any]:
    """Make a request that is to be refused, and return the problem."""
    async with service.session.request(method, service.url + path, **options) as response:
        headers = {name.lower(): value for name, value in response.headers.items()}
        return assert_problem(Answer(response.status, headers, await response.read()), status, code)


async def follow(
    service: Service, run_id: str, after: str | int | None = None, last: str | None = None
) -> list[Event]:
    """Return a run's events, from its start or behind a cursor (`last`: in the header)."""
    async with service.session.get(
        f"{service.url}/runs/{run_id}/events",
        params={} if after is None else {"after": str(after)},
        headers={} if last is None else {"Last-Event-ID": last},
    ) as response:
        assert response.status == 200, await response.text()
        return [event async for event in events(response)]


def types(found: list[Event]) -> list[str]:
    """Return the events' names, a run of equal ones as one."""
    names = [event["event_type"] for event in found]
    return [name for at, name in enumerate(names) if at == 0 or names[at - 1] != name]


def said(found: list[Event]) -> str:
    """Return the text of all pieces."""
    return "".join(event["content"] for event in found if event["event_type"] == "chat_chunk")


class Heard(logging.Handler):
    """Counts the records of one logger that hold a text; use as a context manager."""

    def __init__(self, logger: str, text: str) -> None:
        super().__init__(logging.DEBUG)
        self.count = Counter()
        self._logger = logging.getLogger(logger)
        self._text = text

    def emit(self, record: logging.LogRecord) -> None:
        if self._text in record.getMessage():
            self.count.add()

    def __enter__(self) -> "Heard":
        self._level = self._logger.level
        self._logger.setLevel(logging.DEBUG)
        self._logger.addHandler(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._level)


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def fail(why: str = "broken") -> str:
    """Fail, always."""
    raise RuntimeError(why)


class Hanging:
    """A tool that never returns by itself: `Hanging().hang`."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    async def hang(self) -> str:
        """Wait for ever."""
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()
        return "never"

    async def has_ended(self, within: float) -> bool:
        """Wait until the tool was ended."""
        return await asyncio.to_thread(self.ended.wait, within)
