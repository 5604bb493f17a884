"""Operators and functions of numbers that are small, whatever the operands are.

Integers are exact and have at most `MAX_BITS` bits; a size is checked before the operation that
would build it. Only finite real numbers exist. What has no such result is a `ToolError`, whose
text is for the model.
"""

import math
import operator
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from errors import ToolError

MAX_BITS = 14_000
"""The bound on integers: at most 4,215 digits, which Python still turns into text."""

MAX_ARGUMENTS = 256

Number: TypeAlias = int | float


def applied(symbol: str, left: Number, right: Number) -> Number:
    return _result(_OPERATORS[symbol], left, right)


def called(name: str, arguments: list[Number]) -> Number:
    function = FUNCTIONS[name]
    if not function.least <= len(arguments) <= function.most:
        takes = f"{function.least}" + ("" if function.most == function.least else " or more")
        raise ToolError(f"{name} takes {takes} argument(s), not {len(arguments)}.")
    try:
        return _result(function.apply, *arguments)
    except ValueError:
        raise ToolError(f"{name} is not defined for these arguments.") from None
    except TypeError:
        raise ToolError(f"{name} takes whole numbers only.") from None


def _result(function: Callable[..., Number | complex], *operands: Number) -> Number:
    try:
        return checked(function(*operands))
    except ZeroDivisionError:
        raise ToolError("The expression divides by zero.") from None
    except OverflowError:
        raise _too_large() from None


def checked(value: Number | complex) -> Number:
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
CONSTANTS = {"pi": math.pi, "e": math.e, "tau": math.tau}
_OF_ONE_NUMBER = (
    *(math.acos, math.acosh, math.asin, math.asinh, math.atan, math.atanh, math.cbrt, math.ceil),
    *(math.cos, math.cosh, math.degrees, math.exp, math.floor, math.log10, math.log2),
    *(math.radians, math.sin, math.sinh, math.sqrt, math.tan, math.tanh, math.trunc),
)
_FUNCTIONS = {
    **{function.__name__: _Function(function) for function in _OF_ONE_NUMBER},
    "abs": _Function(abs),
    "atan2": _Function(math.atan2, 2, 2),
    "comb": _Function(_comb, 2, 2),
    "factorial": _Function(_factorial),
    "gcd": _Function(math.gcd, 1, MAX_ARGUMENTS),
    "hypot": _Function(math.hypot, 1, MAX_ARGUMENTS),
    "lcm": _Function(_lcm, 1, MAX_ARGUMENTS),
    "ln": _Function(math.log),
    "log": _Function(math.log, 1, 2),
    "max": _Function(max, 2, MAX_ARGUMENTS),
    "min": _Function(min, 2, MAX_ARGUMENTS),
    "perm": _Function(_perm, 1, 2),
    "pow": _Function(_power, 2, 2),
    "round": _Function(_round, 1, 2),
}
FUNCTIONS = dict(sorted(_FUNCTIONS.items()))
