"""A model that says what a test wrote down, and a log that a test can look into."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

import msgspec

from events import ChatChunk, Event, ReasoningChunk, Usage, stamped
from messages import EndPart, ModelRequest, ReplyPart, TextPart, ToolCall, ToolCallPart

DEADLINE = 10.0
"""Seconds that a test waits for anything."""

USAGE = Usage(3, 2, 5)
"""What each complete reply is said to have used."""

_A = TypeVar("_A")
_B = TypeVar("_B")


class Gate:
    """A place in a script where the stream stops until the test lets it go on."""

    def __init__(self) -> None:
        self._reached = asyncio.Event()
        self._opened = asyncio.Event()

    async def reached(self) -> None:
        """Wait until the stream stands here."""
        async with asyncio.timeout(DEADLINE):
            await self._reached.wait()

    def open(self) -> None:
        """Let the stream go on."""
        self._opened.set()

    async def pass_through(self) -> None:
        """Stop here; the stream's side."""
        self._reached.set()
        await self._opened.wait()


Output: TypeAlias = ReplyPart | list[ReplyPart] | Gate | Exception
"""A batch of one part, a batch of several, a stop, or a failure."""

Script: TypeAlias = Sequence[Output]
"""One reply."""


def says(*pieces: str) -> list[Output]:
    """Return a reply of text, each piece a batch of its own."""
    return [*map(TextPart, pieces), EndPart("stop", USAGE)]


def asks(*calls: tuple[str, Any], text: str = "") -> list[Output]:
    """Return a reply that calls tools, `(name, arguments)` each, with the ids c0, c1, …

    Arguments that are a string are sent as they stand.
    """
    parts: list[ReplyPart] = [
        ToolCallPart(ToolCall(f"c{number}", name, _arguments(arguments)))
        for number, (name, arguments) in enumerate(calls)
    ]
    said: list[Output] = [TextPart(text)] if text else []
    return [*said, [*parts, EndPart("tool_calls", USAGE)]]


def _arguments(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()


class ScriptedProvider:
    """Answers each request with the next reply of its script.

    Args:
        replies: one reply for each request, or a function that makes the reply to a request.
    """

    name = "scripted"
    default_model = "scripted-1"
    is_available = True

    def __init__(self, *replies: Script, reply_to: Callable[[ModelRequest], Script] | None = None):
        self.requests: list[ModelRequest] = []
        self.open_streams = 0
        self.is_closed = False
        self._replies = iter(replies)
        self._reply_to = reply_to

    async def stream(self, request: ModelRequest) -> AsyncGenerator[list[ReplyPart], None]:
        """Yield the next reply of the script; like a real one, close with an await."""
        self.requests.append(request)
        self.open_streams += 1
        try:
            for output in self._reply_to(request) if self._reply_to else next(self._replies):
                await asyncio.sleep(0)
                if isinstance(output, Gate):
                    await output.pass_through()
                elif isinstance(output, Exception):
                    raise output
                else:
                    yield output if isinstance(output, list) else [output]
            await asyncio.sleep(0)
        finally:
            self.open_streams -= 1

    def answering(self, wanted: str | None) -> str:
        return wanted or self.default_model

    def dialect_for(self, model: str) -> None:
        """Return nothing: it has no dialects."""

    async def warm(self) -> None:
        """Do nothing."""

    async def aclose(self) -> None:
        """Remember that it was closed."""
        self.is_closed = True


class Recorder:
    """A sink that keeps its events, and tells the test of each as it happens.

    Args:
        on_event: called with each event behind its append.
        limit: how many events it takes before it raises `full`.
    """

    def __init__(
        self,
        on_event: Callable[[Event], None] = lambda event: None,
        limit: int | None = None,
        full: Exception | None = None,
    ) -> None:
        self.events: list[Event] = []
        self._on_event = on_event
        self._limit = limit
        self._full = full

    def append(self, event: Event) -> None:
        """Keep an event."""
        if self._full is not None and len(self.events) == self._limit:
            raise self._full
        event = stamped(event, "run_1", len(self.events) + 1)
        self.events.append(event)
        self._on_event(event)

    def append_text(
        self, kind: type[ChatChunk | ReasoningChunk], message_id: str, content: str
    ) -> None:
        """Keep a piece of text."""
        self.append(kind(message_id=message_id, content=content))

    async def drain(self) -> None:
        """Wait for a turn of the loop."""
        await asyncio.sleep(0)

    def of(self, kind: type[_A], other: type[_B] | None = None) -> list[_A | _B]:
        """Return the events of one type or two, in order."""
        return [event for event in self.events if isinstance(event, (kind, other or kind))]


def types(events: Iterable[Any]) -> list[str]:
    """Return the events' names."""
    return [event.event_type for event in events]
