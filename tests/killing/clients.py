"""Clients that want an answer to each message, however often the service is killed meanwhile.

A client sends a message with an idempotency key. Where its stream breaks before the message was
acknowledged, it sends the same once more; afterwards it goes on from its cursor, or sends the same
once more all the same. It believes nothing that breaks a law, and never forgets an outcome.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohttp

from tests.killing.lives import Lives
from tests.killing.model import said_in
from tests.service import Event, events

TERMINAL = ("chat_complete", "error")

MAX_EPOCHS = 4
"""How many lives may work on a run: it is not begun again for ever."""


@dataclass
class Order:
    """A message, and what its client knows of it.

    Attributes:
        run_id: of the run; with it, the message is acknowledged.
        first_life: in which it was sent for the first time.
        cursors: of the events that were seen, each with its life.
        outcome: the run's terminal event.
        resets: why the client had to begin anew, each time.
    """

    key: str
    conversation: str
    message: str
    run_id: str | None = None
    first_life: int = 0
    cursors: list[tuple[int, str]] = field(default_factory=list)
    outcome: Event | None = None
    resets: list[str] = field(default_factory=list)

    @property
    def body(self) -> dict[str, str]:
        """The request."""
        return {"message": self.message, "conversation_id": self.conversation}

    def whole(self) -> str:
        """Return all that the model says to this message."""
        return "".join(said_in(self.message))

    def answer(self) -> str:
        """Return what the model says last."""
        return said_in(self.message)[-1]


class Following:
    """One stream of a run, and the laws that it keeps.

    Args:
        life: in which it was asked for.
        after: the cursor that it was asked from, one of an earlier life.
    """

    def __init__(self, order: Order, life: int, after: str | None) -> None:
        self.order = order
        self.life = life
        self.after = after
        self.reason: str | None = None
        self.text = ""
        self.ended = False
        self._last: int | None = None

    def take(self, event: Event) -> None:
        """Take the next event.

        Raises:
            AssertionError: it breaks a law.
        """
        order, kind = self.order, event["event_type"]
        assert not self.ended, f"{event} behind the end of {order}"
        assert order.run_id in (None, event["run_id"]), f"another run for {order}: {event}"
        if kind == "reset":
            self._reset(event)
            return
        self._place(event)
        if kind == "chat_start":
            order.run_id = event["run_id"]
        elif kind == "chat_chunk":
            self.text += event["content"]
        if order.outcome is None:
            order.cursors.append((self.life, event["id"]))
        if kind in TERMINAL:
            self.ended = True
            self._end(event)

    def _reset(self, event: Event) -> None:
        assert self._last is None, f"a reset in the middle of {self.order}"
        self.reason = event["reason"]
        self.order.resets.append(event["reason"])
        self._last = 0

    def _place(self, event: Event) -> None:
        if self._last is None:
            assert self.after is None, f"no reset for {self.order}, but {event}"
            self._last = 0
        first = event.get("first_seq") or event["seq"]
        # Of a log that has expired what is stored is left: the start, the turns and the end.
        assert first == self._last + 1 or self.reason == "log_expired", f"a gap before {event}"
        assert (event["event_type"] == "chat_start") == (self._last == 0), f"no start: {event}"
        self._last = event["seq"]

    def _end(self, event: Event) -> None:
        order = self.order
        if order.outcome is not None:
            assert what(event) == what(order.outcome), f"{order} was taken back: {event}"
        order.outcome = event
        if event["event_type"] == "error":
            assert event["code"] == "interrupted", f"{order} failed: {event}"
            assert self.life - order.first_life >= MAX_EPOCHS, f"{order} was given up: {event}"
            return
        assert (event["finish_reason"], event["final_response"]) == ("stop", order.answer())
        assert self.text == order.whole(), f"{order} has another text: {self.text!r}"


def what(terminal: Event) -> tuple[Any, ...]:
    """Return what may not change about an outcome."""
    names = ("event_type", "final_response", "finish_reason", "code")
    return tuple(terminal.get(name) for name in names)


class Clients:
    """The clients of a service.

    Args:
        random: decides how they go on.

    Attributes:
        placed: all their orders.
        closing: they are to place no more.
    """

    def __init__(self, lives: Lives, random: Random) -> None:
        self.lives = lives
        self.placed: list[Order] = []
        self.closing = False
        self._random = random
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Clients":
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def work(self, orders: Iterator[Order]) -> None:
        """Place orders one after another, and bring each to its end."""
        while not self.closing:
            order = next(orders)
            self.placed.append(order)
            while order.outcome is None:
                await self._pursue(order)

    async def _pursue(self, order: Order) -> None:
        life, url = await self.lives.up()
        try:
            if order.run_id is None or self._random.random() < 0.3:
                await self._send(order, life, url)
            else:
                await self.follow(order, life, url, order.cursors[-1][1])
        except (aiohttp.ClientError, ConnectionError):
            assert life != self.lives.number or self.lives.dead.is_set(), "it lives, and hung up"

    async def _send(self, order: Order, life: int, url: str) -> None:
        order.first_life = order.first_life or life
        headers = {"Idempotency-Key": order.key}
        path = f"{url}/chat/stream"
        async with self.session.post(path, json=order.body, headers=headers) as response:
            assert response.status == 200, await response.text()
            await self._read(response, Following(order, life, None))

    async def follow(self, order: Order, life: int, url: str, after: str) -> Following:
        """Read on from a cursor of an earlier life, to the end."""
        path, query = f"{url}/runs/{order.run_id}/events", {"after": after}
        async with self.session.get(path, params=query) as response:
            assert response.status == 200, await response.text()
            following = Following(order, life, after)
            await self._read(response, following)
            return following

    async def look_again(self, order: Order) -> None:
        """Check that what was an order's outcome is its outcome, whichever way one looks."""
        life, url = await self.lives.up()
        try:
            async with self.session.get(f"{url}/runs/{order.run_id}") as response:
                info = await response.json()
            assert order.outcome is not None
            if order.outcome["event_type"] == "error":
                assert (info["status"], info["error"]["code"]) == ("failed", order.outcome["code"])
            else:
                assert (info["status"], info["final_response"]) == ("completed", order.answer())
            old = [cursor for number, cursor in order.cursors if number < life]
            if len(old) > 1:  # the last one is behind the end
                await self.follow(order, life, url, self._random.choice(old[:-1]))
            await self._send(order, life, url)
        except (aiohttp.ClientError, ConnectionError):
            assert life != self.lives.number or self.lives.dead.is_set(), "it lives, and hung up"

    @property
    def session(self) -> aiohttp.ClientSession:
        """The session of all clients."""
        assert self._session is not None
        return self._session

    async def _read(self, response: aiohttp.ClientResponse, following: Following) -> None:
        async for event in events(response):
            following.take(event)
            self.lives.got(event)
        assert following.ended, f"silence instead of the end of {following.order}"


async def together(*works: Any) -> None:
    """Do all of these; the first that fails ends them all."""
    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(work)
