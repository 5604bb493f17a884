"""How the parts of an answer look. All text of others passes `Safe` on its way."""

import time
from collections.abc import Iterable

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.markdown import Markdown
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from parley_client.answer import Call, Stage, Words
from parley_client.terminal.answer import Note, Shown, note_of
from parley_client.terminal.clean import Safe, arguments_shown, clean, one_line

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_NOTES = {"info": ("", "dim"), "warning": ("■ ", "yellow"), "failure": ("✗ ", "red")}
_MARGIN = (0, 2, 0, 2)
_BAR = 20
_WIDTH = 100
"""Columns that a line of text has at most; longer ones are hard to read."""

_parser = MarkdownIt("commonmark").enable("table")


def spinner() -> str:
    return _FRAMES[int(time.monotonic() * 12) % len(_FRAMES)]


def duration(seconds: float) -> str:
    """Return seconds as people read them."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def finished_length(text: str) -> int:
    """Return how much of a growing Markdown text will stay as it is: all but its last block."""
    starts = [token.map[0] for token in _parser.parse(text) if token.level == 0 and token.map]
    if len(starts) < 2:
        return 0
    lines = text.splitlines(keepends=True)
    return sum(len(line) for line in lines[: starts[-1]])


def view(part: Shown) -> RenderableType:
    match part:
        case Words():
            inner = words(clean(part.text), is_reasoning=part.is_reasoning)
        case Call():
            inner = _call(part)
        case Stage():
            inner = _stage(part)
        case Note():
            mark, style = _NOTES[part.kind]
            inner = Text(mark + part.text, style=style)
    return Safe(Padding(inner, _MARGIN))


def words(text: str, *, is_reasoning: bool) -> RenderableType:
    """Return a text: an answer's as Markdown, reasoning dim and as it is."""
    if is_reasoning:
        return Narrow(Text(text.strip(), style="dim italic"))
    # A link's address is shown, and not hidden in an escape sequence.
    return Narrow(Markdown(text, code_theme="ansi_dark", hyperlinks=False))


class Narrow:
    """A renderable that is not wider than a text should be, without empty lines around it."""

    def __init__(self, inner: RenderableType) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Segment]:
        narrow = options.update(width=min(options.max_width, _WIDTH), height=None)
        lines = console.render_lines(self._inner, narrow, pad=False)
        full = [at for at, line in enumerate(lines) if any(each.text.strip() for each in line)]
        for line in lines[full[0] : full[-1] + 1] if full else []:
            yield from line
            yield Segment.line()


class Tail:
    """A renderable of which only the last lines are shown, so many."""

    def __init__(self, inner: RenderableType, height: int) -> None:
        self._inner = inner
        self._height = max(height, 1)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Segment]:
        free = options.update(height=None)
        for line in console.render_lines(self._inner, free, pad=False)[-self._height :]:
            yield from line
            yield Segment.line()


def _call(call: Call) -> RenderableType:
    mark, style = {
        "queued": ("◌", "dim"),
        "running": (spinner(), "cyan"),
        "done": ("✓", "green"),
        "failed": ("✗", "red"),
    }[call.state]
    head = Table.grid(padding=(0, 1), expand=True)
    head.add_column(width=1)
    head.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    head.add_column(justify="right", no_wrap=True)
    title = Text(one_line(call.name), style="bold" if call.state != "queued" else "dim")
    if call.arguments:
        title.append(f"  {arguments_shown(call.arguments)}", style="dim")
    head.add_row(Text(mark, style=style), title, Text(_time_of(call), style=style))
    rows: list[RenderableType] = [head]
    said = note_of(call)
    if call.state == "running" and call.total:
        rows.append(_bar(call.progress, call.total, said))
    elif said and call.state != "queued":
        color = "red" if call.state == "failed" else "dim"
        note = Text(f"  ↳ {said}", style=color, no_wrap=True, overflow="ellipsis")
        rows.append(note)
    return Narrow(Group(*rows))


def _time_of(call: Call) -> str:
    if call.state == "queued":
        return "queued"
    if call.state == "running":
        return f"running {max(0.0, time.time() - (call.started or time.time())):.1f} s"
    if call.duration_ms is None:
        return "not executed" if call.state == "failed" else ""
    return duration(call.duration_ms / 1000)


def _stage(stage: Stage) -> RenderableType:
    mark = Text("✓", style="green") if stage.is_over else Text(spinner(), style="cyan")
    head = Text.assemble(
        mark, " ", (one_line(stage.name), "bold"), (f"  {one_line(stage.message)}", "dim")
    )
    head.no_wrap, head.overflow = True, "ellipsis"
    if stage.is_over or not stage.total:
        return Narrow(head)
    return Narrow(Group(head, _bar(stage.done, stage.total, "")))


def _bar(done: float, total: float, note: str) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column(width=_BAR)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    bar = ProgressBar(total=total, completed=min(done, total), width=_BAR)
    grid.add_row("", bar, Text(f"{done:g}/{total:g}", style="cyan"), Text(note, style="dim"))
    return grid
