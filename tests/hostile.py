"""What a hostile client sends: WebSocket frames (RFC 6455) and requests, the same for each seed."""

import json
import random
from collections.abc import Callable, Iterator

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
LIMIT = 65_536
"""The bound on a message of the service under test, in bytes; four times as much ends a socket."""


def frame(
    payload: bytes, opcode: int = TEXT, *, fin: bool = True, reserved: int = 0, masked: bool = True
) -> bytes:
    """Return a frame of a client; its masking key is zero, which leaves the payload as it is."""
    first = (fin << 7) | (reserved << 4) | opcode
    size, mask = len(payload), masked << 7
    if size < 126:
        head = bytes((first, mask | size))
    elif size < 65_536:
        head = bytes((first, mask | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, mask | 127)) + size.to_bytes(8, "big")
    return head + (bytes(4) if masked else b"") + payload


def closing(code: int, reason: bytes = b"") -> bytes:
    return frame(code.to_bytes(2, "big") + reason, CLOSE)


BAD_UTF8 = (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"a\x80z")
BAD_CODES = (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535)
MESSAGES = (
    '{"type":"ping"}',
    '{"type":"ping","request_id":"r1"}',
    '{"type":"chat","data":{"message":""}}',
    '{"type":"chat","data":{"message":"\\ud800"}}',
    '{"type":"chat","data":{"message":"a\\u0000b","conversation_id":"/"}}',
    '{"type":"chat","data":{"message":"hi","agent":"nobody"}}',
    '{"type":"subscribe","data":{"run_id":"run_x","after":1e999}}',
    '{"type":"subscribe","data":{"run_id":"run_x","after":"::"}}',
    '{"type":"cancel","data":{"run_id":-1}}',
    '{"type":"cancel_tool","data":{"run_id":"r","tool_call_id":null}}',
    '{"type":"unsubscribe","data":[]}',
    '{"type":"edit","data":{"message_id":"m","conversation_id":"c","message":"x"}}',
    '{"type":"regenerate","data":{"conversation_id":"nothing"}}',
    '{"type":"approve"}',
    '{"type":NaN}',
    '{"type":"ping","data":Infinity}',
    '{"type":"ping","type":"ping"}',
    '{"type":"\\udfff"}',
    '{"\\ud800":1}',
    '{"question":"\\udc00"}',
    "",
    "null",
    "[]",
    "9" * 5000,
    "1e999",
    "[" * 5000,
    '{"a":' * 3000 + "1" + "}" * 3000,
    json.dumps({"type": "ping", "data": {str(number): number for number in range(1000)}}),
)


def _mutated(chance: random.Random) -> bytes:
    """Change a few bytes of a message that was good or nearly so."""
    data = bytearray(chance.choice(MESSAGES)[:300].encode() or b" ")
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data))
        match chance.randrange(3):
            case 0:
                data[at] = chance.randrange(128)
            case 1:
                data[at:at] = data[: chance.randrange(20)]
            case _:
                del data[at : at + 3]
                data += b"x"
    return bytes(data)


def _fragmented(chance: random.Random) -> bytes:
    """Return a message in pieces, with pings between them."""
    payload = _mutated(chance)
    cuts = sorted(chance.randrange(len(payload) + 1) for _ in range(chance.randint(1, 5)))
    pieces = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
    frames = []
    for at, piece in enumerate(pieces):
        frames.append(frame(piece, 0 if at else TEXT, fin=at == len(pieces) - 1))
        if at < len(pieces) - 1 and chance.random() < 0.3:
            frames.append(frame(b"between", PING))
    return b"".join(frames)


HARMLESS: tuple[Callable[[random.Random], bytes], ...] = (
    lambda chance: frame(chance.choice(MESSAGES).encode()),
    lambda chance: frame(_mutated(chance)),
    _fragmented,
    lambda chance: frame(chance.randbytes(chance.randrange(200)), BINARY),
    lambda chance: frame(chance.randbytes(chance.randrange(126)), chance.choice((PING, PONG))),
    lambda chance: frame(b'"%b"' % (b"x" * (LIMIT + chance.randrange(10)))),
)
"""What a socket survives, at most with an error message."""

FATAL: tuple[Callable[[random.Random], bytes], ...] = (
    lambda chance: frame(b'{"type":"%b"}' % chance.choice(BAD_UTF8)),
    lambda chance: frame(b"\xe2", fin=False) + frame(b"\x82x", 0),
    lambda chance: frame(b"x\xc3", fin=False) + frame(b"", PING) + frame(b"", 0),
    lambda chance: frame(chance.choice(MESSAGES).encode(), reserved=chance.randint(1, 7)),
    lambda chance: frame(b"x", chance.choice((3, 4, 7, 11, 15))),
    lambda chance: frame(b"x", masked=False),
    lambda chance: frame(b"out of place", 0),
    lambda chance: frame(b"one", fin=False) + frame(b"another"),
    lambda chance: frame(b"one", fin=False) + closing(1000),
    lambda chance: frame(b"split", chance.choice((CLOSE, PING, PONG)), fin=False),
    lambda chance: frame(b"x" * chance.randint(126, 300), chance.choice((CLOSE, PING, PONG))),
    lambda chance: frame(b"x" * (4 * LIMIT + 1)),
    lambda chance: frame(b"x" * LIMIT, fin=False) + frame(b"y" * LIMIT, 0, fin=False) * 4,
    lambda chance: b"\x81\xff" + bytes((chance.randint(1, 255),)) * 8 + bytes(4),
    lambda chance: b"\x81\xff" + b"\xff" * 8 + bytes(4),
    lambda chance: frame(b"\x03", CLOSE),
    lambda chance: closing(chance.choice(BAD_CODES)),
    lambda chance: closing(1000, chance.choice(BAD_UTF8)),
    lambda chance: closing(1000, b"r" * 124),
    # A bomb, had compression been agreed on: a stored block that claims to be large.
    lambda chance: frame(b"\x01\xff\xff\x00\x00" * 1000, reserved=4),
    lambda chance: b"\x83" + chance.randbytes(chance.randint(10, 200)),
)
"""What ends a socket."""


def sockets(seed: int, count: int) -> Iterator[tuple[bytes, ...]]:
    """Yield what one socket after the other sends, in all `count` frames or somewhat more."""
    chance = random.Random(seed)
    sent = number = 0
    while sent < count:
        harmless = [chance.choice(HARMLESS)(chance) for _ in range(chance.randint(8, 16))]
        fatal = FATAL[number % len(FATAL)](chance)
        after = [chance.choice(HARMLESS + FATAL)(chance) for _ in range(chance.randrange(3))]
        number += 1
        frames = (*harmless, fatal, *after, closing(1000))
        sent += len(frames)
        yield frames


def _request(line: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [line, "Host: localhost", "Connection: close", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def _post(body: bytes, *headers: str, path: str = "/chat") -> bytes:
    typed = any(header.startswith("Content-Type") for header in headers)
    named = () if typed else ("Content-Type: application/json",)
    length = f"Content-Length: {len(body)}"
    return _request(f"POST {path} HTTP/1.1", *named, length, *headers, body=body)


def _chunked(body: bytes, *headers: str) -> bytes:
    named = ("Content-Type: application/json", "Transfer-Encoding: chunked", *headers)
    return _request("POST /chat HTTP/1.1", *named, body=body)


def _upgrade(line: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [
        *(line, "Host: localhost", "Connection: Upgrade", "Upgrade: websocket"),
        *("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", *headers),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


CHAT = b'{"message":"","x":1}'

REQUESTS: dict[str, bytes] = {
    "a method that is none": _request("BREW /chat HTTP/1.1"),
    "a method in lower case": _request("get /health HTTP/1.1"),
    "TRACE": _request("TRACE /health HTTP/1.1"),
    "CONNECT": _request("CONNECT localhost:1 HTTP/1.1"),
    "OPTIONS of the service": _request("OPTIONS * HTTP/1.1"),
    "PROPFIND": _request("PROPFIND / HTTP/1.1"),
    "an absolute address": _request("GET http://evil.example/health HTTP/1.1"),
    "an absolute address without a path": _request("GET http://localhost HTTP/1.1"),
    "an address of another scheme": _request("GET file:///etc/passwd HTTP/1.1"),
    "an address without a slash": _request("GET health HTTP/1.1"),
    "percent signs that escape nothing": _request("GET /runs/%zz%/%1 HTTP/1.1"),
    "NUL in a path": _request("GET /conversations/a%00b HTTP/1.1"),
    "NUL in a path of files": _request("GET /web/page/%00.js HTTP/1.1"),
    "a bare NUL": _request("GET /\x00 HTTP/1.1"),
    "a path of invalid UTF-8": _request("GET /web/%ff%fe HTTP/1.1"),
    "a path of bare bytes": _request("GET /runs/\xff\xfe HTTP/1.1"),
    "a very long file name": _request(f"GET /web/{'a' * 5000} HTTP/1.1"),
    "a path out of the folder": _request("GET /web/..%2f..%2fapp.py HTTP/1.1"),
    "a query of invalid UTF-8": _request("GET /conversations?limit=%ff&cursor=%fe HTTP/1.1"),
    "a query of bare bytes": _request("GET /search?q=\xff\xfe HTTP/1.1"),
    "NUL in a query": _request("GET /search?q=a%00b HTTP/1.1"),
    "a surrogate in a query": _request("GET /search?q=%ed%a0%80 HTTP/1.1"),
    "thousands of parameters": _request(f"GET /search?{'q=1&' * 9000} HTTP/1.1"),
    "headers of bare bytes": _post(CHAT, "Idempotency-Key: \xff\xfe", "X-\xff: y"),
    "a key of bare bytes": _post(CHAT, "Idempotency-Key: \xff\xfe\xc3"),
    "a session of bare bytes": _post(
        b"{}", "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id: \xff", path="/invocations"
    ),
    "a proxy's headers that are none": _request(
        "GET /health HTTP/1.1", "X-Forwarded-For: ,\xff,:,[", "X-Forwarded-Proto: \xff"
    ),
    "huge headers": _request("GET /health HTTP/1.1", f"X: {'x' * 100_000}"),
    "many headers": _request("GET /health HTTP/1.1", *["X: y"] * 3000),
    "a header without a name": _request("GET /health HTTP/1.1", ": x"),
    "a header without a colon": _request("GET /health HTTP/1.1", "nothing"),
    "a folded header": _request("GET /health HTTP/1.1", "X: a\r\n b"),
    "NUL in a header": _request("GET /health HTTP/1.1", "X: a\x00b"),
    "two hosts": _request("GET /health HTTP/1.1", "Host: evil.example"),
    "two lengths": _post(CHAT, "Content-Length: 5"),
    "a length that is none": _request("POST /chat HTTP/1.1", "Content-Length: ten"),
    "a negative length": _request("POST /chat HTTP/1.1", "Content-Length: -5"),
    "a length beyond 64 bits": _request("POST /chat HTTP/1.1", f"Content-Length: {'9' * 30}"),
    "a length and chunks": _chunked(b"0\r\n\r\n", "Content-Length: 5"),
    "a coding that is none": _request("POST /chat HTTP/1.1", "Transfer-Encoding: snail"),
    "chunked twice": _chunked(b"0\r\n\r\n", "Transfer-Encoding: chunked"),
    "a chunked identity": _chunked(b"0\r\n\r\n", "Transfer-Encoding: identity"),
    "a chunk that is none": _chunked(b"zz\r\nhello\r\n0\r\n\r\n"),
    "a chunk of a negative size": _chunked(b"-1\r\nx\r\n0\r\n\r\n"),
    "a chunk beyond 64 bits": _chunked(b"ffffffffffffffffff\r\nx\r\n"),
    "a chunk with extensions": _chunked(b"2;a=\xff;b\r\n{}\r\n0\r\n\r\n"),
    "trailers": _chunked(b"2\r\n{}\r\n0\r\nHost: evil.example\r\nX: \xff\r\n\r\n"),
    "a body of invalid UTF-8": _post(b'{"message":"\xff"}'),
    "a deep body": _post(b"[" * 100_000),
    "a body in UTF-16": _post('{"message":"hi"}'.encode("utf-16")),
    "a body that is said to be gzip": _post(b"\x1f\x8b\x08garbage", "Content-Encoding: gzip"),
    "a form": _post(b"message=hi", "Content-Type: application/x-www-form-urlencoded"),
    "a form without its boundary": _post(b"--x\r\n", "Content-Type: multipart/form-data"),
    "a content type that is none": _post(CHAT, "Content-Type: /;;\xff=\x7f"),
    "a range that is none": _request("GET /web/index.css HTTP/1.1", "Range: bytes=9-1,x,-"),
    "a range of another unit": _request("GET /web/index.css HTTP/1.1", "Range: lines=1-2"),
    "thousands of ranges": _request(
        "GET /web/index.css HTTP/1.1", f"Range: bytes={','.join(['0-1'] * 5000)}"
    ),
    "a range of huge numbers": _request(
        "GET /web/index.css HTTP/1.1", f"Range: bytes={'9' * 5000}-"
    ),
    "dates that are none": _request(
        "GET /web/index.css HTTP/1.1", "If-Modified-Since: \xff", "If-Range: Mon, 99 Foo 9999"
    ),
    "an expectation that is none": _post(CHAT, "Expect: cake"),
    "an expectation with a body": _post(CHAT, "Expect: 100-continue"),
    "HTTP/0.9": b"GET /health\r\n\r\n",
    "HTTP/1.0": b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n",
    "HTTP/3.0": b"GET /health HTTP/3.0\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    "an upgrade to HTTP/2": _request("GET /health HTTP/1.1", "Upgrade: h2c").replace(
        b"Connection: close", b"Connection: close, Upgrade, HTTP2-Settings"
    ),
    "an upgrade to nothing": _request("GET /ws HTTP/1.1", "Upgrade: \xff").replace(
        b"Connection: close", b"Connection: close, Upgrade"
    ),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(99),
    "zeros": bytes(300),
    "lines without a return": b"GET /health HTTP/1.1\nHost: localhost\nConnection: close\n\n",
    "a socket by POST": _upgrade("POST /ws HTTP/1.1"),
    "a socket with a body": _upgrade("GET /ws HTTP/1.1", "Content-Length: 5", body=b"hello"),
    "a socket with chunks": _upgrade(
        "GET /ws HTTP/1.1", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"
    ),
    "a socket of HTTP/1.0": _upgrade("GET /ws HTTP/1.0"),
    "a socket elsewhere": _upgrade("GET /nothing HTTP/1.1"),
    "a socket at an absolute address": _upgrade("GET http://localhost/ws HTTP/1.1"),
    "a socket at a bare path": _upgrade("GET /ws/\xff HTTP/1.1"),
    "a socket with a long header": _upgrade("GET /ws HTTP/1.1", f"X: {'x' * 9000}"),
    "a socket with many headers": _upgrade("GET /ws HTTP/1.1", *["X: y"] * 300),
    "a socket with two keys": _upgrade("GET /ws HTTP/1.1", "Sec-WebSocket-Key: x"),
    "a socket of another version": _upgrade("GET /ws HTTP/1.1", "Sec-WebSocket-Version: 99"),
    "a socket with odd extensions": _upgrade(
        "GET /ws HTTP/1.1", "Sec-WebSocket-Extensions: permessage-deflate; x=\xff; ,,"
    ),
    "a socket with odd subprotocols": _upgrade("GET /ws HTTP/1.1", "Sec-WebSocket-Protocol: ,\xff"),
    "a socket with a bare byte in a header": _upgrade("GET /ws HTTP/1.1", "X: \xff"),
    "a socket with an odd session": _upgrade(
        "GET /ws HTTP/1.1", "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id: \xff"
    ),
    "a socket with an odd query": _upgrade("GET /ws?%00=%ff&\xff HTTP/1.1"),
}
"""Requests that no client of the service sends; each is whole, or refused before it is."""
