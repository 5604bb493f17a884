"""What a user of the client holds of a run."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self
from urllib.parse import quote

from parley_client.course import Course
from parley_client.errors import ParleyError
from parley_client.events import ChatComplete, Event, RunError

Cancel = Callable[[str], Awaitable[None]]
"""Posts to an address; an answer says that it is done."""


class Run:
    """A run: iterate over it for its events, each once and in order.

    Lost connections do not show. The iteration ends after `ChatComplete` or `RunError`, which are
    events and not exceptions, and when the run is left. It is one iteration however often it is
    begun; what is not taken waits in a bounded buffer, and beyond that in the service.

    Whatever waits raises `ParleyError` where the request was refused, the run cannot be found any
    more, or the client was closed.
    """

    def __init__(self, course: Course, post: Cancel, drop: Callable[[Course], None]) -> None:
        self._course = course
        self._post = post
        self._drop = drop

    @property
    def id(self) -> str | None:
        """The run's id; None until the service has accepted it."""
        return self._course.run_id

    @property
    def conversation_id(self) -> str | None:
        """Where it takes place; of a branch or a followed run, None until `ChatStart`."""
        return self._course.conversation_id

    @property
    def cursor(self) -> str | None:
        """Where the last event is that has come here: `follow(run.id, after=run.cursor)`.

        It is that of the newest one in the buffer, which may not have been iterated over yet.
        """
        return self._course.cursor

    @property
    def outcome(self) -> ChatComplete | RunError | None:
        """The last event, as soon as it is here."""
        return self._course.outcome

    @property
    def is_lost(self) -> bool:
        """Whether its connection is gone at present; another attempt follows."""
        return self._course.is_lost

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        event = await self._course.take()
        if event is None:
            raise StopAsyncIteration
        return event

    async def take(self, within: float) -> list[Event]:
        """Return all events that are here; wait so many seconds for the first one at most."""
        found: list[Event] = []
        with suppress(TimeoutError, StopAsyncIteration):
            async with asyncio.timeout(within):
                while not found or self._course.has_events:
                    found.append(await anext(self))
        return found

    async def started(self) -> str:
        """Wait until the service has accepted the run, and return its id."""
        return await self._course.accepted()

    async def text(self) -> str:
        """Wait for the end and return the answer; a run that was left or failed raises, too."""
        async for _ in self:
            pass
        outcome = self.outcome
        if isinstance(outcome, ChatComplete):
            return outcome.final_response
        if outcome is None:
            raise ParleyError("The run was left before its end.", code="left")
        raise ParleyError(
            outcome.message,
            code=outcome.code,
            retryable=outcome.retryable,
            retry_after=outcome.retry_after,
        )

    async def cancel(self) -> None:
        """End the run. Its last event is then `ChatComplete` with `cancelled`."""
        await self._post(f"/runs/{quote(await self.started(), safe='')}/cancel")

    async def cancel_tool(self, tool_call_id: str) -> None:
        """End one tool call; the run goes on. `tool_call_not_found`: it is not under way."""
        call = quote(tool_call_id, safe="")
        await self._post(f"/runs/{quote(await self.started(), safe='')}/tool_calls/{call}/cancel")

    def leave(self) -> None:
        """Follow no longer; iterating ends at once. The run goes on."""
        self._course.leave()
        self._drop(self._course)
