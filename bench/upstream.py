"""A model provider that costs next to nothing: OpenAI's streaming wire, from prebuilt bytes.

The name of the model is the script:

* `fast-N`: N tokens as fast as they go out, ten server-sent events to a write, as a fast
  server's socket coalesces them.
* `single-N`: the same, one event to a write.
* `paced-R-N`: N tokens at R a second. The first comes at once, the second after a random part
  of the interval, so that concurrent streams do not tick together.
* `tools-C`: C calls of the tool `wait`; once the messages end with its results, ten tokens.

Each event is an HTTP chunk of its own, as application servers send them. `python -m
bench.upstream` runs it on `PORT`.
"""

import asyncio
import functools
import json
import os
import random
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import httptools
import uvloop

EVENTS_PER_WRITE = 10
_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\nx-request-id: req_bench\r\ntransfer-encoding: chunked\r\n\r\n"
)
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


class Reply(NamedTuple):
    """One scripted answer: what to write, piece by piece, and the seconds between pieces."""

    pieces: Sequence[bytes]
    interval: float = 0.0


def token(number: int) -> str:
    """Return the text of a stream's token `number`, from 0."""
    return f" token{number}"


def text(tokens: int) -> str:
    """Return the whole text of a stream of that many tokens."""
    return "".join(token(number) for number in range(tokens))


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(model: str, with_usage: bool, **fields: Any) -> bytes:
    """Return one `chat.completion.chunk` as an event, with the fields that OpenAI sends."""
    chunk = {
        "id": "chatcmpl-BnchBnchBnchBnchBnchBnchBnch1",
        "object": "chat.completion.chunk",
        "created": 1760000000,
        "model": model,
        "service_tier": "default",
        "system_fingerprint": "fp_0123456789",
        **({"usage": None} if with_usage else {}),
        **fields,
    }
    return _http_chunk(b"data: %b\n\n" % json.dumps(chunk, separators=(",", ":")).encode())


def _choice(delta: dict[str, Any], finish_reason: str | None = None) -> list[dict[str, Any]]:
    return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]


def _calls(count: int) -> list[dict[str, Any]]:
    """Return the deltas of parallel calls: for each its head, then its arguments in pieces."""
    deltas = []
    for index in range(count):
        function = {"name": "wait", "arguments": ""}
        head = {"index": index, "id": f"call_{index}", "type": "function", "function": function}
        deltas.append({"tool_calls": [head]})
        for piece in ('{"step"', ": ", f"{index}}}"):
            deltas.append({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    return deltas


@functools.cache
def _events(model: str, tokens: int, calls: int, usage: bool) -> list[bytes]:
    """Return an answer's events, the last one with all that follows the last token."""
    deltas = [{"content": token(number)} for number in range(tokens)] + _calls(calls)
    events = [_event(model, usage, choices=_choice(delta)) for delta in deltas]
    first = _choice({"role": "assistant", "content": "", "refusal": None})
    events[0] = _event(model, usage, choices=first) + events[0]
    events[-1] += _event(model, usage, choices=_choice({}, "tool_calls" if calls else "stop"))
    if usage:
        counts = {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens}
        events[-1] += _event(model, usage, choices=[], usage=counts)
    events[-1] += _http_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    return events


@functools.cache
def _reply(model: str, with_results: bool, usage: bool) -> Reply:
    """Return the script that a model's name asks for; `ValueError` if it is none."""
    script, *numbers = model.split("-")
    match script, [int(number) for number in numbers]:
        case "fast", [tokens]:
            events = _events(model, tokens, 0, usage)
            groups = range(0, len(events), EVENTS_PER_WRITE)
            return Reply([b"".join(events[at : at + EVENTS_PER_WRITE]) for at in groups])
        case "single", [tokens]:
            return Reply(_events(model, tokens, 0, usage))
        case "paced", [rate, tokens]:
            return Reply(_events(model, tokens, 0, usage), 1 / rate)
        case "tools", [calls]:
            answer = _events(model, 10, 0, usage) if with_results else None
            return Reply([b"".join(answer or _events(model, 0, calls, usage))])
    raise ValueError(model)


class _Connection(asyncio.Protocol):
    """One kept-alive connection: a request, its scripted reply, the next request."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser: Any = httptools.HttpRequestParser(self)
        self._body = b""
        self._pieces: Sequence[bytes] = ()
        self._next = 0
        self._paused = False
        self._timer: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._timer is None:
            self._step()

    def on_message_begin(self) -> None:
        self._body = b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        try:
            request = json.loads(self._body)
            with_results = request["messages"][-1]["role"] == "tool"
            usage = (request.get("stream_options") or {}).get("include_usage", False)
            reply = _reply(request["model"], with_results, usage)
        except (ValueError, LookupError):
            self._transport.write(_NOT_FOUND)
            return
        self._pieces, self._next = reply.pieces, 0
        self._transport.write(_HEAD)
        if reply.interval:
            self._tick(reply.interval, self._loop.time() - reply.interval * random.random())
        else:
            self._step()

    def _step(self) -> None:
        """Write a piece, and the next one in the loop's next turn, as fast as they go out."""
        self._timer = None
        if self._next < len(self._pieces) and not self._paused:
            self._transport.write(self._pieces[self._next])
            self._next += 1
            self._timer = self._loop.call_soon(self._step)

    def _tick(self, interval: float, due: float) -> None:
        """Write a piece, and the next one an interval after this one was due."""
        self._transport.write(self._pieces[self._next])
        self._next += 1
        if self._next < len(self._pieces):
            due += interval
            self._timer = self._loop.call_at(due, self._tick, interval, due)


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", port, backlog=1024)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(os.environ["PORT"])))
