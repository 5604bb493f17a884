"""What the terminal shows of an answer: its parts, and notes about the run before and after them.

A part is *settled* when nothing more happens to it. Those in front that are settled can be printed
for good; what comes after them is still moving.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from parley_client.answer import Answer, Call, Handover, Stage, Words
from parley_client.events import RunError
from parley_client.terminal.clean import one_line, shown


@dataclass
class Note:
    """Something about the run: `info`, `warning` or `failure`."""

    text: str
    kind: Literal["info", "warning", "failure"] = "info"


Shown: TypeAlias = Words | Call | Stage | Note


def parts_of(answer: Answer) -> list[Shown]:
    """Return all that is shown, in order; a part keeps its place until the next reset."""
    again = "The service started this answer again; here it is from its start."
    parts = (
        Note(f"{one_line(part.agent)} takes over") if isinstance(part, Handover) else part
        for part in answer.parts
    )
    return [*([Note(again)] if answer.resets else []), *parts, *_notes_at_the_end(answer)]


def is_settled(answer: Answer, part: Shown) -> bool:
    """Tell whether nothing more happens to a part."""
    if answer.outcome is not None or isinstance(part, Note):
        return True
    if isinstance(part, Call):
        return part.state in ("done", "failed")
    if isinstance(part, Stage):
        return part.is_over
    return part is not answer.parts[-1]


def note_of(call: Call) -> str:
    """Return a call's result, how it failed, or what it says of its progress, on one line."""
    match call.state:
        case "done":
            return shown(call.result)
        case "failed":
            return one_line(f"{call.code or 'Error'}: {call.error}")
        case _:
            return one_line(call.message)


def _notes_at_the_end(answer: Answer) -> list[Shown]:
    end = answer.outcome
    if end is None:
        return []
    if isinstance(end, RunError):
        more = " /retry tries again." if end.retryable else ""
        return [Note(f"{one_line(end.message)} ({one_line(end.code)}){more}", "failure")]
    notes: list[Shown] = []
    if end.finish_reason == "cancelled":
        notes.append(Note("Stopped.", "warning"))
    elif end.finish_reason != "stop":
        notes.append(Note(f"Ended early: {one_line(end.finish_reason)}.", "warning"))
    facts = [one_line(answer.agent), one_line(answer.model), f"{answer.seconds:.1f} s"]
    if end.usage is not None:
        facts.append(f"{end.usage.total_tokens:,} tokens")
    return [*notes, Note(" · ".join(fact for fact in facts if fact))]
