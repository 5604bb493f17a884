"""A database that is known to be damaged, once it was seen to be: its health says so."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from sqlalchemy import Connection

from storage import StorageDamaged
from storage.engine import Database
from storage.unit import Unit

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Watched:
    """A `Database` that notes its damage; what is damaged stays so until another one is opened."""

    def __init__(self, database: Database) -> None:
        self.shared = database.shared
        self.damage: StorageDamaged | None = None
        self._database = database

    async def read(self, unit: Unit[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with self._noting():
            return await self._database.read(unit, *args, **kwargs)

    async def scan(self, unit: Unit[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with self._noting():
            return await self._database.scan(unit, *args, **kwargs)

    async def write(self, unit: Unit[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with self._noting():
            return await self._database.write(unit, *args, **kwargs)

    async def migrate(self, unit: Callable[[Connection], None]) -> None:
        await self._database.migrate(unit)

    async def aclose(self) -> None:
        await self._database.aclose()

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except StorageDamaged as error:
            self.damage = error
            raise
