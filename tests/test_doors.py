"""No room imports what the table in ARCHITECTURE.md does not allow it."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

NOT_CODE = {"docs", "data", "web", "node_modules", "build", "dist"}
"""Folders that hold no module of the service."""

ROOM_OF_PACKAGE = {"parley_client": "clients"}
"""Packages whose name is not that of the room they are in."""


@cache
def doors() -> dict[str, set[str] | None]:
    """Return for each room of the table the rooms that it may import; None: all of them."""
    table: dict[str, set[str] | None] = {}
    for line in (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").splitlines():
        row = re.fullmatch(r"\|\s*`([a-z_]+)(?:\.py|/)`\s*\|.*\|([^|]*)\|\s*", line)
        if row is None:
            continue
        room, allowed = row[1], row[2].strip()
        assert room not in table, f"{room} stands in the table twice"
        names = set(re.findall(r"`([a-z_]+)(?:\.py|/)?`", allowed))
        assert names or allowed in ("everything", "nothing", "–"), line
        table[room] = None if allowed == "everything" else names
    return table


def sources() -> list[Path]:
    """Return every module of the tree, relative to its root."""
    return sorted(
        path.relative_to(ROOT)
        for path in ROOT.rglob("*.py")
        if not any(
            part.startswith(".") or part in NOT_CODE for part in path.relative_to(ROOT).parts[:-1]
        )
    )


def room_of(module: Path) -> str:
    return module.parts[0].removesuffix(".py")


def imported(module: Path) -> Iterator[tuple[int, str]]:
    """Yield line and top-level name of every import, those inside functions included."""
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno} imports by a relative name"
            names = [node.module or ""]
        else:
            continue
        for name in names:
            package = name.partition(".")[0]
            yield node.lineno, ROOM_OF_PACKAGE.get(package, package)


def test_the_table_can_be_read() -> None:
    table = doors()
    assert table["app"] is None
    assert table["events"] == set()
    assert table["agent"] is not None
    assert "events" in table["agent"]


def test_every_room_stands_in_the_table_and_the_table_names_no_other() -> None:
    rooms = {room_of(module) for module in sources()}
    table = doors()
    assert rooms - set(table) == set()
    assert {room for room in table if not (ROOT / room).is_dir()} - rooms == set()
    named = {name for allowed in table.values() for name in allowed or ()}
    assert named <= rooms


@pytest.mark.parametrize("module", sources(), ids=str)
def test_a_room_imports_only_what_its_door_allows(module: Path) -> None:
    table = doors()
    room = room_of(module)
    allowed = table[room]
    if allowed is None:
        return
    wrong = [
        f"{module}:{line} imports {name}"
        for line, name in imported(module)
        if name in table and name != room and name not in allowed
    ]
    assert wrong == []


def test_only_tests_import_the_tests_and_nothing_imports_the_wiring() -> None:
    for module in sources():
        names = {name for _, name in imported(module)}
        if room_of(module) not in ("tests", "client_tests", "model_tests", "bench"):
            assert not names & {"tests", "bench", "app"}, module


def test_the_rooms_have_no_cycle() -> None:
    rest = {room: allowed for room, allowed in doors().items() if allowed is not None}
    while rest:
        free = [room for room, allowed in rest.items() if not allowed & set(rest)]
        assert free, f"these rooms need each other: {sorted(rest)}"
        for room in free:
            del rest[room]
