"""Bodies of requests: how much one may hold, and all of them together."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from starlette.types import Message, Receive, Scope, Send

import api.http.bodies
from api.http.bodies import MAX_CONTAINERS, Bodies
from offload import LARGE
from tests.api.support import Answer, assert_problem, request, send
from tests.service import Service, running

pytestmark = pytest.mark.usefixtures("no_mistakes")

POSTS = ("/chat", "/v1/chat/completions", "/v1/responses", "/invocations", "/api/chat", "/agents/a")


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with running() as service:
        yield service


def holding(many: int, filler: bytes = b"") -> bytes:
    """Return a message whose body has so many arrays and objects, and some text."""
    lists = b",".join([b"[]"] * (many - 2))
    return b'{"message":"Hi.","text":"%b","ignored":[%b]}' % (filler, lists)


async def test_a_body_holds_no_more_arrays_and_objects_than_it_may(service: Service) -> None:
    answer = await send(service, request("POST", "/chat", holding(MAX_CONTAINERS)))
    assert answer.status == 200
    answer = await send(service, request("POST", "/chat", holding(MAX_CONTAINERS + 1)))
    problem = assert_problem(answer, 413, "too_large")
    assert "15,000 arrays and objects" in problem["detail"]


async def test_brackets_in_a_text_are_none(service: Service) -> None:
    for filler in (b"[{" * 40_000, rb"\"[\\" * 40_000):
        answer = await send(service, request("POST", "/chat", holding(100, filler)))
        assert answer.status == 200, answer.body


async def test_texts_without_an_end_are_looked_at_once(service: Service) -> None:
    """From each of the quotes to the body's end would be seconds, in which nothing else is done."""
    body = b"[" * (MAX_CONTAINERS + 1) + rb"\"" * 40_000
    before = time.process_time()
    answer = await send(service, request("POST", "/chat", body))
    assert answer.status in (400, 413)
    assert time.process_time() - before < 1


async def test_every_surface_refuses_in_its_own_shape(service: Service) -> None:
    body = holding(MAX_CONTAINERS + 1)
    for path in POSTS:
        answer = await send(service, request("POST", path, body))
        assert answer.status == 413, (path, answer)
        assert b"15,000 arrays and objects" in answer.body, path


async def test_pieces_of_a_body_are_counted_together(service: Service) -> None:
    body = holding(MAX_CONTAINERS + 1)
    pieces = [body[at : at + 1000] for at in range(0, len(body), 1000)]
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))
    answer = await send(service, request("POST", "/chat", chunked, "Transfer-Encoding: chunked"))
    assert_problem(answer, 413, "too_large")


class App:
    """An application that reads a body, and says what it found."""

    def __init__(self) -> None:
        self.turns: list[int] = []
        self.turn = 0
        self.bodies = Bodies(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            size += len(message["body"])
            more = message["more_body"]
        self.turns.append(self.turn)

    async def ask(self, *pieces: bytes) -> None:
        """Send a body in pieces."""
        rest = [*pieces]

        async def receive() -> Message:
            piece = rest.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(rest)}

        async def send(message: Message) -> None:
            raise AssertionError(message)

        await self.bodies({"type": "http", "method": "POST"}, receive, send)

    async def count_turns(self) -> None:
        while True:
            self.turn += 1
            await asyncio.sleep(0)


async def test_of_large_bodies_one_is_taken_in_a_turn_of_the_loop() -> None:
    app = App()
    counting = asyncio.create_task(app.count_turns())
    async with asyncio.timeout(10):
        await asyncio.gather(*(app.ask(b"x" * LARGE) for _ in range(20)))
        assert len({*app.turns}) == 20
        app.turns.clear()
        await asyncio.gather(*(app.ask(b"x" * 100) for _ in range(20)))
        assert len({*app.turns}) == 1
    counting.cancel()
    assert app.bodies.arriving == 0


async def test_bodies_that_arrive_have_a_bound_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.http.bodies, "MAX_ARRIVING", 100_000)
    async with running() as service:
        half = [
            await asyncio.open_connection(*service.url.removeprefix("http://").split(":"))
            for _ in range(3)
        ]
        head = b"POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        for _, writer in half:
            writer.write(head + b"Content-Length: 50000\r\n\r\n" + b" " * 40_000)
        refused = asyncio.create_task(_first_answer(half))
        async with asyncio.timeout(10):
            found = await refused
        problem = assert_problem(found, 503, "unavailable")
        assert problem["retryable"]
        assert found.headers["retry-after"] == "1"
        for _, writer in half:
            writer.close()
        async with asyncio.timeout(10):
            while (
                await send(service, request("POST", "/chat", holding(10, b"x" * 70_000)))
            ).status != 200:
                pass


async def _first_answer(
    connections: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]],
) -> Answer:
    """Return the first answer on any of some connections."""

    async def answer(reader: asyncio.StreamReader) -> Answer:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip()
        status, *lines = head.split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (h.partition(":") for h in lines)
        }
        body = await reader.readexactly(int(headers["content-length"]))
        return Answer(int(status.split()[1]), headers, body)

    tasks = [asyncio.create_task(answer(reader)) for reader, _ in connections]
    done, late = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in late:
        task.cancel()
    return done.pop().result()
