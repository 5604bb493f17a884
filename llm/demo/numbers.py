"""Numbers in English words: "one hundred and five", "twenty-seven", "2.5 million".

A number is a run of word tokens, read left to right: units and tens add up to a group, a scale
(hundred, thousand, …) multiplies it. Two words that cannot stand in one number ("one two") are
two numbers.
"""

from collections.abc import Sequence

from llm.demo.words import words

_SMALL = {
    word: value
    for value, word in enumerate(
        words(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen "
            "fourteen fifteen sixteen seventeen eighteen nineteen"
        )
    )
} | {
    word: value * 10
    for value, word in enumerate(
        words("twenty thirty forty fifty sixty seventy eighty ninety"), start=2
    )
}
_SCALES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 1_000,
    "million": 1_000_000,
    "billion": 1_000_000_000,
    "trillion": 1_000_000_000_000,
}
ORDINALS = {
    word: value
    for value, word in enumerate(
        words("second third fourth fifth sixth seventh eighth ninth tenth"), start=2
    )
}
WORDS = frozenset(_SMALL) | frozenset(_SCALES)
_MAX_DIGITS = 15


def read_number(spoken: Sequence[str]) -> tuple[str, int]:
    """Read the number at the start of `spoken`, as digits, and how many spoken it took.

    Args:
        spoken: lower-case tokens; digits ("2.5") may come first, before a scale.

    Returns:
        `("", 0)` where no number starts.
    """
    if not spoken:
        return "", 0
    if spoken[0][0].isdecimal() or spoken[0][0] == ".":
        return _digits(spoken)
    whole, taken = _whole(spoken)
    if not taken:
        return "", 0
    fraction, more = _fraction(spoken[taken:])
    return f"{whole}{fraction}", taken + more


def _digits(spoken: Sequence[str]) -> tuple[str, int]:
    digits = spoken[0].replace(",", "")
    scale = _SCALES.get(spoken[1]) if len(spoken) > 1 else None
    if scale is None or len(digits) > _MAX_DIGITS:
        return digits, 1
    return (f"{float(digits) * scale:.15g}" if "." in digits else str(int(digits) * scale)), 2


def _and_joins(total: int, group: int, spoken: Sequence[str]) -> bool:
    """Tell "one hundred and five", which is one number, from "five and six"."""
    if spoken[0] != "and" or total + group < 100 or group % 100:
        return False
    return bool(_SMALL.get("".join(spoken[1:2])))


def _whole(spoken: Sequence[str]) -> tuple[int, int]:
    total, group, taken = 0, 0, 0
    for position, word in enumerate(spoken):
        if taken == position and _and_joins(total, group, spoken[position:]):
            continue
        if word in _SMALL and (position == 0 or _has_room(group, _SMALL[word])):
            group += _SMALL[word]
        elif word in _SCALES and (position == 0 or group):
            group = (group or 1) * _SCALES[word]
            if group >= 1_000:
                total, group = total + group, 0
        else:
            break
        taken = position + 1
    return total + group, taken


def _has_room(group: int, value: int) -> bool:
    """Whether `value` can follow: a unit after tens, anything after hundreds."""
    if value < 10:
        return value > 0 and group % 10 == 0 and group % 100 != 10
    return group % 100 == 0


def _fraction(spoken: Sequence[str]) -> tuple[str, int]:
    """Read "point five two" after the whole part."""
    if not spoken or spoken[0] != "point":
        return "", 0
    digits = ""
    for word in spoken[1:]:
        if _SMALL.get(word, 10) > 9:
            break
        digits += str(_SMALL[word])
    return (f".{digits}", 1 + len(digits)) if digits else ("", 0)
