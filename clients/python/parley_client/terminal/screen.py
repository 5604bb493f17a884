"""Where an answer is shown: live on a terminal, or as plain lines where there is none.

On a terminal what is settled is printed once, into the scrollback; only the rest is drawn again,
and never more of it than fits, because a line that has scrolled away cannot be taken back.
"""

from collections.abc import Callable
from typing import IO, TypeAlias

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from parley_client.answer import Answer, Call, Words
from parley_client.events import Event
from parley_client.terminal.answer import Note, Shown, is_settled, note_of, parts_of
from parley_client.terminal.clean import arguments_shown, clean, one_line
from parley_client.terminal.view import Tail, duration, finished_length, view

INTERVAL = 1 / 15
"""Seconds between two drawings."""


class LiveScreen:
    """One answer on a terminal; `status` says in one line what is under way."""

    def __init__(self, console: Console, status: Callable[[], Text], answer: Answer) -> None:
        self._console = console
        self._status = status
        self._answer = answer
        self._resets = answer.resets
        self._next = 0  # the first part that is not printed as a whole,
        self._offset = 0  # and how much of it is
        self._last: Shown | None = None
        self._live = Live(
            console=console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            transient=True,
        )

    def begin(self) -> None:
        self._live.start()
        self.draw()

    def add(self, event: Event) -> None:
        self._answer.add(event)

    def draw(self) -> None:
        """Print what is settled, and draw the rest."""
        self._print_settled()
        rest = Group(*self._rest(), Text(), self._status())
        self._live.update(Tail(rest, self._console.height - 1), refresh=True)

    def end(self) -> None:
        """Print the rest, for good."""
        self._print_settled()
        self._live.update(Text(), refresh=True)
        self._live.stop()
        for part in self._unprinted():
            self._print(part)

    def _print_settled(self) -> None:
        if self._answer.resets != self._resets:
            self._resets, self._next, self._offset = self._answer.resets, 0, 0
        parts = parts_of(self._answer)
        while self._next < len(parts):
            part = parts[self._next]
            if isinstance(part, Words) and not is_settled(self._answer, part):
                self._print_blocks(part)
                return
            if not is_settled(self._answer, part):
                return
            for unprinted in self._unprinted()[:1]:
                self._print(unprinted)
            self._next, self._offset = self._next + 1, 0

    def _print_blocks(self, part: Words) -> None:
        """Print the blocks of a growing text that will stay as they are."""
        text = clean(part.text)[self._offset :]
        length = 0 if part.is_reasoning else finished_length(text)
        if length:
            self._print(Words(text[:length]))
            self._offset += length

    def _unprinted(self) -> list[Shown]:
        """Return the parts that are not printed, the first one without what is printed of it."""
        rest = parts_of(self._answer)[self._next :]
        if rest and isinstance(first := rest[0], Words):
            text = clean(first.text)[self._offset :]
            head = [Words(text, first.is_reasoning)] if text.strip() else []
            return [*head, *rest[1:]]
        return rest

    def _rest(self) -> list[RenderableType]:
        shown: list[RenderableType] = []
        last = self._last
        for part in self._unprinted():
            if _is_apart(last, part):
                shown.append(Text())
            shown.append(view(part))
            last = part
        return shown

    def _print(self, part: Shown) -> None:
        _print(self._console, self._last, part)
        self._last = part


def _is_apart(last: Shown | None, part: Shown) -> bool:
    """Tell whether an empty line comes before a part: calls stand together, and notes."""
    return not (
        (isinstance(last, Call) and isinstance(part, Call))
        or (isinstance(last, Note) and isinstance(part, Note))
    )


class PlainScreen:
    """One answer as plain text, in the order in which it comes: for files and pipes."""

    def __init__(self, file: IO[str], answer: Answer) -> None:
        self._file = file
        self._answer = answer
        self._written: dict[int, int] = {}
        self._said: dict[int, str] = {}
        self._is_inside = False
        self._resets = answer.resets

    def begin(self) -> None:
        """Nothing is under way that a file could show."""

    def add(self, event: Event) -> None:
        self._answer.add(event)
        self.show()

    def show(self) -> None:
        if self._answer.resets != self._resets:
            self._resets = self._answer.resets
            self._written.clear()
            self._said.clear()
        for number, part in enumerate(parts_of(self._answer)):
            self._write(number, part)
        self._file.flush()

    def draw(self) -> None:
        """All is written as it comes."""

    def end(self) -> None:
        self._end_line()
        self._file.flush()

    def _write(self, number: int, part: Shown) -> None:
        if isinstance(part, Words):
            new = clean(part.text[self._written.get(number, 0) :])
            if number not in self._written and new:
                self._end_line()
            self._written[number] = len(part.text)
            self._file.write(new)
            if new:
                self._is_inside = not new.endswith("\n")
            return
        line = plain(part)
        if line and self._said.get(number) != line:
            self._said[number] = line
            self._end_line()
            self._file.write(line + "\n")

    def _end_line(self) -> None:
        if self._is_inside:
            self._file.write("\n")
            self._is_inside = False


Screen: TypeAlias = LiveScreen | PlainScreen


def plain(part: Shown) -> str:
    """Return what is said of a part in one line; text is none."""
    match part:
        case Call(state="queued" | "running"):
            so_far = f" {part.progress:g}/{part.total:g} {note_of(part)}" if part.total else ""
            said = f"{part.state}: {arguments_shown(part.arguments)}{so_far}"
            return f"[{one_line(part.name)}] {said}".rstrip()
        case Call():
            took = "" if part.duration_ms is None else f" in {duration(part.duration_ms / 1000)}"
            return f"[{one_line(part.name)}] {part.state}{took}: {note_of(part)}"
        case Words():
            return ""
        case Note():
            return f"[{part.text}]"
        case _:
            return f"[{one_line(part.name)}] {one_line(part.message)} {part.done}/{part.total}"


def printed(console: Console, parts: list[Shown]) -> None:
    """Print parts that are settled."""
    last: Shown | None = None
    for part in parts:
        _print(console, last, part)
        last = part


def _print(console: Console, last: Shown | None, part: Shown) -> None:
    if _is_apart(last, part):
        console.print()
    console.print(view(part))
