"""What is to be seen of an answer: its parts in order, made of events. Draws nothing.

A part is *settled* when nothing more happens to it. Those in front that are settled can be printed
for good; what comes after them is still moving.
"""

import time
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from parley_client import (
    AgentUpdated,
    ChatChunk,
    ChatComplete,
    ChatStart,
    Event,
    ReasoningChunk,
    Reset,
    RunError,
    RunProgress,
    ToolCallComplete,
    ToolCallError,
    ToolCallProgress,
    ToolCallQueued,
    ToolCallStart,
)
from parley_client.terminal.clean import arguments_shown, clean, one_line, shown

CallState: TypeAlias = Literal["queued", "running", "done", "failed"]


@dataclass
class Words:
    """A piece of text; `is_reasoning` where the model thinks aloud."""

    text: str
    is_reasoning: bool = False
    message_id: str = ""


@dataclass
class Call:
    """A tool call. `since` is the monotonic time at which it began to run.

    `note` is its result, how it failed, or what it says of its progress.
    """

    id: str
    name: str
    arguments: str
    state: CallState
    since: float = 0.0
    duration_ms: float | None = None
    note: str = ""
    progress: float = 0.0
    total: float | None = None


@dataclass
class Stage:
    """How far a run of several stages is."""

    name: str
    message: str
    done: int
    total: int
    is_over: bool = False


@dataclass
class Note:
    """Something about the run: `info`, `warning` or `failure`."""

    text: str
    kind: Literal["info", "warning", "failure"] = "info"


Part: TypeAlias = Words | Call | Stage | Note


@dataclass
class Answer:
    """One run, as a person sees it.

    Attributes:
        began: the monotonic time at which it was asked for.
        told: how often it has been begun anew, by a `Reset`.
    """

    parts: list[Part] = field(default_factory=list)
    agent: str = ""
    model: str = ""
    began: float = field(default_factory=time.monotonic)
    outcome: ChatComplete | RunError | None = None
    told: int = 0
    _calls: dict[str, Call] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Take an event; one that shows nothing changes nothing."""
        match event:
            case ChatStart():
                self.agent, self.model = one_line(event.agent), one_line(event.model)
            case ChatChunk() | ReasoningChunk():
                self._say(event)
            case AgentUpdated():
                self.agent = one_line(event.agent)
                self.parts.append(Note(f"{self.agent} takes over"))
            case RunProgress():
                self._stage(event)
            case Reset():
                self._begin_anew()
            case ChatComplete() | RunError():
                self._end(event)
            case _:
                self._tool(event)

    def is_settled(self, part: Part) -> bool:
        """Tell whether nothing more happens to a part."""
        if self.outcome is not None or isinstance(part, Note):
            return True
        if isinstance(part, Call):
            return part.state in ("done", "failed")
        if isinstance(part, Stage):
            return part.is_over
        return part is not self.parts[-1]

    def _say(self, event: ChatChunk | ReasoningChunk) -> None:
        is_reasoning = isinstance(event, ReasoningChunk)
        last = self.parts[-1] if self.parts else None
        if (
            isinstance(last, Words)
            and last.is_reasoning == is_reasoning
            and last.message_id == event.message_id
        ):
            last.text += clean(event.content)
            return
        self._close_stages()
        self.parts.append(Words(clean(event.content), is_reasoning, event.message_id))

    def _tool(self, event: Event) -> None:
        match event:
            case ToolCallQueued(tool_call=call):
                self._call(call.id, call.name, call.arguments).state = "queued"
            case ToolCallStart(tool_call=call):
                seen = self._call(call.id, call.name, call.arguments)
                seen.state, seen.since = "running", time.monotonic()
            case ToolCallProgress(tool_call=call):
                seen = self._call(call.id, call.name, None)
                seen.progress, seen.total = call.progress, call.total
                seen.note = one_line(call.message or "")
            case ToolCallComplete(tool_call=call):
                seen = self._call(call.id, call.name, call.arguments)
                seen.state, seen.note = "done", shown(call.result)
                seen.duration_ms = call.duration_ms
            case ToolCallError(tool_call=call):
                seen = self._call(call.id, call.name, call.arguments)
                seen.state, seen.note = "failed", f"{one_line(call.code)}: {one_line(call.error)}"
                seen.duration_ms = call.duration_ms if call.started_at is not None else None
            case _:
                pass  # a newer service says more than is known here

    def _call(self, call_id: str, name: str, arguments: object) -> Call:
        if call_id not in self._calls:
            call = Call(call_id, one_line(name), arguments_shown(arguments), "queued")
            self._calls[call_id] = call
            self.parts.append(call)
        return self._calls[call_id]

    def _stage(self, event: RunProgress) -> None:
        name, message = one_line(event.stage), one_line(event.message)
        for part in self.parts:
            if isinstance(part, Stage) and part.name == name and not part.is_over:
                part.message, part.done, part.total = message, event.done, event.total
                return
        self._close_stages()
        self.parts.append(Stage(name, message, event.done, event.total))

    def _close_stages(self) -> None:
        for part in self.parts:
            if isinstance(part, Stage):
                part.is_over = True

    def _begin_anew(self) -> None:
        self.told += 1
        self._calls.clear()
        self.parts = [Note("The service began this answer anew; here it is from its start.")]

    def _end(self, event: ChatComplete | RunError) -> None:
        self._close_stages()
        self.outcome = event
        if isinstance(event, RunError):
            more = " /retry tries again." if event.retryable else ""
            text = f"{one_line(event.message)} ({one_line(event.code)}){more}"
            self.parts.append(Note(text, "failure"))
            return
        seconds = f"{time.monotonic() - self.began:.1f} s"
        facts = [self.agent, self.model, seconds]
        if event.usage is not None:
            facts.append(f"{event.usage.total_tokens:,} tokens")
        if event.finish_reason == "cancelled":
            self.parts.append(Note("Stopped.", "warning"))
        elif event.finish_reason != "stop":
            self.parts.append(Note(f"Ended early: {one_line(event.finish_reason)}.", "warning"))
        self.parts.append(Note(" · ".join(fact for fact in facts if fact)))
