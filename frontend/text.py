"""Text of models, tools and users, made safe to show: it is data, and loads nothing.

Streamlit shows no raw HTML, but it does load the images of Markdown, in texts as in labels; the
address of an image can carry away what was said. So:

* No image is left in Markdown: the `!` and the `[` that begin each one are parted by a word joiner,
  which nobody sees. A link stays, that somebody may follow.
* That happens wherever the two characters stand, because only a parser of Markdown can tell what
  is code. What is taken for a block of code here goes to `st.code`, which knows no Markdown; a
  mistake about it can spoil the looks only.
* In a label every character that could mean something is escaped.
"""

import re
from dataclasses import dataclass

_FENCE = re.compile(r"( *+)(`{3,}+|~{3,}+)([^`]*+)")
_SPAN = re.compile(r"(?<!`)(`++)[^`]++\1(?!`)")
_DOLLAR = re.compile(r"(?<!\\)\$")
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_JOINER = "\u2060"


@dataclass(frozen=True)
class Prose:
    """Markdown without images and blocks of code."""

    text: str


@dataclass(frozen=True)
class Code:
    """A block of code; `language` is what its author called it, perhaps nothing."""

    text: str
    language: str


def pieces(text: str) -> list[Prose | Code]:
    """Return Markdown as prose and blocks of code, in order. A block may lack its end."""
    found: list[Prose | Code] = []
    prose: list[str] = []
    lines = iter(text.split("\n"))
    for line in lines:
        fence = _FENCE.fullmatch(line)
        if fence is None:
            prose.append(line)
            continue
        _add_prose(found, prose)
        indent, mark, info = fence.groups()
        code = []
        for inner in lines:
            if _closes(inner, mark):
                break
            code.append(inner.removeprefix(indent))
        found.append(Code("\n".join(code), (info.split() or [""])[0]))
    _add_prose(found, prose)
    return found


def plain(text: str) -> str:
    """Return text as a label that shows exactly these characters, on one line."""
    return _PUNCTUATION.sub(r"\\\1", " ".join(text.split()))


def _closes(line: str, mark: str) -> bool:
    said = line.strip()
    return len(said) >= len(mark) and set(said) == {mark[0]}


def _add_prose(found: list[Prose | Code], lines: list[str]) -> None:
    text = "\n".join(lines)
    lines.clear()
    if text.strip():
        found.append(Prose(_without_formulas(text).replace("![", f"!{_JOINER}[")))


def _without_formulas(text: str) -> str:
    """Return text in which a `$` is a dollar: between two prices stands no formula."""
    parts, end = [], 0
    for span in _SPAN.finditer(text):
        parts += [_DOLLAR.sub(r"\\$", text[end : span.start()]), span[0]]
        end = span.end()
    return "".join([*parts, _DOLLAR.sub(r"\\$", text[end:])])
