"""Arithmetic on text that a model wrote, without Python's evaluator.

The grammar, loosest first; everything else is an error::

    sum      = product (("+" | "-") product)*
    product  = sign (("*" | "/" | "//" | "%") sign)*
    sign     = ("+" | "-") sign | power
    power    = percent ("**" sign)?
    percent  = primary ("%" ("of" sign)?)?
    primary  = number | constant | function "(" sum ("," sum)* ")" | "(" sum ")"

`^` is `**`; `×`, `·`, `÷` and `−` are what they look like. On what both accept, the value is
Python's: integers are exact, `/` and decimals are floats.

* `%` is the remainder where an operand follows it (`17 % 5`), else it is percent, a hundredth
  of what stands before it; `15% of 240` is 15 × 240 / 100. Two forms that people read in two
  ways are refused with the ways to say it: `200 + 10%` (20 or 0.1?) and `10% + 5`.
* `1,234,567` is one number, but a comma inside a function's parentheses parts arguments.
* Only finite real numbers exist: no text, no truth values, no names but the tables'.

Nothing here can take long: the text, its nesting and every intermediate integer are bounded,
and a size is checked before the operation that would build it.
"""

import re
from typing import NamedTuple, NoReturn

import msgspec

from errors import ToolError
from tools.arithmetic import CONSTANTS, FUNCTIONS, Number, applied, called, checked
from tools.tool import idempotent

MAX_CHARS = 256
MAX_DEPTH = 50

_EXACT_IN_JSON = 2**53


class Calculation(msgspec.Struct, frozen=True):
    """What an expression is worth.

    `result` is a number, or the digits of an integer too large for a JSON number (over 2^53).
    """

    expression: str
    result: int | float | str


@idempotent
def calculate(expression: str) -> Calculation:
    """Evaluate an arithmetic expression exactly as written, and return the number.

    Knows + - * / // % ** (or ^), parentheses, percentages ("15% of 240"), the constants pi, e
    and tau, and the functions abs, acos, acosh, asin, asinh, atan, atan2, atanh, cbrt, ceil,
    comb, cos, cosh, degrees, exp, factorial, floor, gcd, hypot, lcm, ln, log (natural, or with
    a base), log10, log2, max, min, perm, pow, radians, round, sin, sinh, sqrt, tan, tanh and
    trunc. Angles are in radians.

    Args:
        expression: The expression, at most 256 characters, for example "sqrt(2) * 3^4".
    """
    text = expression.strip()
    if not text:
        raise ToolError("The expression is empty.")
    if len(text) > MAX_CHARS:
        raise ToolError(f"The expression is longer than {MAX_CHARS} characters.")
    value = _Parser(_tokens(text)).value()
    if isinstance(value, int) and abs(value) > _EXACT_IN_JSON:
        return Calculation(text, str(value))
    return Calculation(text, value)


# From text to tokens.


class _Token(NamedTuple):
    """`kind` is "number", "name", "end", or the operator itself."""

    kind: str
    text: str


_SPELLINGS = str.maketrans(
    {"^": "**", "×": "*", "·": "*", "⋅": "*", "∗": "*", "÷": "/", "∕": "/", "−": "-", "–": "-"}
    | {"π": "pi", "τ": "tau", "\N{NO-BREAK SPACE}": " ", "\N{NARROW NO-BREAK SPACE}": " "}
)
_TOKEN = re.compile(
    r"(?P<space>[ \t\r\n]+)"
    r"|(?P<number>(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>(?:math\.)?[A-Za-z][A-Za-z0-9_]*)"
    r"|(?P<operator>\*\*|//|[-+*/%(),])"
)
_GROUPED = re.compile(r"[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9,])(?:\.[0-9]+)?")


def _tokens(text: str) -> list[_Token]:
    text = text.translate(_SPELLINGS)
    tokens = [_Token("start", "")]
    calls: list[bool] = []
    at = 0
    while at < len(text):
        grouped = None if any(calls) else _GROUPED.match(text, at)
        match = grouped or _TOKEN.match(text, at)
        if match is None:
            raise ToolError(f"The expression contains {text[at]!r}, which is not arithmetic.")
        kind = "number" if grouped else str(match.lastgroup)
        at = match.end()
        token = _Token(match[0] if kind == "operator" else kind, match[0])
        if token.kind == "(":
            calls.append(tokens[-1].kind == "name")
        elif token.kind == ")" and calls:
            calls.pop()
        if kind != "space":
            tokens.append(token)
    return [*tokens[1:], _Token("end", "")]


def _number(text: str) -> Number:
    digits = text.replace(",", "").replace("_", "")
    return int(digits) if digits.isdigit() else checked(float(digits))


# From tokens to a value.


class _Parser:
    """Recursive descent that computes as it reads; each method is a rule of the grammar."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self._percent: tuple[int, int] | None = None  # the tokens of the last bare percentage

    def value(self) -> Number:
        value = self._sum()
        if self._kind != "end":
            self._unexpected()
        return value

    @property
    def _kind(self) -> str:
        return self._tokens[self._at].kind

    def _take(self) -> _Token:
        self._at += 1
        return self._tokens[self._at - 1]

    def _expect(self, kind: str) -> None:
        if self._take().kind != kind:
            self._at -= 1
            self._unexpected()

    def _unexpected(self) -> NoReturn:
        token = self._tokens[self._at]
        if token.kind == "end":
            raise ToolError("The expression ends too early.")
        raise ToolError(f"{token.text!r} is not expected where it stands in the expression.")

    def _sum(self) -> Number:
        value = self._product()
        while self._kind in ("+", "-"):
            sign = self._take().kind
            start = self._at
            operand = self._product()
            if self._percent == (start, self._at):
                raise ToolError(
                    f"A percentage after {sign} has two readings. Write 'a {sign} p% of a' "
                    f"or 'a {sign} (p%)'."
                )
            value = applied(sign, value, operand)
        return value

    def _product(self) -> Number:
        value = self._sign()
        while self._kind in ("*", "/", "//", "%"):
            value = applied(self._take().kind, value, self._sign())
        return value

    def _sign(self) -> Number:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ToolError(f"The expression is nested deeper than {MAX_DEPTH} levels.")
        if self._kind in ("+", "-"):
            start = self._at
            sign = self._take().kind
            operand = self._sign()
            value = -operand if sign == "-" else operand
            if self._percent == (start + 1, self._at):
                self._percent = (start, self._at)
        else:
            value = self._power()
        self._depth -= 1
        return value

    def _power(self) -> Number:
        base = self._percentage()
        if self._kind != "**":
            return base
        self._take()
        return applied("**", base, self._sign())

    def _percentage(self) -> Number:
        start = self._at
        value = self._primary()
        if self._kind != "%" or self._is_remainder():
            return value
        self._take()
        if self._tokens[self._at] == _Token("name", "of"):
            self._take()
            return applied("/", applied("*", value, self._sign()), 100)
        self._percent = (start, self._at)
        return applied("/", value, 100)

    def _is_remainder(self) -> bool:
        """Whether the `%` at hand has a right operand."""
        after = self._tokens[self._at + 1]
        if after.kind in ("+", "-"):
            raise ToolError(
                f"'% {after.kind}' has two readings. Write '(p%) {after.kind} b' for a "
                f"percentage, 'a % ({after.kind}b)' for a remainder."
            )
        return after.kind in ("number", "(") or (after.kind == "name" and after.text != "of")

    def _primary(self) -> Number:
        if self._kind == "number":
            return _number(self._take().text)
        if self._kind == "name":
            return self._named(self._take().text)
        self._expect("(")
        value = self._sum()
        self._expect(")")
        return value

    def _named(self, name: str) -> Number:
        key = name.lower().removeprefix("math.")
        if key in CONSTANTS:
            return CONSTANTS[key]
        if key not in FUNCTIONS:
            known = ", ".join([*CONSTANTS, *FUNCTIONS])
            raise ToolError(f"{name!r} is not known here. Known names: {known}.")
        self._expect("(")
        arguments = [self._sum()]
        while self._kind == ",":
            self._take()
            arguments.append(self._sum())
        self._expect(")")
        return called(key, arguments)
