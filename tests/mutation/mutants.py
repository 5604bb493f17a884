"""The mistakes: each changes one expression or one statement of a source file.

They are those that pass a review and the type checker: a bound that is off by one, a condition
that always holds, half a condition, a statement that is left out or that comes too early, a
`finally` that is none, an argument that is not passed on. Wording, log lines, annotations and
types are left alone: a linter, the type checker or a reader sees these.
"""

import ast
import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

_SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
}
_RENAMED = {"any": "all", "all": "any", "min": "max", "max": "min"}
_UNWRAPPED = ("sorted", "reversed", "shield", "to_its_end")
"""Calls that are left out, so that their argument stands for itself."""

_SMALL = 3
"""Up to here a number is a place, a step or a count; above, it is a matter of taste."""


class Mutant(NamedTuple):
    """A mistake. `start`, `end`: the bytes of the file that `text` takes the place of.

    `lines`: those of the statement, first and last, counted from 1.
    """

    path: str
    lines: tuple[int, int]
    start: int
    end: int
    text: str

    def applied(self) -> bytes:
        """Return the file with the mistake in it."""
        source = _read(self.path)
        return source[: self.start] + self.text.encode() + source[self.end :]

    @property
    def line(self) -> int:
        return _read(self.path)[: self.start].count(b"\n") + 1

    @property
    def before(self) -> str:
        """The lines that it changes, as they are."""
        first, last = self._whole_lines()
        return _joined(_read(self.path)[first:last])

    @property
    def after(self) -> str:
        """The lines that it changes, as they are then."""
        first, last = self._whole_lines()
        source = _read(self.path)
        return _joined(source[first : self.start] + self.text.encode() + source[self.end : last])

    @property
    def rank(self) -> bytes:
        """Return its place in the order of trials, which other lines do not change."""
        return hashlib.sha256(repr((self.path, self.before, self.after)).encode()).digest()

    def _whole_lines(self) -> tuple[int, int]:
        source = _read(self.path)
        last = source.find(b"\n", self.end)
        return source.rfind(b"\n", 0, self.start) + 1, last if last >= 0 else len(source)


def _joined(lines: bytes) -> str:
    return " ".join(lines.decode().split())


@cache
def _read(path: str) -> bytes:
    return Path(path).read_bytes()


def mutants_of(paths: Iterable[str], optional: frozenset[tuple[str, str]]) -> list[Mutant]:
    """Return the mistakes in files, in the order in which they are tried.

    Args:
        paths: relative to the root of the tree.
        optional: see `optional_arguments`.
    """
    found = [mutant for path in paths for mutant in _File(path, optional).mutants()]
    return sorted({mutant.rank: mutant for mutant in found}.values(), key=lambda each: each.rank)


def optional_arguments(paths: Iterable[str]) -> frozenset[tuple[str, str]]:
    """Return what may be left out of a call: the name of a function or class, and an argument's."""
    found: set[tuple[str, str]] = set()
    for path in paths:
        for node in ast.walk(ast.parse(_read(path))):
            if isinstance(node, ast.ClassDef):
                fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
                found |= {(node.name, ast.unparse(each.target)) for each in fields if each.value}
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                args = node.args
                plain = [*args.posonlyargs, *args.args]
                named = zip(args.kwonlyargs, args.kw_defaults, strict=True)
                given = plain[len(plain) - len(args.defaults) :]
                found |= {(node.name, each.arg) for each in given}
                found |= {(node.name, each.arg) for each, default in named if default}
    return frozenset(found)


class _File:
    """Finds the mistakes that can be made in one file."""

    def __init__(self, path: str, optional: frozenset[tuple[str, str]]) -> None:
        self._path = path
        self._optional = optional
        self._source = _read(path)
        self._starts = [0]
        for line in self._source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def mutants(self) -> Iterator[Mutant]:
        yield from self._body(ast.parse(self._source).body)

    def _body(self, body: list[ast.stmt], is_init: bool = False) -> Iterator[Mutant]:
        for at, statement in enumerate(body):
            if not (is_init and isinstance(statement, ast.Assign)):  # nothing would go without it
                yield from self._statement(statement, is_alone=len(body) == 1)
            if at + 1 < len(body):
                yield from self._too_early(statement, body[at + 1])

    def _statement(self, node: ast.stmt, is_alone: bool) -> Iterator[Mutant]:
        if _is_left_alone(node):
            return
        lines = _lines_of_head(node)
        if _may_be_left_out(node, is_alone):
            yield self._mutant(node, lines, "pass")
        yield from self._changed_statement(node, lines)
        for expression in _expressions_of_head(node):
            if isinstance(node, ast.If) and _is_turned_by_one_change(expression):
                # `True` and `False` are harder to see than the contrary.
                for child in _children(expression):
                    yield from self._expression(child, lines)
            else:
                yield from self._expression(expression, lines)
        for body in _bodies(node):
            yield from self._body(
                body, isinstance(node, ast.FunctionDef) and node.name == "__init__"
            )

    def _changed_statement(self, node: ast.stmt, lines: tuple[int, int]) -> Iterator[Mutant]:
        match node:
            case ast.If(test=test):
                for always in ("True", "False"):
                    yield self._mutant(test, lines, always)
            case ast.While(test=test):
                yield self._mutant(test, lines, "False")
            case ast.AugAssign(target=target, value=value):
                yield self._mutant(node, lines, f"{ast.unparse(target)} = {ast.unparse(value)}")
            case ast.Try(finalbody=[last, *_]):
                yield self._no_finally(node, last)
            case _:
                pass
        if isinstance(node, ast.Try):
            for handler in node.handlers:
                if handler.type is not None:
                    yield self._mutant(handler.type, _span(handler.type), "()")

    def _no_finally(self, node: ast.Try, last: ast.stmt) -> Mutant:
        """Let the last part be done only where nothing was raised."""
        start, end = self._offset(node.lineno, node.col_offset), self._place(last)[0]
        at = self._source.rindex(b"finally:", start, end)
        text = self._source[start:at] + b"if True:"
        if not node.handlers:
            text = text.replace(b"try:", b"if True:", 1)
        return Mutant(self._path, _span(last), start, at + len(b"finally:"), text.decode())

    def _too_early(self, first: ast.stmt, second: ast.stmt) -> Iterator[Mutant]:
        """Exchange two statements of which one gives way to other tasks."""
        pair = (first, second)
        if not all(isinstance(each, ast.Expr) and not _is_left_alone(each) for each in pair):
            return
        if not any(
            isinstance(each, ast.Expr) and isinstance(each.value, ast.Await) for each in pair
        ):
            return
        (start, middle), (after, end) = self._place(first), self._place(second)
        text = self._source[after:end] + self._source[middle:after] + self._source[start:middle]
        lines = (first.lineno, second.end_lineno or second.lineno)
        yield Mutant(self._path, lines, start, end, text.decode())

    def _expression(self, node: ast.expr, lines: tuple[int, int]) -> Iterator[Mutant]:
        if isinstance(node, ast.JoinedStr):
            return  # wording
        for change in _changes(node, self._optional):
            yield self._mutant(node, lines, change)
        for child in _children(node):
            yield from self._expression(child, lines)

    def _mutant(self, node: ast.expr | ast.stmt, lines: tuple[int, int], text: str) -> Mutant:
        start, end = self._place(node)
        return Mutant(self._path, lines, start, end, text)

    def _place(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        end = self._offset(node.end_lineno or 0, node.end_col_offset or 0)
        return self._offset(node.lineno, node.col_offset), end

    def _offset(self, line: int, column: int) -> int:
        return self._starts[line - 1] + column


def _span(node: ast.expr | ast.stmt) -> tuple[int, int]:
    return node.lineno, node.end_lineno or node.lineno


def _lines_of_head(node: ast.stmt) -> tuple[int, int]:
    """Return the lines of a statement without those of its body."""
    bodies = [body[0].lineno - 1 for body in _bodies(node) if body]
    last = min([node.end_lineno or node.lineno, *bodies])
    return node.lineno, max(last, node.lineno)


def _is_turned_by_one_change(node: ast.expr) -> bool:
    match node:
        case ast.UnaryOp(op=ast.Not()):
            return True
        case ast.Compare(ops=[operator]):
            return isinstance(
                operator, ast.Eq | ast.NotEq | ast.Is | ast.IsNot | ast.In | ast.NotIn
            )
        case _:
            return False


def _bodies(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        yield from [getattr(node, name)] if getattr(node, name, None) else []
    for part in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
        yield part.body


def _is_left_alone(node: ast.stmt) -> bool:
    match node:
        case ast.Expr(value=ast.Constant()):  # a docstring, or the body of an interface
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="logger")))):
            return True
        case ast.Expr(value=ast.Call(func=ast.Name(id="assert_never"))):
            return True
        case ast.Import() | ast.ImportFrom() | ast.Pass():
            return True
        case ast.ClassDef(bases=bases):
            return any(isinstance(each, ast.Name) and each.id == "Protocol" for each in bases)
        case ast.AnnAssign(annotation=ast.Name(id="TypeAlias")):
            return True
        case _:
            return False


def _may_be_left_out(node: ast.stmt, is_alone: bool) -> bool:
    match node:
        case ast.Expr(value=ast.Await() | ast.Call()) | ast.Continue() | ast.Return(value=None):
            return True
        case ast.Raise():  # alone it is the same as its condition that never holds
            return not is_alone
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) | ast.Delete():
            return True
        case _:
            return False


def _expressions_of_head(node: ast.stmt) -> Iterator[ast.expr]:
    match node:
        case ast.FunctionDef(args=args) | ast.AsyncFunctionDef(args=args):
            yield from [*args.defaults, *(each for each in args.kw_defaults if each)]
        case ast.ClassDef():
            return
        case ast.AnnAssign(value=value):
            yield from [value] if value else []
        case ast.Match(subject=subject, cases=cases):
            yield from [subject, *(case.guard for case in cases if case.guard)]
        case ast.With(items=items) | ast.AsyncWith(items=items):
            yield from [item.context_expr for item in items]
        case _:
            yield from [each for each in ast.iter_child_nodes(node) if isinstance(each, ast.expr)]


def _children(node: ast.expr) -> Iterator[ast.expr]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield child
        elif isinstance(child, ast.keyword) and child.arg != "strict":  # it is an assertion
            yield child.value
        elif isinstance(child, ast.comprehension):
            yield from [child.iter, *child.ifs]


def _changes(node: ast.expr, optional: frozenset[tuple[str, str]]) -> Iterator[str]:
    """Yield what an expression may be by mistake."""
    for change in (_of_operator, _of_parts, _of_value, _of_comprehension):
        yield from change(node)
    if isinstance(node, ast.Call):
        yield from _of_call(node, optional)


def _of_operator(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.Compare(ops=ops):
            for at, operator in enumerate(ops):
                yield _with(node, lambda new, at=at, op=operator: _put(new.ops, at, _swapped(op)))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield _in_brackets(operand)
        case ast.BinOp(op=operator, left=left) if type(operator) in _SWAPPED:
            if not isinstance(left, ast.JoinedStr) and not _is_text(left):
                yield _with(node, lambda new: setattr(new, "op", _swapped(operator)))


def _of_parts(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.BoolOp(values=values) if len(values) == 2:
            yield from map(_in_brackets, values)
        case ast.BoolOp(values=values):
            for at in range(len(values)):
                yield _with(node, lambda new, at=at: new.values.pop(at))
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            yield from map(_in_brackets, (left, right))
        case ast.IfExp(body=body, orelse=orelse):
            yield from map(_in_brackets, (body, orelse))
        case ast.Subscript(slice=ast.Slice(lower=lower, upper=upper)):
            for name, bound in (("lower", lower), ("upper", upper)):
                if bound is not None:
                    yield _with(node, lambda new, name=name: setattr(new.slice, name, None))


def _of_value(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.Constant(value=bool(value)):
            yield str(not value)
        case ast.Constant(value=int(value)) if 0 <= value <= _SMALL:
            yield str(value + 1)


def _of_comprehension(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
        for at, part in enumerate(node.generators):
            if part.ifs:
                yield _with(node, lambda new, at=at: new.generators[at].ifs.clear())


def _of_call(node: ast.Call, optional: frozenset[tuple[str, str]]) -> Iterator[str]:
    name = ast.unparse(node.func).rpartition(".")[2]
    if isinstance(node.func, ast.Name) and name in _RENAMED:
        yield _with(node, lambda new: setattr(new.func, "id", _RENAMED[name]))
    if name in _UNWRAPPED and len(node.args) == 1:
        yield _in_brackets(node.args[0])
    for at, keyword in enumerate(node.keywords):
        if keyword.arg and (name, keyword.arg) in optional:
            yield _with(node, lambda new, at=at: new.keywords.pop(at))


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)


def _swapped(operator: ast.AST) -> ast.AST:
    return _SWAPPED[type(operator)]()


def _put(items: list[ast.AST], at: int, item: ast.AST) -> None:
    items[at] = item


def _with(node: ast.expr, change: Callable[..., object]) -> str:
    new = copy.deepcopy(node)
    change(new)
    return _in_brackets(new)


def _in_brackets(node: ast.expr) -> str:
    text = ast.unparse(node)
    is_plain = isinstance(node, ast.Name | ast.Attribute | ast.Constant | ast.Call | ast.Subscript)
    return text if is_plain else f"({text})"
