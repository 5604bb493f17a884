"""What a person types: lines at a prompt, and Ctrl-C while something is under way."""

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.styles import Style


class Leave(Exception):
    """The person wants to leave."""


class TerminalPrompt:
    """A prompt that completes `commands`; `toolbar` returns the line below it, in styled pieces."""

    def __init__(self, toolbar: Callable[[], list[tuple[str, str]]], commands: list[str]) -> None:
        self._session: PromptSession[str] = PromptSession(
            [("class:prompt", "❯ ")],
            bottom_toolbar=lambda: FormattedText(toolbar()),
            completer=WordCompleter(commands, sentence=True),
            complete_while_typing=False,
            key_bindings=_bindings(),
            multiline=False,
            prompt_continuation="  ",
            refresh_interval=0.5,
            style=Style.from_dict(
                {
                    "prompt": "ansicyan bold",
                    "bottom-toolbar": "noreverse ansibrightblack",
                    "good": "ansigreen",
                    "bad": "ansiyellow",
                }
            ),
        )

    async def line(self) -> str:
        """Return what was typed. Ctrl-C clears it; with nothing typed, or at Ctrl-D: `Leave`."""
        while True:
            try:
                return await self._session.prompt_async()
            except KeyboardInterrupt:
                if not self._session.default_buffer.text:
                    raise Leave from None
            except EOFError:
                raise Leave from None


def _bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings


class Lines:
    """Lines of a pipe or a file, as they are; a thread reads them, because it may block."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[str | None] = asyncio.Queue(maxsize=1)
        self._reader: threading.Thread | None = None

    async def line(self) -> str:
        """Return the next line; raises `Leave` after the last one."""
        if self._reader is None:
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()
        line = await self._lines.get()
        if line is None:
            raise Leave
        return line

    def _read(self) -> None:
        try:
            for line in sys.stdin:
                self._put(line.rstrip("\n"))
            self._put(None)
        except RuntimeError:
            return  # the program ends, and its loop is closed

    def _put(self, line: str | None) -> None:
        asyncio.run_coroutine_threadsafe(self._lines.put(line), self._loop).result()


@contextmanager
def interrupts(called: Callable[[], None]) -> Iterator[None]:
    """Call this, and do nothing else, at each Ctrl-C while the body runs."""
    loop = asyncio.get_running_loop()
    before = signal.signal(signal.SIGINT, lambda *_: loop.call_soon_threadsafe(called))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def silent_keys() -> Iterator[None]:
    """Do not echo what is typed while the body draws; it is there for the next prompt."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    import termios  # Windows has none

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    silent = termios.tcgetattr(terminal)
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
