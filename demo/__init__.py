"""The demo: answers without a model, a key or a network.

It stands in until a real model is connected, and says so. It understands a part of plain English by
patterns and leaves the rest to the tools that it calls. What it says is a function of the request
alone (`reply`); this module streams it as a model would, in pieces like tokens.

The pace is a schedule on a monotonic clock, piece `i` at `i / tokens_per_second`, so that it does
not drift. Pieces that are due together form one batch. There is no usage to report.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

from demo.reply import reply_to
from messages import EndPart, ModelRequest, ReplyPart, TextPart, ToolCallPart

_PIECE = re.compile(r"\s*\S{1,16}|\s+")
_UNPACED_BATCH = 16


class DemoProvider:
    """The provider without a model; `tokens_per_second` is 0 for as fast as they are taken."""

    name = "demo"
    default_model = "demo"
    is_available = True

    def __init__(
        self,
        tokens_per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rate = tokens_per_second
        self._clock = clock
        self._sleep = sleep

    async def stream(self, request: ModelRequest) -> AsyncGenerator[list[ReplyPart], None]:
        """Yield the demo's answer; see `llm.Provider`. Never raises of its own."""
        reply = reply_to(request)
        if not isinstance(reply, str):
            yield [*map(ToolCallPart, reply), EndPart("tool_calls")]
            return
        pieces = _PIECE.findall(reply)
        shown = pieces[: request.options.max_tokens]
        began, done = self._clock(), 0
        while done < len(shown):
            due = await self._due(began, done)
            yield [TextPart(piece) for piece in shown[done:due]]
            done = due
        yield [EndPart("length" if len(shown) < len(pieces) else "stop")]

    def answering(self, wanted: str | None) -> str:
        """Return the demo's own name: it answers for every model, and says so."""
        return self.default_model

    def dialect_for(self, model: str) -> None:
        """Return nothing: it has no dialects."""

    async def warm(self) -> None:
        """Do nothing: there is nothing to prepare."""

    async def aclose(self) -> None:
        """Release connections: there are none."""

    async def _due(self, began: float, done: int) -> int:
        """Wait until the piece after `done` pieces is due; return how many are due by then."""
        if not self._rate:
            await self._sleep(0)
            return done + _UNPACED_BATCH
        await self._sleep(max(0.0, began + done / self._rate - self._clock()))
        return max(done, int((self._clock() - began) * self._rate)) + 1
