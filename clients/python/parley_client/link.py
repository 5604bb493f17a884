"""The WebSocket: one connection that carries all runs, as long as there is one.

One task keeps the connection. While it is there, three things happen on it: frames are read, what
is asked for is written, and a ping tells whether the other side lives. When any of them fails the
connection is lost, and after a pause the next one takes up all runs: those that the service has
accepted from their cursors, the others by sending them again under the same key.

* What is to be written follows from the state of a course, not from a queue of messages: a
  course that is in `_todo` is looked at once, and is subscribed to or left as it needs.
* Each subscription has a `request_id` of its own. Frames of one that was given up are dropped.
* A run whose reader takes nothing is unsubscribed from, so that it never holds up the others.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import msgspec

from parley_client.course import Course
from parley_client.errors import Lost, ParleyError, Refusal
from parley_client.events import decode_event
from parley_client.frames import MAX_BYTES
from parley_client.http import FAILURES, Http
from parley_client.streams import Say, waits

TOO_LARGE = 1009


class Blocked(Exception):
    """The service answers over HTTP, and WebSockets do not come through."""


class Frame(msgspec.Struct):
    """A message of the service; an event where it has an `id`, or is a `reset`."""

    type: str
    request_id: str | None = None
    id: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"{}")


_FRAME = msgspec.json.Decoder(Frame)
_REFUSAL = msgspec.json.Decoder(Refusal)


class Link:
    """The transport; `elsewhere` takes a course that does not fit through a WebSocket."""

    def __init__(self, http: Http, say: Say, elsewhere: Callable[[Course], None]) -> None:
        self._http = http
        self._say = say
        self._elsewhere = elsewhere
        self._courses: dict[Course, None] = {}
        self._todo: dict[Course, None] = {}
        self._awake = asyncio.Event()
        self._asked: dict[Course, str] = {}
        self._routes: dict[str, Course] = {}
        self._numbers = itertools.count(1)
        self._heard = 0

    @property
    def courses(self) -> list[Course]:
        """The runs that are not at their end."""
        return [*self._courses]

    def wants(self, course: Course) -> None:
        """Begin, or go on with, a run."""
        self._courses[course] = None
        self._look_at(course)

    def drops(self, course: Course) -> None:
        """Read no more of a run; one that is not accepted yet is sent all the same."""
        self._look_at(course)

    def gives_up(self, course: Course, error: ParleyError) -> None:
        self._courses.pop(course, None)
        course.fail(error)

    async def keep(self) -> None:
        """Keep the connection, for ever; raises `Blocked` where there can be none."""
        attempt = failures = 0
        while True:
            before = self._heard
            socket = await self._opened()
            if socket is not None:
                await self._serve(socket)
                self._asked.clear()
                self._routes.clear()
            if self._heard != before:
                attempt = 0
            elif self._heard == 0:
                failures = failures + 1 if await self._http.answers() else 0
                if failures == 2:
                    raise Blocked
            seconds = self._http.timings.delay(attempt)
            attempt += 1
            for course in self._courses:
                course.is_lost = True
            self._say(False, seconds)
            await self._http.pauses.wait(seconds)

    async def _opened(self) -> aiohttp.ClientWebSocketResponse | None:
        """Return a new connection, or None; `Blocked` if a service that takes work refuses it."""
        try:
            async with asyncio.timeout(self._http.timings.connect_within):
                return await self._http.session.ws_connect(
                    self._http.base + "/ws",
                    max_msg_size=MAX_BYTES,
                    timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
                )
        except aiohttp.WSServerHandshakeError as error:
            if error.status < 500 and await self._http.answers():
                raise Blocked from None
        except FAILURES:
            pass
        return None

    async def _serve(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Use a connection until it is lost."""
        for course in self._courses:
            course.is_lost = False
        self._say(True, 0.0)
        self._todo = dict(self._courses)
        self._awake.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write(socket))
                tasks.create_task(self._ping(socket))
                tasks.create_task(self._read(socket, tasks))
        except* (*FAILURES, Lost) as group:
            if any(isinstance(each, Lost) and each.code == TOO_LARGE for each in group.exceptions):
                self._send_the_largest_elsewhere()
        finally:
            # A lost connection is not waited for: an answer to our closing may never come.
            await asyncio.shield(socket.close())

    # Reading

    async def _read(
        self, socket: aiohttp.ClientWebSocketResponse, tasks: asyncio.TaskGroup
    ) -> None:
        while True:
            message = await socket.receive()
            if message.type is not aiohttp.WSMsgType.TEXT:
                raise Lost(code=socket.close_code)
            self._heard += 1
            try:
                self._receive(message.data, tasks)
            except msgspec.DecodeError:
                raise Lost from None

    def _receive(self, text: str, tasks: asyncio.TaskGroup) -> None:
        frame = _FRAME.decode(text)
        course = self._routes.get(frame.request_id or "")
        if frame.id is not None or frame.type == "reset":
            if course is not None:
                self._put(course, frame, len(text))
        elif frame.type == "error":
            refusal = _REFUSAL.decode(frame.data)
            if course is not None:
                self._forget(course)
                tasks.create_task(self._refused(course, refusal))
            elif refusal.code == "too_large":
                self._send_the_largest_elsewhere()

    def _put(self, course: Course, frame: Frame, size: int) -> None:
        course.put(frame.id, decode_event(frame.data), size)
        if course.outcome is not None:
            self._forget(course)
            self._courses.pop(course, None)
        elif course.is_over or course.is_full:
            self._look_at(course)

    async def _refused(self, course: Course, refusal: Refusal) -> None:
        error = refusal.error()
        if not await waits(self._http, course, error):
            self.gives_up(course, error)
            return
        delay = self._http.timings.delay(course.refusals)
        course.refusals += 1
        await self._http.pauses.wait(max(delay, error.retry_after or 0.0))
        self._look_at(course)

    def _send_the_largest_elsewhere(self) -> None:
        """A message was too large for the socket, and it is not said which: the largest one."""
        unheard = [each for each in self._asked if each.run_id is None and each.start is not None]
        if unheard:
            course = max(unheard, key=lambda each: len(msgspec.json.encode(each.start)))
            self._forget(course)
            self._courses.pop(course, None)
            self._todo.pop(course, None)
            self._elsewhere(course)

    # Writing

    def _look_at(self, course: Course) -> None:
        self._todo[course] = None
        self._awake.set()

    async def _write(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            await self._awake.wait()
            self._awake.clear()
            while self._todo:
                course = next(iter(self._todo))
                del self._todo[course]
                for message in self._messages(course):
                    await self._send(socket, message)

    async def _send(self, socket: aiohttp.ClientWebSocketResponse, message: Any) -> None:
        async with asyncio.timeout(self._http.timings.pong_within):
            await socket.send_str(msgspec.json.encode(message).decode())

    def _messages(self, course: Course) -> Iterator[dict[str, Any]]:
        """Yield what the service has to be told about a course."""
        if course not in self._courses:
            return
        is_wanted = course.run_id is None or not (course.is_over or course.is_full)
        if is_wanted and course not in self._asked:
            yield self._subscription(course)
        elif not is_wanted and course in self._asked:
            yield {"type": "unsubscribe", "data": {"run_id": course.run_id}}
            # That ends what others here read of the same run, too.
            for other in [each for each in self._asked if each.run_id == course.run_id]:
                self._forget(other)
                self._look_at(other)
        if course.is_over and course.run_id is not None:
            self._courses.pop(course, None)

    def _subscription(self, course: Course) -> dict[str, Any]:
        request_id = f"r{next(self._numbers)}"
        self._asked[course] = request_id
        self._routes[request_id] = course
        if course.run_id is None and course.start is not None:
            kind = course.start.kind
            data = {**course.start.data, "idempotency_key": course.start.key}
        else:
            kind, data = "subscribe", {"run_id": course.run_id}
            if course.cursor is not None:
                data["after"] = course.cursor
        return {"type": kind, "request_id": request_id, "data": data}

    def _forget(self, course: Course) -> None:
        request_id = self._asked.pop(course, None)
        self._routes.pop(request_id or "", None)

    async def _ping(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Ask whether the other side lives. Anything that comes says that it does."""
        while True:
            await asyncio.sleep(self._http.timings.ping_every)
            before = self._heard
            await self._send(socket, {"type": "ping"})
            await asyncio.sleep(self._http.timings.pong_within)
            if self._heard == before:
                raise Lost
