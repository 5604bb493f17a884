"""How an answer is drawn, while it grows and afterwards.

* A view remembers what it has drawn and draws only what has changed, so that a long answer costs no
  more with each word. With a reset its views begin again, too.
* A call that is under way is an `st.status`, which can change in place; one that had ended before
  the page was drawn is an expander, which costs Streamlit no pause.
* What a model, a tool or a user said passes through `text` on its way into Markdown or a label.
"""

import time
from collections.abc import Mapping
from typing import Any, Final, Literal, Protocol

from streamlit.delta_generator import DeltaGenerator

from parley_client.answer import Answer, Call, Handover, Part, Stage, Words
from parley_client.events import RunError
from text import Code, Prose, pieces, plain

NOTES: Final = {
    "cancelled": "Stopped.",
    "length": "The answer was cut at the model's limit.",
    "content_filter": "The model's provider withheld the rest.",
    "max_turns": "Ended: the model has asked for tools as often as it may.",
    "max_tool_calls": "Ended: all the tool calls of one answer are used up.",
    "repeated_tool_calls": "Ended: the model repeated the same tool calls.",
}
"""What is said below an answer that did not end by itself."""

ICONS: Final = {"done": ":material/check:", "failed": ":material/error:"}
STATES: Final[Mapping[str, Literal["complete", "error"]]] = {"done": "complete", "failed": "error"}
"""The states of a call that has ended, as `st.status` names them."""


class View(Protocol):
    """Draws one part of an answer."""

    def draw(self, part: Any) -> None:
        """Draw what has changed of the part."""


class AnswerView:
    """Draws an answer into a place of its own."""

    def __init__(self, place: DeltaGenerator) -> None:
        self._slot = place.empty()
        self._note = place.empty()
        self._said = ""
        self._resets = -1
        self._body = self._slot
        self._views: list[View | None] = []

    def draw(self, answer: Answer, *, is_lost: bool = False) -> None:
        """Draw what has changed of the answer, which is the same one every time."""
        if self._resets != answer.resets:
            self._resets, self._body, self._views = answer.resets, self._slot.container(), []
        for at, part in enumerate(answer.parts):
            if at == len(self._views):
                self._views.append(_view(part, self._body))
            if view := self._views[at]:
                view.draw(part)
        self._draw_note(answer, _note(answer, is_lost=is_lost))

    def _draw_note(self, answer: Answer, note: str) -> None:
        if note == self._said:
            return
        self._said = note
        if isinstance(answer.outcome, RunError):
            self._note.error(note, icon=":material/error:")
        elif note:
            self._note.caption(note)
        else:
            self._note.empty()


def _note(answer: Answer, *, is_lost: bool) -> str:
    if isinstance(answer.outcome, RunError):
        return plain(answer.outcome.message)
    if answer.outcome is not None:
        return NOTES.get(answer.outcome.finish_reason, "")
    if is_lost:
        return "The connection is lost. Trying again; nothing of the answer is lost …"
    return "" if answer.parts else "Waiting for the answer …"


def _view(part: Part, body: DeltaGenerator) -> View | None:
    """Return what draws a part; None where it is drawn for good."""
    match part:
        case Words(is_reasoning=True):
            icon = ":material/psychology:"
            return TextView(body.expander("Reasoning", icon=icon, type="compact").container())
        case Words():
            return TextView(body.container())
        case Call():
            return CallView(body, part)
        case Stage():
            return StageView(body)
        case Handover():
            body.caption(f":material/arrow_forward: {plain(part.agent)} answers from here.")
            return None


class TextView:
    """Draws Markdown, each block of code by itself."""

    def __init__(self, place: DeltaGenerator) -> None:
        self._place = place
        self._slots: list[DeltaGenerator] = []
        self._drawn: list[Prose | Code] = []

    def draw(self, part: Words) -> None:
        found = pieces(part.text)
        for at, piece in enumerate(found):
            if at == len(self._slots):
                self._slots.append(self._place.empty())
            if self._drawn[at : at + 1] != [piece]:
                _draw_piece(self._slots[at], piece)
        for slot in self._slots[len(found) :]:
            slot.empty()
        self._drawn = found


def _draw_piece(slot: DeltaGenerator, piece: Prose | Code) -> None:
    if isinstance(piece, Code):
        slot.code(piece.text, language=piece.language or None)
    else:
        slot.markdown(piece.text)


class CallView:
    """Draws one call: its state, and folded its arguments and what came of it."""

    def __init__(self, body: DeltaGenerator, call: Call) -> None:
        self._label = _label(call)
        self._state = call.state
        self._status = None
        if call.state in ICONS:
            place: DeltaGenerator = body.expander(self._label, icon=ICONS[call.state])
        else:
            place = self._status = body.status(self._label)
        place.caption("Arguments")
        _draw_value(place, call.arguments)
        self._progress = place.empty()
        self._outcome = place.container()
        if call.state in ICONS:
            self._draw_outcome(call)

    def draw(self, call: Call) -> None:
        label = _label(call)
        if self._status is not None and (label, call.state) != (self._label, self._state):
            self._status.update(label=label, state=STATES.get(call.state, "running"))
        if call.total and call.state == "running":
            self._progress.progress(_share(call.progress, call.total), plain(call.message))
        if call.state != self._state and call.state in STATES:
            self._draw_outcome(call)
        self._label, self._state = label, call.state

    def _draw_outcome(self, call: Call) -> None:
        self._progress.empty()
        if call.state == "failed":
            self._outcome.error(plain(call.error))
            return
        self._outcome.caption("Result, cut at the limit" if call.truncated else "Result")
        _draw_value(self._outcome, call.result)


def _label(call: Call) -> str:
    return f"**{plain(call.name)}** · {_words(call)}"


def _words(call: Call) -> str:
    match call.state:
        case "queued":
            return "queued"
        case "running":
            since = 0 if call.started is None else max(0, int(time.time() - call.started))
            return f"running, {since} s" if since else "running"
        case "done":
            took = call.duration_ms
            return "done" if took is None else f"done in {_duration(took / 1000)}"
        case "failed":
            error = call.error if len(call.error) <= 100 else f"{call.error[:100]}…"
            return f"failed: {plain(error)}"


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _draw_value(place: DeltaGenerator, value: Any) -> None:
    if isinstance(value, dict | list):
        place.json(value)
    else:
        place.code(str(value), language=None, wrap_lines=True)


class StageView:
    """Draws how far a stage is."""

    def __init__(self, body: DeltaGenerator) -> None:
        self._slot = body.empty()
        self._drawn: Stage | None = None

    def draw(self, part: Stage) -> None:
        if part != self._drawn:
            share = _share(part.done, part.total)
            self._slot.progress(share, f"**{plain(part.name)}** · {plain(part.message)}")
            self._drawn = part


def _share(done: float, total: float) -> float:
    return min(1.0, max(0.0, done / total)) if total > 0 else 0.0
