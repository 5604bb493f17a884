"""An answer as a person sees it: its parts in their order, made of the events of a run.

Nothing here draws. Text is kept as it came; who shows it makes it safe for the place.
"""

import time
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from parley_client import events


@dataclass
class Words:
    """A piece of text; `is_reasoning` where it is the model's reasoning."""

    text: str
    is_reasoning: bool = False
    message_id: str = ""


@dataclass
class Call:
    """A tool call.

    Attributes:
        arguments: decoded JSON, as `result` is; a result that is `truncated` is a string.
        started: when it began to run, in seconds as `time.time()`; None where it has not.
        duration_ms: None where it was not executed, or that is not known.
        progress: in the tool's own unit, of `total`; `message` says more.
        code: how it failed; empty for a stored one, of which only `error` is known.
    """

    id: str
    name: str
    arguments: Any = None
    state: Literal["queued", "running", "done", "failed"] = "running"
    started: float | None = None
    duration_ms: float | None = None
    result: Any = None
    truncated: bool = False
    code: str = ""
    error: str = ""
    progress: float = 0.0
    total: float | None = None
    message: str = ""


@dataclass
class Stage:
    """How far one stage of a run is: `done` of `total` steps; `is_over`: other parts follow."""

    name: str
    message: str
    done: int
    total: int
    is_over: bool = False


@dataclass
class Handover:
    """Another agent has taken over."""

    agent: str


Part: TypeAlias = Words | Call | Stage | Handover


@dataclass
class Answer:
    """All that one run said and did, as far as it was added.

    Attributes:
        began: the time as `time.monotonic()` when it was asked for.
        seconds: how long it took, once it has an `outcome`.
        resets: how often its parts were dropped and are built from the start.
    """

    parts: list[Part] = field(default_factory=list)
    agent: str = ""
    model: str = ""
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    outcome: events.ChatComplete | events.RunError | None = None
    resets: int = 0

    def add(self, event: events.Event) -> None:
        """Add the next event of the run; one that shows nothing changes nothing."""
        match event:
            case events.ChatStart():
                self.agent, self.model = event.agent, event.model
            case events.ChatChunk() | events.ReasoningChunk():
                self._say(event)
            case events.AgentUpdated():
                self.agent = event.agent
                self.parts.append(Handover(event.agent))
            case events.RunProgress():
                self._advance(event)
            case events.Reset():
                self.parts, self.resets = [], self.resets + 1
            case events.ChatComplete() | events.RunError():
                self._close_stages()
                self.outcome, self.seconds = event, time.monotonic() - self.began
            case events.UnknownEvent():
                pass
            case _:
                _change(self._call(event.tool_call), event.tool_call)

    def _say(self, event: events.ChatChunk | events.ReasoningChunk) -> None:
        new = Words(event.content, isinstance(event, events.ReasoningChunk), event.message_id)
        last = self.parts[-1] if self.parts else None
        if (
            isinstance(last, Words)
            and last.is_reasoning == new.is_reasoning
            and last.message_id == new.message_id
        ):
            last.text += new.text
            return
        self._close_stages()
        self.parts.append(new)

    def _advance(self, event: events.RunProgress) -> None:
        for part in self.parts:
            if isinstance(part, Stage) and part.name == event.stage:
                part.message, part.done, part.total = event.message, event.done, event.total
                return
        self._close_stages()
        self.parts.append(Stage(event.stage, event.message, event.done, event.total))

    def _close_stages(self) -> None:
        for part in self.parts:
            if isinstance(part, Stage):
                part.is_over = True

    def _call(self, said: events.QueuedCall | events.ProgressingCall) -> Call:
        for part in self.parts:
            if isinstance(part, Call) and part.id == said.id:
                return part
        arguments = said.arguments if isinstance(said, events.QueuedCall) else None
        call = Call(said.id, said.name, arguments)
        self.parts.append(call)
        return call


def _change(call: Call, said: events.QueuedCall | events.ProgressingCall) -> None:
    match said:
        case events.CompletedCall() | events.FailedCall():
            _end(call, said)
        case events.StartedCall():
            known = said.started_at
            call.state, call.started = "running", known.timestamp() if known else time.time()
        case events.QueuedCall():
            call.state = "queued"
        case events.ProgressingCall():
            call.progress, call.total = said.progress, said.total
            call.message = said.message or ""


def _end(call: Call, said: events.CompletedCall | events.FailedCall) -> None:
    if said.started_at is not None:
        call.duration_ms = said.duration_ms
    if isinstance(said, events.CompletedCall):
        call.state, call.result, call.truncated = "done", said.result, said.truncated
    else:
        call.state, call.code, call.error = "failed", said.code, said.error
