"""Taking out of a provider's reason what people said, so that it may be logged.

A reason may quote what was sent, whole or in parts, with or without quotation marks.
"""

import re

RUN = 3
"""So many words in a row that were said are a quotation, however ordinary they are."""

HIDDEN = "[…]"

_WORD = re.compile(r"\w+")


def without_quotes(reason: str, said: str, ordinary: str) -> str:
    """Return a reason with `HIDDEN` for each word and each run of words that was said.

    `ordinary`: a text whose words tell nothing of anybody, so that they may stay.
    """
    spoken = _words(said)
    telling = {*spoken} - {*_words(ordinary)}
    runs = {*zip(*(spoken[at:] for at in range(RUN)), strict=False)}
    words = _words(reason)
    hidden = {at for at, word in enumerate(words) if word in telling}
    for at in range(len(words) - RUN + 1):
        if tuple(words[at : at + RUN]) in runs:
            hidden.update(range(at, at + RUN))
    spans = [found.span() for found in _WORD.finditer(reason)]
    return _without(reason, [spans[at] for at in sorted(hidden)])


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    """Return a text without some spans; those with no word between them are one."""
    pieces: list[str] = []
    end = 0
    for start, stop in spans:
        between = text[end:start]
        if not pieces or _WORD.search(between):
            pieces += [between, HIDDEN]
        end = stop
    return "".join([*pieces, text[end:]])
