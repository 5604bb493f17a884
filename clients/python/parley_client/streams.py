"""Runs over server-sent events: a connection each, where there is no WebSocket.

A run begins with a POST that carries its idempotency key and goes on with GET from its cursor. A
stream that is silent for too long is lost. A reader that takes nothing stops the reading, and the
connection fills up; should the service cut it off, it is gone on with from the cursor.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

import aiohttp
import msgspec

from parley_client.course import Course
from parley_client.errors import Lost, ParleyError, refusal_over_http
from parley_client.events import decode_event
from parley_client.frames import Frames
from parley_client.http import FAILURES, Http

Spawn: TypeAlias = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
Say: TypeAlias = Callable[[bool, float], None]
"""Is told whether there is a connection, and in how many seconds it is tried again."""


async def waits(http: Http, course: Course, error: ParleyError) -> bool:
    """Tell whether a refusal is waited out: that of a service which stops, or cannot read now."""
    if course.run_id is not None:
        return error.retryable
    return error.code == "unavailable" and not await http.answers()


class Streams:
    """The transport; `spawn` runs a task that ends with the client."""

    def __init__(self, http: Http, spawn: Spawn, say: Say) -> None:
        self._http = http
        self._spawn = spawn
        self._say = say
        self._tasks: dict[Course, asyncio.Task[None]] = {}

    def wants(self, course: Course) -> None:
        """Begin, or go on with, a run."""
        if course not in self._tasks:
            task = self._tasks[course] = self._spawn(self._follow(course))
            task.add_done_callback(lambda _: self._tasks.pop(course, None))

    def drops(self, course: Course) -> None:
        """Read no more of a run; one that is not accepted yet is sent all the same."""
        if course.run_id is not None and course in self._tasks:
            self._tasks[course].cancel()

    async def _follow(self, course: Course) -> None:
        attempt = 0
        while not course.is_over or course.run_id is None:
            before, at_least = course.seq, 0.0
            try:
                await self._read(course)
            except Lost as lost:
                at_least = lost.retry_after
            except FAILURES:
                pass  # it is tried again
            except ParleyError as error:
                if not await waits(self._http, course, error):
                    course.fail(error)
                    return
                at_least = error.retry_after or 0.0
            if course.is_over and course.run_id is not None:
                return
            attempt = 0 if course.seq != before else attempt + 1
            seconds = max(at_least, self._http.timings.delay(attempt))
            course.is_lost = True
            self._say(False, seconds)
            await self._http.pauses.wait(seconds)

    async def _read(self, course: Course) -> None:
        """Read a stream to its end; raises `ParleyError` if refused, else `Lost` or `FAILURES`."""
        async with self._request(course) as response:
            if response.status == 204:
                course.end()
                return
            if response.status != 200:
                body = await response.read()
                retry_after = response.headers.get("Retry-After")
                raise refusal_over_http(response.status, body, retry_after)
            course.is_lost = False
            self._say(True, 0.0)
            if (run_id := response.headers.get("X-Run-Id")) is not None:
                course.adopt(run_id)
            await self._take_all(course, response.content)

    def _request(self, course: Course) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        session, base = self._http.session, self._http.base
        if course.run_id is None and course.start is not None:
            start = course.start
            headers = {"Idempotency-Key": start.key}
            return session.post(base + start.path, json=start.data, headers=headers)
        params = {"after": course.cursor} if course.cursor else None
        address = f"{base}/runs/{course.run_id}/events"
        return session.get(address, params=params)

    async def _take_all(self, course: Course, content: aiohttp.StreamReader) -> None:
        frames = Frames()
        while not course.is_over and (chunk := await content.readany()):
            for cursor, data in frames.feed(chunk):
                await course.room()
                try:
                    event = decode_event(data)
                except msgspec.DecodeError:
                    raise Lost from None
                course.put(cursor, event, len(data))
