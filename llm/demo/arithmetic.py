"""Arithmetic in a sentence: finds it, and writes it as an expression for `calculate`.

The text becomes tokens; from each place where a value could start, a recursive descent reads as
far as the grammar goes:

    sum      := product (("+" | "-") product)*
    product  := power (("*" | "/" | "%") power)*
    power    := value ("**" power)?
    value    := prefix value | number | "(" sum ")" | name "(" sum, … ")" | verb operands
    postfix  := value ("!" | squared | percent ("of" power)?)*

What the grammar does not know ends the expression, so words around it do no harm. A number by
itself is no arithmetic. Something that looks like a date, a time of day or a range ("24/7",
"2019-2024", "25!") counts only where the words before it ask for a result.

Every scan is linear: depth is bounded, and nothing is read twice.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from llm.demo.numbers import ORDINALS, WORDS, read_number
from llm.demo.words import words

_SUM, _PRODUCT, _SIGN, _POWER, _VALUE = range(1, 6)
_MAX_DEPTH = 30
_MAX_NUMBER_WORDS = 24
_MAX_LEAD_IN = 200

_BINARY = {
    **dict.fromkeys(["+", "plus", "added to"], "+"),
    **dict.fromkeys(["-", "−", "–", "minus", "take away"], "-"),
    **dict.fromkeys(["*", "×", "·", "x", "times", "multiplied by", "multiplied with"], "*"),
    **dict.fromkeys(["/", "÷", "divided by"], "/"),
    **dict.fromkeys(["mod", "modulo"], "%"),
    **dict.fromkeys(["**", "^", "to the power of", "to the power", "raised to"], "**"),
}
_BINARY["raised to the power of"] = "**"
_LEVELS = {"+": _SUM, "-": _SUM, "*": _PRODUCT, "/": _PRODUCT, "%": _PRODUCT, "**": _POWER}
_PREFIX = {
    **dict.fromkeys(["square root of", "sqrt of", "root of", "√"], "sqrt({})"),
    "cube root of": "cbrt({})",
    "factorial of": "factorial({})",
    "half of": "({}) / 2",
    **dict.fromkeys(["double", "twice"], "2 * ({})"),
    "triple": "3 * ({})",
}
_SUFFIX = {"squared": "2", "cubed": "3"}
_OPERANDS = {
    **dict.fromkeys(["sum of", "add"], "+"),
    **dict.fromkeys(["product of", "multiply"], "*"),
    **dict.fromkeys(["difference between", "difference of"], "-"),
    **dict.fromkeys(["quotient of", "divide"], "/"),
    "subtract": "from",
    **dict.fromkeys(["average of", "mean of"], "average"),
}
_GLUE = frozenset({",", "and", "to", "by", "from", "with"})
_FUNCTIONS = frozenset(
    words("sqrt cbrt factorial abs round floor ceil sin cos tan log log2 log10 exp pow min max")
)
_CONSTANTS = {"pi": "pi", "π": "pi"}
_SKIPPED = frozenset({"the", "a", "an"})

_PHRASES = sorted(
    (p for p in [*_BINARY, *_PREFIX, *_OPERANDS, "per cent"] if p[0].isalpha() and " " in p),
    key=len,
    reverse=True,
)
_TENS = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_TOKEN = re.compile(
    r"(?P<taken>[0-9]+(?:(?P<mark>[-/.:])[0-9]+(?:(?P=mark)[0-9]+)+|:[0-9]+))"
    r"|(?P<number>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<!\w)\.[0-9]+)"
    rf"|\b(?P<tens>{_TENS})-(?=[a-z])"
    r"|\b(?:raised )?to the (?P<nth>[0-9]{1,4}(?:st|nd|rd|th)|"
    + "|".join(ORDINALS)
    + r")\b(?: power\b)?"
    rf"|\b(?P<phrase>{'|'.join(_PHRASES)})\b"
    r"|(?P<word>(?!x[0-9(])[^\W\d_](?:[^\W_]|['’])*)"
    r"|(?P<sign>\*\*|\S)",
    re.IGNORECASE,
)
LEAD_IN = frozenset(
    words(
        "what what's whats is are calculate compute evaluate solve how much many does the "
        "value result of please can could you tell me and hey hi work out also then now "
        "answer to make makes for us i need want know equals find so ok okay = gives"
    )
)
"""Words that ask for the result of the arithmetic after them."""


class Arithmetic(NamedTuple):
    """An expression for `calculate`, and where in the text it was said."""

    start: int
    end: int
    expression: str


class _Token(NamedTuple):
    text: str
    start: int
    end: int
    kind: str


class _Node(NamedTuple):
    """A piece of expression; `signs` are the operations in it, as characters."""

    text: str
    level: int
    signs: str = ""

    def at(self, level: int) -> str:
        return self.text if self.level >= level else f"({self.text})"


def find_arithmetic(text: str) -> Iterator[Arithmetic]:
    """Yield each piece of arithmetic in `text`, in order."""
    tokens = list(_tokens(text))
    parser = _Parser(tokens)
    position = last_end = 0
    while position < len(tokens):
        node, after = _read(parser, tokens, position)
        if node is None:
            position += 1
            continue
        span = Arithmetic(tokens[position].start, tokens[after - 1].end, node.text)
        if _is_meant(node, text[last_end : span.start], text[span.end :], tokens[position:after]):
            yield span
            last_end = span.end
        position = after


def _tokens(text: str) -> Iterator[_Token]:
    for match in _TOKEN.finditer(text):
        kind = str(match.lastgroup)
        value = match[0].lower()
        if match["taken"]:
            kind = "taken"
        elif match["tens"]:
            kind, value = "word", match["tens"].lower()
        elif match["nth"]:
            value = match["nth"].lower().rstrip("stndrh") if match["nth"][0].isdecimal() else value
            kind, value = "nth", str(ORDINALS.get(match["nth"].lower(), value))
        if value not in _SKIPPED:
            yield _Token(value, match.start(), match.end(), kind)


def _read(parser: "_Parser", tokens: list[_Token], start: int) -> tuple[_Node | None, int]:
    """Read the longest arithmetic from `start`; a "!" that ends a sentence is not part of it."""
    parser.position = start
    node = parser.binary(_SUM)
    if node is None or not node.signs.strip("%"):
        return None, start
    last = parser.position - 1
    ends = last + 1 == len(tokens) or tokens[last + 1].start > tokens[last].end
    if tokens[last].text == "!" and ends and node.signs.count("!") == 1 and len(node.signs) > 1:
        shorter = _Parser(tokens[start:last])
        return shorter.binary(_SUM), start + shorter.position
    return node, parser.position


def _is_meant(node: _Node, before: str, after: str, tokens: list[_Token]) -> bool:
    if before and (before[-1].isalnum() or before[-1] in "_-/.:$€£#"):
        return False
    if re.match(r"\w|[-/:.]\w", after):
        return False
    if node.signs not in {"-", "/", "!"} or any(token.kind != "number" for token in tokens[::2]):
        return True
    if any(token.kind == "word" for token in tokens):
        return True
    clause = re.split(r"[.?!,;:\n]", before[-_MAX_LEAD_IN:])[-1]
    return all(word in LEAD_IN for word in clause.lower().replace("’", "'").split())


class _Parser:
    """Reads one expression; a method returns None and stays where it was if it cannot.

    What was read at a position is kept, so that no start reads it again: the whole is linear.
    """

    def __init__(self, tokens: list[_Token]) -> None:
        self.position = 0
        self._tokens = tokens
        self._depth = 0
        self._known: dict[int, tuple[_Node | None, int]] = {}

    def binary(self, level: int) -> _Node | None:
        left = self._postfix()
        while left is not None:
            before = self.position
            sign = self._sign()
            if sign is None or _LEVELS[sign] < level:
                self.position = before
                break
            right = self._nested(_LEVELS[sign] + (sign != "**"))
            if right is None:
                self.position = before
                break
            left = _joined(left, sign, right)
        return left

    def _peek(self, ahead: int = 0) -> str:
        place = self.position + ahead
        return self._tokens[place].text if place < len(self._tokens) else ""

    def _take(self, *texts: str) -> bool:
        if self._peek() in texts:
            self.position += 1
            return True
        return False

    def _sign(self) -> str | None:
        sign = self._peek()
        if sign == "%" and self._starts_value(self._peek(1)):
            sign = "mod"
        if sign not in _BINARY:
            return None
        self.position += 1
        return _BINARY[sign]

    @staticmethod
    def _starts_value(text: str) -> bool:
        return text[:1].isdecimal() or text == "(" or text in WORDS

    def _postfix(self) -> _Node | None:
        before = self.position
        if before not in self._known:
            self._known[before] = self._read_postfix(), self.position
        node, self.position = self._known[before]
        return node

    def _read_postfix(self) -> _Node | None:
        node = self._value() if self._depth < _MAX_DEPTH else None
        while node is not None:
            sign = self._peek()
            if sign in {"!", "factorial"}:
                node = _Node(f"factorial({node.text})", _VALUE, node.signs + "!")
            elif sign in _SUFFIX:
                node = _joined(node, "**", _Node(_SUFFIX[sign], _VALUE))
            elif sign and self._tokens[self.position].kind == "nth":
                node = _joined(node, "**", _Node(sign, _VALUE))
            elif percent := self._percent(node):
                node = percent
                continue
            else:
                return node
            self.position += 1
        return None

    def _percent(self, node: _Node) -> _Node | None:
        before = self.position
        if not self._take("%", "percent", "per cent"):
            return None
        off = self._peek() == "off"
        if self._take("of", "off"):
            whole = self._nested(_POWER)
            if whole is not None:
                part = f"(100 - {node.at(_PRODUCT)})" if off else node.at(_POWER)
                return _Node(f"{whole.at(_PRODUCT)} * {part} / 100", _PRODUCT, "*%")
            self.position -= 1
        elif self._starts_value(self._peek()) and self._tokens[before].text == "%":
            self.position = before
            return None
        return _Node(f"{node.at(_PRODUCT)} / 100", _PRODUCT, node.signs + "%")

    def _nested(self, level: int) -> _Node | None:
        self._depth += 1
        try:
            return self.binary(level)
        finally:
            self._depth -= 1

    def _value(self) -> _Node | None:
        before = self.position
        sign = self._peek()
        node: _Node | None = None
        if sign in _OPERANDS:
            self.position += 1
            node = self._operands(_OPERANDS[sign])
        elif sign in _PREFIX:
            self.position += 1
            node = _prefixed(_PREFIX[sign], self._nested(_POWER))
        elif sign in {"-", "−", "minus", "negative"}:
            self.position += 1
            inner = self._nested(_POWER)
            node = inner and _Node(f"-{inner.at(_POWER)}", _SIGN, inner.signs)
        elif sign == "(" or sign in _FUNCTIONS:
            node = self._bracketed("" if sign == "(" else sign)
        elif sign in _CONSTANTS:
            self.position += 1
            node = _Node(_CONSTANTS[sign], _VALUE)
        else:
            node = self._number()
        if node is None:
            self.position = before
        return node

    def _number(self) -> _Node | None:
        sign = self._peek()
        if not (sign[:1].isdecimal() or sign[:1] == "." or sign in WORDS):
            return None
        if sign in WORDS or self._tokens[self.position].kind == "number":
            place = self.position
            following = [t.text for t in self._tokens[place : place + _MAX_NUMBER_WORDS]]
            digits, taken = read_number(following)
            if taken:
                self.position += taken
                return _Node(digits, _VALUE)
        return None

    def _bracketed(self, name: str) -> _Node | None:
        self.position += bool(name)
        if not self._take("("):
            return None
        inner = [self._nested(_SUM)]
        while name and self._take(","):
            inner.append(self._nested(_SUM))
        nodes = [node for node in inner if node is not None]
        if len(nodes) < len(inner) or not self._take(")"):
            return None
        if not name:
            return nodes[0]
        text = ", ".join(node.text for node in nodes)
        return _Node(f"{name}({text})", _VALUE, "f")

    def _operands(self, sign: str) -> _Node | None:
        found = [self._nested(_PRODUCT)]
        while found[-1] is not None and self._peek() in _GLUE:
            before = self.position
            self.position += 1
            self._take("and")
            found.append(self._nested(_PRODUCT))
            if found[-1] is None:
                self.position = before
        nodes = [node for node in found if node is not None]
        if len(nodes) < 2:
            return None
        if sign == "from":
            return _joined(nodes[1], "-", nodes[0])
        node = nodes[0]
        for right in nodes[1:]:
            node = _joined(node, "+" if sign == "average" else sign, right)
        if sign == "average":
            return _Node(f"({node.text}) / {len(nodes)}", _PRODUCT, "+/a")
        return node


def _joined(left: _Node, sign: str, right: _Node) -> _Node:
    level = _LEVELS[sign]
    if level == _SUM and right.signs == "%":
        # "80 plus 20%" means a fifth of the 80.
        share = right.text.removesuffix(" / 100")
        return _Node(f"{left.at(_PRODUCT)} * (100 {sign} {share}) / 100", _PRODUCT, sign + "%")
    first = left.at(level + (sign == "**"))
    second = right.at(level + (sign != "**"))
    return _Node(
        f"{first} {sign} {second}", level, left.signs + sign.replace("%", "m")[0] + right.signs
    )


def _prefixed(form: str, node: _Node | None) -> _Node | None:
    if node is None:
        return None
    if form.endswith("({})") and form[0].isalpha():
        return _Node(form.format(node.text), _VALUE, "f")
    form = form.replace("({})", "{}")
    level = _POWER if "**" in form else _PRODUCT
    return _Node(form.format(node.at(level + 1)), level, "f")
