"""The scripted model: a real OpenAI-compatible server on loopback that does what it is told.

    async with Upstream([text("Hello", " world")]) as upstream:
        provider = OpenAIProvider(base_url=upstream.base_url, ...)

The script is a list of replies, one for each request in order (a 400 that says so once the list
is exhausted), or a function of the request's body. A reply is a list of *steps*: bytes to write,
a gate to wait at, or a fault. The constructors below build the usual ones:

* replies: `text`, `calls`, `status`, `raw`
* faults, `n` server-sent events into a reply: `stall_after`, `reset_after`, `eof_after`,
  `error_event_after`, `bad_json_after`; before the first byte: `reset_at_once`, `held`
* how a reply is written: `paced` (one event for each `gate.pass_one()`), `at_once` (one write),
  `bytewise`, `cut` (two writes)
* nobody listening: `refusing`

The first event of `text` and `calls` is the empty delta with the role, as OpenAI sends it, so
`reset_after(1)` breaks before the first piece of content. Each step is one write and one HTTP
chunk; the server lets the event loop turn after it, so that a client in the same loop reads it
before the next one is written.

Requests that the strictest server refuses are refused, with its words: see `openai_rules`. Nothing
here sleeps: a test opens gates and waits on counters, and every wait has a deadline.
"""

import asyncio
import contextlib
import enum
import inspect
import itertools
import json
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from tests.openai_rules import fault_of

DEADLINE = 10.0
"""Seconds after which a wait of a test has failed."""


class Counter:
    """A number that only grows, and that one can wait for."""

    def __init__(self) -> None:
        self.value = 0
        self._changed = asyncio.Event()

    def add(self) -> None:
        """Count one more."""
        self.value += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def reach(self, value: int, within: float = DEADLINE) -> None:
        """Return once the counter is at least `value`.

        Raises:
            TimeoutError: it was not within so many seconds.
        """
        async with asyncio.timeout(within):
            while self.value < value:
                await self._changed.wait()


class Gate:
    """Holds replies back until the test lets them pass, one step at a time."""

    def __init__(self) -> None:
        self.arrivals = Counter()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_open = False

    async def pass_one(self, within: float = DEADLINE) -> None:
        """Let the step that has waited longest pass; wait for one to come where none is here.

        Raises:
            TimeoutError: none came within so many seconds.
        """
        async with asyncio.timeout(within):
            await self.reached()
            self._waiting.popleft().set_result(None)
            await asyncio.sleep(0)

    async def reached(self, within: float = DEADLINE) -> None:
        """Return once a reply waits at the gate."""
        async with asyncio.timeout(within):
            while not self._waiting:
                await self.arrivals.reach(self.arrivals.value + 1, within)

    def open(self) -> None:
        """Let everything pass from now on."""
        self._is_open = True
        while self._waiting:
            self._waiting.popleft().set_result(None)

    async def wait(self) -> None:
        """Wait to be let through: the server's side of the gate."""
        if self._is_open:
            return
        passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(passed)
        self.arrivals.add()
        try:
            await passed
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(passed)


class Action(enum.Enum):
    """What a reply does besides writing bytes."""

    GATE = "wait at the upstream's own gate"
    HEAD = "send status line and headers now; otherwise they go out with the first bytes"
    STALL = "send nothing more, until the client or the test ends the connection"
    RESET = "break the connection with a TCP reset"
    EOF = "close the connection without the body's end"


Step: TypeAlias = bytes | Gate | Action


@dataclass(frozen=True)
class Reply:
    """What the server answers to one request."""

    steps: tuple[Step, ...]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": _SSE})


_SSE = "text/event-stream; charset=utf-8"
_JSON = "application/json"

Script: TypeAlias = (
    Iterable[Reply]
    | Callable[[dict[str, Any]], Reply]
    | Callable[[dict[str, Any]], Awaitable[Reply]]
)

DONE = b"data: [DONE]\n\n"

_ids = itertools.count(1)


# Replies.


def sse(data: Any) -> bytes:
    """Return one server-sent event around the JSON of `data`."""
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def chunk(
    delta: dict[str, Any] | None = None, finish_reason: str | None = None, **more: Any
) -> bytes:
    """Return one `chat.completion.chunk` as an event; no `delta` means `choices: []`."""
    choices = []
    if delta is not None:
        choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]
    return sse(
        {
            "id": "chatcmpl-scripted",
            "object": "chat.completion.chunk",
            "created": 1_700_000_000,
            "model": "scripted",
            "choices": choices,
            "usage": None,
            **more,
        }
    )


USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


def completion(
    deltas: Iterable[dict[str, Any]],
    *,
    finish_reason: str | None = "stop",
    usage: dict[str, int] | None = USAGE,
) -> Reply:
    """Return a streamed reply: the role, each delta, the finish reason, the usage, the end."""
    steps = [chunk({"role": "assistant", "content": ""}), *(chunk(delta) for delta in deltas)]
    if finish_reason is not None:
        steps.append(chunk({}, finish_reason))
    if usage is not None:
        steps.append(chunk(None, usage=usage))
    return Reply((*steps, DONE))


def text(
    *pieces: str, finish_reason: str | None = "stop", usage: dict[str, int] | None = USAGE
) -> Reply:
    """Return an answer of so many pieces."""
    return completion(
        ({"content": piece} for piece in pieces), finish_reason=finish_reason, usage=usage
    )


def calls(
    *wanted: tuple[str, Any],
    ids: Iterable[str] | None = None,
    before: str = "",
    piece_length: int = 8,
    finish_reason: str | None = "tool_calls",
) -> Reply:
    """Return a reply that asks for tools.

    Args:
        wanted: name and arguments of each call; a `str` is sent as it is, valid JSON or not.
        ids: the calls' ids; unique ones where absent.
        before: text that comes before the calls.
        piece_length: how many characters of arguments come in one event.
        finish_reason: `tool_calls`, or what a wrong server would say.
    """
    names = iter(ids if ids is not None else (f"call_{next(_ids):08d}" for _ in wanted))
    deltas: list[dict[str, Any]] = [{"content": before}] if before else []
    for index, (name, arguments) in enumerate(wanted):
        whole = arguments if isinstance(arguments, str) else json.dumps(arguments)
        head = {"id": next(names), "type": "function", "function": {"name": name, "arguments": ""}}
        deltas.append({"tool_calls": [{"index": index, **head}]})
        for start in range(0, len(whole), piece_length):
            piece = {"arguments": whole[start : start + piece_length]}
            deltas.append({"tool_calls": [{"index": index, "function": piece}]})
    return completion(deltas, finish_reason=finish_reason)


def status(
    code: int,
    message: str = "The scripted upstream says no.",
    *,
    error_type: str = "invalid_request_error",
    error_code: str | None = None,
    param: str | None = None,
    retry_after: float | None = None,
) -> Reply:
    """Return an error in OpenAI's shape; `retry_after` is in seconds."""
    headers = {"content-type": _JSON}
    if retry_after is not None:
        headers["retry-after-ms"] = str(round(retry_after * 1000))
        headers["retry-after"] = str(retry_after)
    error = {"message": message, "type": error_type, "param": param, "code": error_code}
    return Reply((json.dumps({"error": error}).encode(),), code, headers)


def raw(*pieces: bytes | Gate | Action, content_type: str = _SSE, code: int = 200) -> Reply:
    """Return a reply of exactly these writes."""
    return Reply(pieces, code, {"content-type": content_type})


# Faults. `n` counts a reply's steps, which are its events where nothing has been done to it yet.

FOUR = text("one", " two", " three", " four")


def stall_after(n: int, reply: Reply = FOUR) -> Reply:
    """Fall silent after `n` events, headers included in none."""
    return _broken(reply, n, Action.STALL)


def reset_after(n: int, reply: Reply = FOUR) -> Reply:
    """Reset the connection after `n` events."""
    return _broken(reply, n, Action.RESET)


def eof_after(n: int, reply: Reply = FOUR, *, clean: bool = True) -> Reply:
    """End after `n` events: as a whole body, or (not `clean`) by closing in its middle."""
    return _broken(reply, n, *(() if clean else (Action.EOF,)))


def error_event_after(
    n: int,
    reply: Reply = FOUR,
    *,
    message: str = "The server had an error while processing your request.",
    error_code: str | None = None,
    named: bool = False,
) -> Reply:
    """Send an error as an event after `n` events, then end; `named` adds `event: error`."""
    error = {"message": message, "type": "server_error", "param": None, "code": error_code}
    prefix = b"event: error\n" if named else b""
    return _broken(reply, n, prefix + sse({"error": error}))


def bad_json_after(n: int, reply: Reply = FOUR) -> Reply:
    """Send half a JSON document as an event after `n` events, then go on."""
    return replace(
        reply, steps=(*reply.steps[:n], b'data: {"id":"chatcmpl-x","cho\n\n', *reply.steps[n:])
    )


def reset_at_once() -> Reply:
    """Reset the connection before the first byte."""
    return Reply((Action.RESET,))


def held(reply: Reply, gate: Gate | None = None) -> Reply:
    """Wait at the gate before the first byte, headers included."""
    return replace(reply, steps=(gate or Action.GATE, *reply.steps))


def _broken(reply: Reply, n: int, *end: Step) -> Reply:
    return replace(reply, steps=(Action.HEAD, *reply.steps[:n], *end))


# How a reply is written.


def paced(reply: Reply, gate: Gate | None = None) -> Reply:
    """Wait at `gate`, or at the upstream's own, before each step; headers go out at once."""
    steps = [step for wanted in reply.steps for step in (gate or Action.GATE, wanted)]
    return replace(reply, steps=(Action.HEAD, *steps))


def at_once(reply: Reply) -> Reply:
    """Send the whole body in one write."""
    return replace(reply, steps=(_body(reply),))


def bytewise(reply: Reply) -> Reply:
    """Send each byte in its own write."""
    body = _body(reply)
    return replace(reply, steps=tuple(body[at : at + 1] for at in range(len(body))))


def cut(reply: Reply, at: int) -> Reply:
    """Send the body in two writes, the first one `at` bytes long."""
    body = _body(reply)
    return replace(reply, steps=tuple(part for part in (body[:at], body[at:]) if part))


def _body(reply: Reply) -> bytes:
    return b"".join(step for step in reply.steps if isinstance(step, bytes))


# The server.


class _Connection(asyncio.StreamReaderProtocol):
    """One client's connection; `gone` is set when the client has ended it."""

    def __init__(self, upstream: "Upstream") -> None:
        self.gone = asyncio.Event()
        self._upstream = upstream
        super().__init__(asyncio.StreamReader(limit=2**20), self._connected)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._upstream._serve(self, reader, writer)

    def eof_received(self) -> bool:
        self.gone.set()
        super().eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        super().connection_lost(exc)


class Upstream:
    """The server. Use it as an async context manager; it ends with all its connections.

    Args:
        script: the replies, in order, or a function (async or not) of a request's body.
        check: refuse what the strictest server refuses; that takes no reply off the list.
        knows: the members of messages that this server has given to be given back.
        port: a fixed port, for a test that starts an upstream anew.

    Attributes:
        requests: the bodies of all requests, decoded, in order; `headers` beside them.
        gate: where `paced` and `held` replies wait.
        asked: how many requests have come. `await upstream.asked.reach(2)`.
        finished: how many replies have been sent to their end.
        abandoned: how many the client broke off before their end.
        connections: how many connections have been opened in all.
        open_connections: how many are open now.
    """

    def __init__(
        self,
        script: Script,
        *,
        check: bool = True,
        port: int = 0,
        knows: Collection[str] = (),
    ) -> None:
        self._script = script if callable(script) else iter(script)
        self._check = check
        self._knows = knows
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = port
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.gate = Gate()
        self.asked = Counter()
        self.finished = Counter()
        self.abandoned = Counter()
        self.connections = Counter()

    @property
    def base_url(self) -> str:
        """What a client is configured with."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._tasks)

    async def closed_by_client(self, count: int = 1, within: float = DEADLINE) -> None:
        """Return once the client has broken off `count` replies in all.

        Raises:
            TimeoutError: it has not within so many seconds.
        """
        await self.abandoned.reach(count, within)

    async def __aenter__(self) -> "Upstream":
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), "127.0.0.1", self.port, backlog=2048
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _serve(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.create_task(self._talk(connection, reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections.add()

    async def _talk(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while True:
                headers, body = await _read_request(reader)
                reply = await self._reply_to(headers, body)
                if not await self._play(reply, connection, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # the client ended a connection on which nothing was under way
        finally:
            writer.transport.abort()

    async def _reply_to(self, headers: dict[str, str], content: bytes) -> Reply:
        try:
            body = json.loads(content)
        except ValueError:
            return status(400, "We could not parse the JSON body of your request.")
        self.requests.append(body)
        self.headers.append(headers)
        self.asked.add()
        if self._check and (refusal := fault_of(body, self._knows)):
            return status(400, refusal.message, param=refusal.param, error_code=refusal.code)
        if not callable(self._script):
            return next(self._script, EXHAUSTED)
        reply = self._script(body)
        return await reply if inspect.isawaitable(reply) else reply

    async def _play(
        self, reply: Reply, connection: _Connection, writer: asyncio.StreamWriter
    ) -> bool:
        """Do a reply's steps; return whether the connection may serve another request."""
        head: bytes = _head(reply)
        try:
            for step in reply.steps:
                if connection.gone.is_set():
                    raise ConnectionResetError
                match step:
                    case bytes():
                        writer.write(head + b"%x\r\n%b\r\n" % (len(step), step))
                        head = b""
                        await _flush(writer)
                    case Action.HEAD:
                        writer.write(head)
                        head = b""
                        await _flush(writer)
                    case Action.RESET:
                        return await _reset(writer)
                    case Action.EOF:
                        return await _close(writer)
                    case Action.STALL:
                        await _unless_gone(connection, Gate())
                    case _:
                        gate = self.gate if step is Action.GATE else step
                        await _unless_gone(connection, gate)
            writer.write(head + b"0\r\n\r\n")
            await _flush(writer)
        except ConnectionError:
            self.abandoned.add()
            return False
        self.finished.add()
        return True


EXHAUSTED = status(400, "The script has no reply left.", error_code="script_exhausted")


async def _read_request(reader: asyncio.StreamReader) -> tuple[dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    _request_line, *lines = head.rstrip().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    return headers, await reader.readexactly(int(headers.get("content-length", "0")))


def _head(reply: Reply) -> bytes:
    headers = {**reply.headers, "transfer-encoding": "chunked", "x-request-id": "req_scripted"}
    lines = [f"HTTP/1.1 {reply.status} Scripted", *(f"{k}: {v}" for k, v in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _flush(writer: asyncio.StreamWriter, turns: int = 2) -> None:
    """Hand the bytes to the kernel and let a client in this loop read them as one piece."""
    await writer.drain()
    for _ in range(turns):
        await asyncio.sleep(0)


async def _unless_gone(connection: _Connection, gate: Gate) -> None:
    """Wait at a gate.

    Raises:
        ConnectionResetError: the client ended the connection first.
    """
    waits = {asyncio.ensure_future(gate.wait()), asyncio.ensure_future(connection.gone.wait())}
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
    if connection.gone.is_set():
        raise ConnectionResetError


async def _reset(writer: asyncio.StreamWriter) -> bool:
    """Close with a TCP reset: what a crashed process or a broken middlebox looks like."""
    await _flush(writer, turns=20)  # a reset discards what the client has not read
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


async def _close(writer: asyncio.StreamWriter) -> bool:
    """Close with a FIN after all that was written has been sent."""
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return False


@contextlib.contextmanager
def refusing() -> Iterator[str]:
    """Give a base URL at which every connection is refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, so that nobody else gets it, but not listening
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
