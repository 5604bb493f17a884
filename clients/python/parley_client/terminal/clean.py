"""Text of others is data: what a terminal would obey is taken out.

That is every control character but line feed and tab (escape begins a sequence, a carriage return
overwrites a line, C1 has sequences of its own), what turns the direction of text around, the
characters nobody sees, and lone surrogates, which no encoding carries.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def clean(text: str) -> str:
    """Return `text` without anything that a terminal obeys; CRLF becomes LF."""
    return _UNSAFE.sub("", text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """Return it on one line, each run of white space one space."""
    return " ".join(clean(text).split())


def shown(value: Any, limit: int = 2000) -> str:
    """Return JSON as a short text on one line; a string stands for itself."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return one_line(text[:limit])


def arguments_shown(arguments: Any) -> str:
    """Return the arguments of a call as `name=value`, on one line."""
    if not isinstance(arguments, dict):
        return shown(arguments)
    pairs = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items())
    return one_line(", ".join(pairs)[:2000])


class Safe:
    """A renderable whose text is cleaned as it is drawn, whatever a renderer made of it.

    Markdown, say, has spellings for characters that its source does not hold.
    """

    def __init__(self, inner: RenderableType) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Segment]:
        for segment in console.render(self._inner, options):
            if segment.control is None:
                yield Segment(clean(segment.text), segment.style)
