"""A pytest plugin that notes which lines of the core each test reaches, and how long it takes."""

import time
from collections import Counter, defaultdict
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import coverage
import msgspec
import pytest


@dataclass
class Reach:
    """What tests reach.

    Args:
        seconds: what each test takes.
        tests: by file and line; those of the line 0 reach the file at all.
    """

    seconds: dict[str, float]
    tests: dict[str, dict[int, list[str]]]

    def merged(self, other: "Reach") -> "Reach":
        tests = {path: dict(lines) for path, lines in self.tests.items()}
        for path, lines in other.tests.items():
            mine = tests.setdefault(path, {})
            for line, names in lines.items():
                mine[line] = [*mine.get(line, ()), *names]
        return Reach(self.seconds | other.seconds, tests)

    def of(self, path: str, lines: tuple[int, int]) -> list[str]:
        """Return the tests that reach lines of a statement, those first that reach little else.

        What is done when a module is imported has no test of its own: all of the file's are its.
        """
        there = self.tests.get(path, {})
        names = {name for line in range(lines[0], lines[1] + 1) for name in there.get(line, ())}
        return sorted(names or {*there.get(0, ())}, key=lambda name: (self.width[name], name))

    @cached_property
    def width(self) -> Counter[str]:
        """How many lines each test reaches."""
        found: Counter[str] = Counter()
        for lines in self.tests.values():
            for names in lines.values():
                found.update(names)
        return found


class Recorder:
    """Measures while the tests of this process run, and writes a `Reach` to a file at the end."""

    def __init__(self, paths: Sequence[str], to: Path) -> None:
        self._paths = paths
        self._to = to
        self._seconds: dict[str, float] = {}
        self._coverage = coverage.Coverage(
            data_file=None, config_file=False, include=paths, concurrency=["thread", "greenlet"]
        )
        self._coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self._coverage.switch_context(item.nodeid)
        began = time.perf_counter()
        try:
            return (yield)
        finally:
            self._seconds[item.nodeid] = time.perf_counter() - began
            self._coverage.switch_context("")

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        data = self._coverage.get_data()
        tests: dict[str, dict[int, list[str]]] = {}
        for path in self._paths:
            of_line: defaultdict[int, list[str]] = defaultdict(list)
            all_names: set[str] = set()
            for line, names in data.contexts_by_lineno(str(Path(path).absolute())).items():
                of_line[line] = [name for name in names if name]
                all_names.update(of_line[line])
            tests[path] = {**of_line, 0: sorted(all_names)}
        self._to.write_bytes(msgspec.json.encode(Reach(self._seconds, tests)))
