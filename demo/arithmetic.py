"""Arithmetic in a sentence, written as expressions for `calculate`, whose grammar decides.

Patterns turn words into signs one after the other ("the sum of fifteen and 27" is `(15 + 27)`);
then what stands together in digits, signs and functions is an expression. What looks like a date, a
range or an exclamation ("24/7", "25!") counts only where the words before it ask for a result.

Every repetition in a pattern is bounded or can be read in one way only, so reading is linear.
"""

import re
from collections.abc import Callable, Iterator

_split = re.compile(r"\w+").findall
_SMALL = _split(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen"
)
_TENS = _split("twenty thirty forty fifty sixty seventy eighty ninety")
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_WORTH = {word: value for value, word in enumerate(_SMALL)} | {"a": 1, "and": 0}
_WORTH |= {word: value * 10 for value, word in enumerate(_TENS, start=2)}

_FUNCTION = "(?:abs|cbrt|ceil|cos|exp|factorial|floor|ln|log|max|min|pow|round|sin|sqrt|tan)"
_NUMBER = r"(?<![0-9.])(?:[0-9]{1,3}(?:,[0-9]{3}){1,5}(?![0-9])|[0-9]+)(?:\.[0-9]+)?"
_VALUE = rf"(?:-?{_NUMBER}|(?:\b{_FUNCTION})?\([^()]{{1,80}}\)|\bpi\b)"
_LIST = rf"({_VALUE}(?:(?:,? and |, ?| by | to | from | with ){_VALUE}){{1,20}})"
_WORD = (
    rf"(?:(?:{'|'.join(_TENS)})(?:[\s-](?:{'|'.join(_SMALL[1:10])})\b)?|(?:{'|'.join(_SMALL)})\b)"
)
_SCALE = rf"(?:{'|'.join(_SCALES)})\b"

_ASKING = frozenset(
    _split(
        "what s is are calculate compute evaluate solve how much many does the value result of"
        " please can could you tell me and hey hi also then now answer to i need want know so ok"
    )
)
_RUN = re.compile(rf"(?i)(?:\b{_FUNCTION}(?=\()|\bpi\b|%\s*of\b|[-+*/%^(),.0-9−–×÷·π\s])+")
_OPERATION = re.compile(r"(?:[0-9)%π]|pi)\s*(?:[-+*/^−–×÷·]|%\s*(?:of\b|[0-9(]))|[a-z]\(")


def replace_arithmetic(text: str, mark: Callable[[str], str]) -> str:
    """Return `text` with `mark(expression)` in the place of each piece of arithmetic."""
    for _ in range(2):  # "half of the sum of 3 and 4" takes two rounds
        for pattern, replacement in _PHRASES:
            text = pattern.sub(replacement, text)
    return _RUN.sub(lambda run: "".join(map(mark, _expressions(run))) or run[0], text)


def _expressions(run: re.Match[str]) -> Iterator[str]:
    """Yield what is to be calculated in a run of digits, signs and functions."""
    text = run[0].strip(" \t\n,.")
    start = run.start() + run[0].index(text)
    before, after = run.string[:start], run.string[start + len(text) :]
    if re.match(r"[\w$€£#]", before[-1:]) or re.match(r"\w", after):
        return
    if re.fullmatch(r"[0-9]+(?:[-/.][0-9]+)+", text) and not _is_asked(before):
        return
    for part in re.split(r",(?![0-9]{3})(?![^()]{0,80}\))", text):
        expression = part.rstrip("*/^+-–−(,. \t\n").lstrip("*/^%+,.) \t\n")
        if expression.count(")") > expression.count("("):
            expression = expression.removesuffix(")")
        if whole := re.fullmatch(r"\(((?:[^()]|\([^()]*\))*)\)", expression):
            expression = whole[1]
        if _OPERATION.search(expression):
            spaced = re.sub(r"(?<=[0-9)%iπ])\s*(\*\*|//|[-+*/])\s*", r" \1 ", expression)
            # "80 plus 20%" means a fifth of the 80; `calculate` would ask what is meant.
            yield _PERCENT_MORE.sub(r"\1 * (100 \2 \3) / 100", spaced)


def _is_asked(before: str) -> bool:
    """Whether the clause before an expression has no words but those that ask for a result."""
    words = re.findall(r"[^\W\d]+", re.split(r"[.?!,;:\n]", before[-200:].lower())[-1])
    return _ASKING.issuperset(words)


def _digits(spoken: re.Match[str]) -> str:
    total = group = 0.0
    for word in re.split(r"[\s-]+", spoken[0].lower()):
        scale = _SCALES.get(word, 1)
        if scale == 1:
            group += _WORTH[word] if word in _WORTH else float(word)
        elif scale == 100:
            group *= scale
        else:
            total, group = total + group * scale, 0.0
    return f"{total + group:.15g}"


def _exclamation(match: re.Match[str]) -> str:
    """Read the "5!" at a message's end as a factorial, unless the "!" only ends the sentence."""
    before = match.string[: match.start()]
    is_operand = re.search(r"[-+*/%^]\s?$", before[-2:])
    is_meant = "factorial" in before if is_operand else _is_asked(before)
    return f"factorial({match[1]})" if is_meant else match[0]


def _joined(form: Callable[[list[str]], str]) -> Callable[[re.Match[str]], str]:
    return lambda match: f"({form(re.findall(rf'(?i){_VALUE}', match[1]))})"


_PERCENT_MORE = re.compile(rf"^({_NUMBER}) ([-+]) ({_NUMBER})%$")
_BINARY = {
    "plus|added to": "+",
    "minus|take away": "-",
    r"times|multiplied by|x(?=\s?[0-9(])": "*",
    "divided by": "/",
    "mod|modulo": "%",
    "(?:raised )?to the power(?: of)?|raised to": "**",
}
_PREFIX = {
    "square root of|√|sqrt of": r"sqrt(\1)",
    "cube root of": r"cbrt(\1)",
    "factorial of": r"factorial(\1)",
    "half of": r"(\1 / 2)",
    "double|twice": r"(2 * \1)",
}
_LISTS: dict[str, Callable[[list[str]], str]] = {
    "sum of|add": " + ".join,
    "product of|multiply": " * ".join,
    "difference (?:between|of)": " - ".join,
    "divide": " / ".join,
    "subtract": lambda values: " - ".join(values[::-1]),
    "average of|mean of": lambda values: f"({' + '.join(values)}) / {len(values)}",
}
_SPOKEN = rf"(?:{_WORD}|(?:a|{_NUMBER})(?=\s{_SCALE}))(?:\s{_SCALE}(?:\s(?:and\s)?{_WORD})?){{0,8}}"
_LEFT = r"(?:(?<=[0-9)%!])|(?<=\bpi))\s?"
_FORMS: dict[str, str | Callable[[re.Match[str]], str]] = {
    rf"\b{_SPOKEN}": _digits,
    **{rf"{_LEFT}(?:{words})(?![^\W0-9])\s?": f" {sign} " for words, sign in _BINARY.items()},
    r"\b(?:minus|negative)\s(?=[0-9])": "-",
    r"(?<=[0-9])\s?per ?cent\b": "%",
    rf"({_NUMBER})%\s?off\s({_VALUE})": r"(\2 * (100 - \1) / 100)",
    rf"({_VALUE}) squared\b": r"\1 ** 2",
    rf"({_VALUE}) cubed\b": r"\1 ** 3",
    rf"({_VALUE}) factorial\b": r"factorial(\1)",
    **{rf"(?:the )?(?:{words})\s?({_VALUE})": form for words, form in _PREFIX.items()},
    **{rf"\b(?:the )?(?:{words})\s{_LIST}": _joined(form) for words, form in _LISTS.items()},
    r"\b([0-9]{1,5})!(?!\w|[\s!?.]{0,9}$)": r"factorial(\1)",
    r"\b([0-9]{1,5})!(?=[\s!?.]{0,9}$)": _exclamation,
}
_PHRASES = [(re.compile(f"(?i){pattern}"), form) for pattern, form in _FORMS.items()]
