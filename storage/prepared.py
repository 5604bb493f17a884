"""Statements that change rows, compiled once: what every turn of a run executes.

SQLAlchemy looks a statement up, arranges its values and prepares for a result each time that it is
executed. That costs more than a small statement in SQLite does, and is not needed here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import sqlalchemy as sa

_Value: TypeAlias = tuple[str | None, Any, Callable[[Any], Any] | None]
"""The name of a value that is given, or else a constant; and how the driver wants it."""


class _Compiled(NamedTuple):
    """The SQL of one dialect, and its values in order."""

    sql: str
    values: Sequence[_Value]

    def arranged(self, given: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(
            [
                constant if name is None else given[name] if encode is None else encode(given[name])
                for name, constant, encode in self.values
            ]
        )


class Prepared:
    """An insert, update or delete without a result.

    Args:
        statement: its own parameters are given by their names.
        columns: those whose values are given, too, by their names.
    """

    def __init__(self, statement: sa.UpdateBase, columns: Iterable[str] = ()) -> None:
        self._statement = statement
        self._columns = list(columns)
        self._compiled: dict[str, _Compiled] = {}

    def execute(self, db: sa.Connection, values: Mapping[str, Any]) -> int:
        """Execute it and return how many rows it changed."""
        compiled = self._compiled_for(db.dialect)
        return db.exec_driver_sql(compiled.sql, compiled.arranged(values)).rowcount

    def execute_many(self, db: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Execute it for each row."""
        compiled = self._compiled_for(db.dialect)
        db.exec_driver_sql(compiled.sql, [compiled.arranged(row) for row in rows])

    def _compiled_for(self, dialect: sa.Dialect) -> _Compiled:
        compiled = self._compiled.get(dialect.name)
        if compiled is None:
            compiled = self._compiled[dialect.name] = self._compile(dialect)
        return compiled

    def _compile(self, dialect: sa.Dialect) -> _Compiled:
        made = self._statement.compile(dialect=dialect, column_keys=self._columns)
        values: list[_Value] = []
        for name in made.positiontup or ():
            bind = made.binds[name]
            encode = bind.type.dialect_impl(dialect).bind_processor(dialect)
            if bind.required:
                values.append((name, None, encode))
            else:
                values.append((None, encode(bind.value) if encode else bind.value, None))
        return _Compiled(str(made), values)
