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

import math
import operator
import re
from collections.abc import Callable
from typing import NamedTuple, NoReturn, TypeAlias

import msgspec

from errors import ToolError
from tools.tool import idempotent

MAX_CHARS = 256
MAX_DEPTH = 50
MAX_BITS = 14_000
"""The bound on integers: at most 4,215 digits, which Python still turns into text."""

_EXACT_IN_JSON = 2**53

Number: TypeAlias = int | float


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
    return int(digits) if digits.isdigit() else _checked(float(digits))


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
        token = self._tokens[self._at]
        self._at += 1
        return token

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
            value = _apply(sign, value, operand)
        return value

    def _product(self) -> Number:
        value = self._sign()
        while self._kind in ("*", "/", "//", "%"):
            value = _apply(self._take().kind, value, self._sign())
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
        return _apply("**", base, self._sign())

    def _percentage(self) -> Number:
        start = self._at
        value = self._primary()
        if self._kind != "%" or self._is_remainder():
            return value
        self._take()
        if self._tokens[self._at] == _Token("name", "of"):
            self._take()
            return _apply("/", _apply("*", value, self._sign()), 100)
        self._percent = (start, self._at)
        return _apply("/", value, 100)

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
        token = self._tokens[self._at]
        if token.kind == "number":
            self._at += 1
            return _number(token.text)
        if token.kind == "name":
            self._at += 1
            return self._named(token.text)
        self._expect("(")
        value = self._sum()
        self._expect(")")
        return value

    def _named(self, name: str) -> Number:
        key = name.lower().removeprefix("math.")
        if key in _CONSTANTS:
            return _CONSTANTS[key]
        if key not in _FUNCTIONS:
            known = ", ".join([*_CONSTANTS, *_FUNCTIONS])
            raise ToolError(f"{name!r} is not known here. Known names: {known}.")
        self._expect("(")
        arguments = [self._sum()]
        while self._kind == ",":
            self._take()
            arguments.append(self._sum())
        self._expect(")")
        return _call(key, arguments)


# From operands to results, each checked before it is built.


def _apply(symbol: str, left: Number, right: Number) -> Number:
    try:
        return _checked(_OPERATORS[symbol](left, right))
    except ZeroDivisionError:
        raise ToolError("The expression divides by zero.") from None
    except OverflowError:
        raise _too_large() from None


def _call(name: str, arguments: list[Number]) -> Number:
    function = _FUNCTIONS[name]
    if not function.least <= len(arguments) <= function.most:
        takes = f"{function.least}" + ("" if function.most == function.least else " or more")
        raise ToolError(f"{name} takes {takes} argument(s), not {len(arguments)}.")
    try:
        return _checked(function.apply(*arguments))
    except ZeroDivisionError:
        raise ToolError("The expression divides by zero.") from None
    except OverflowError:
        raise _too_large() from None
    except ValueError:
        raise ToolError(f"{name} is not defined for these arguments.") from None
    except TypeError:
        raise ToolError(f"{name} takes whole numbers only.") from None


def _checked(value: Number | complex) -> Number:
    """Return `value`, a finite real number within the bounds."""
    if isinstance(value, complex):
        raise ToolError("The result is not a real number.")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _too_large()
    else:
        _fits(value.bit_length())
    return value


def _fits(bits: float) -> None:
    """Refuse an integer of more than `MAX_BITS` before somebody builds it."""
    if bits > MAX_BITS:
        raise _too_large()


def _too_large() -> ToolError:
    return ToolError("A result on the way is too large to calculate.")


def _multiply(left: Number, right: Number) -> Number:
    if isinstance(left, int) and isinstance(right, int):
        _fits(left.bit_length() + right.bit_length() - 1)
    return left * right


def _power(base: Number, exponent: Number) -> Number | complex:
    if isinstance(base, int) and isinstance(exponent, int) and abs(base) > 1 and exponent > 0:
        _fits(exponent)
        _fits(math.log2(abs(base)) * exponent)
    result: Number | complex = base**exponent
    return result


def _factorial(n: Number) -> int:
    _fits(n)
    if n > 1:
        _fits(math.lgamma(n + 1) / math.log(2))
    return math.factorial(n)  # type: ignore[arg-type]  # a float raises TypeError, as meant


def _comb(n: Number, k: Number) -> int:
    chosen = min(k, n - k)
    if chosen > 0:
        # comb(n, k) is at most (e n / k)^k.
        _fits(chosen * (math.log2(n) + math.log2(math.e) - math.log2(chosen)))
    return math.comb(n, k)  # type: ignore[arg-type]  # a float raises TypeError, as meant


def _perm(n: Number, k: Number | None = None) -> int:
    if k is None:
        return _factorial(n)
    if 0 < k <= n:
        # The last of the k factors is at least 1, the others at least 2.
        _fits(k - 1)
        _fits(k * math.log2(n))
    return math.perm(n, k)  # type: ignore[arg-type]  # a float raises TypeError, as meant


def _lcm(*numbers: int) -> int:
    _fits(sum(number.bit_length() for number in numbers if isinstance(number, int)))
    return math.lcm(*numbers)


def _round(number: Number, digits: Number | None = None) -> Number:
    if digits is None:
        return round(number)
    if not isinstance(digits, int):
        raise TypeError
    if abs(digits) > MAX_BITS // 4:  # Python would build 10 ** digits
        raise ValueError
    return round(number, digits)


class _Function(NamedTuple):
    apply: Callable[..., Number | complex]
    least: int = 1
    most: int = 1


_OPERATORS: dict[str, Callable[[Number, Number], Number | complex]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": _multiply,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": _power,
}
_CONSTANTS = {"pi": math.pi, "e": math.e, "tau": math.tau}
_FUNCTIONS = {
    "abs": _Function(abs),
    "acos": _Function(math.acos),
    "acosh": _Function(math.acosh),
    "asin": _Function(math.asin),
    "asinh": _Function(math.asinh),
    "atan": _Function(math.atan),
    "atan2": _Function(math.atan2, 2, 2),
    "atanh": _Function(math.atanh),
    "cbrt": _Function(math.cbrt),
    "ceil": _Function(math.ceil),
    "comb": _Function(_comb, 2, 2),
    "cos": _Function(math.cos),
    "cosh": _Function(math.cosh),
    "degrees": _Function(math.degrees),
    "exp": _Function(math.exp),
    "factorial": _Function(_factorial),
    "floor": _Function(math.floor),
    "gcd": _Function(math.gcd, 1, MAX_CHARS),
    "hypot": _Function(math.hypot, 1, MAX_CHARS),
    "lcm": _Function(_lcm, 1, MAX_CHARS),
    "ln": _Function(math.log),
    "log": _Function(math.log, 1, 2),
    "log10": _Function(math.log10),
    "log2": _Function(math.log2),
    "max": _Function(max, 2, MAX_CHARS),
    "min": _Function(min, 2, MAX_CHARS),
    "perm": _Function(_perm, 1, 2),
    "pow": _Function(_power, 2, 2),
    "radians": _Function(math.radians),
    "round": _Function(_round, 1, 2),
    "sin": _Function(math.sin),
    "sinh": _Function(math.sinh),
    "sqrt": _Function(math.sqrt),
    "tan": _Function(math.tan),
    "tanh": _Function(math.tanh),
    "trunc": _Function(math.trunc),
}
