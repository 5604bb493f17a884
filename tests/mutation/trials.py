"""Runs tests in processes of their own, each with one mistake in what it imports.

A process is a fork of this one, which has imported what the service needs of others and nothing of
the service itself. So it begins in some tenths of a second, and what it imports has the mistake.
"""

import gc
import importlib.util
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from multiprocessing.connection import wait
from pathlib import Path
from types import CodeType
from typing import NamedTuple

import pytest

from tests.mutation.mutants import Mutant

_PRELOADED = (
    "_hypothesis_pytestplugin",
    "aiohttp",
    "anthropic",
    "anyio._backends._asyncio",
    "anyio.pytest_plugin",
    "coverage",
    "fastapi",
    "hypothesis.strategies",
    "msgspec",
    "openai",
    "pytest_asyncio.plugin",
    "pytest_timeout",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.dialects.sqlite",
    "sqlalchemy.ext.asyncio",
    "uvicorn",
    "xdist.plugin",
)

_FIRST = 8

_MEMORY = 4 << 30
"""Bytes that a process may take: a mistake may be a loop without an end."""

_fork = multiprocessing.get_context("fork")


class Trial(NamedTuple):
    """Tests to run. `seconds`: until the process is ended."""

    tests: Sequence[str]
    seconds: float
    mutant: Mutant | None = None
    plugin: Callable[[], object] | None = None


class Running(NamedTuple):
    trial: Trial
    process: "multiprocessing.process.BaseProcess"
    until: float


def prepare() -> None:
    """Import what the processes would each import again."""
    for name in _PRELOADED:
        with suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a process need not look through these objects


def outcomes(trials: Iterable[Trial], workers: int) -> Iterator[tuple[Trial, int | None]]:
    """Run trials, some at a time; yield each with pytest's exit code, or None: it took too long."""
    rest, running = iter(trials), list[Running]()
    try:
        while True:
            while len(running) < workers and (trial := next(rest, None)) is not None:
                running.append(_started(trial))
            if not running:
                return
            first = min(each.until for each in running)
            wait([each.process.sentinel for each in running], max(0.0, first - time.monotonic()))
            for each in [*running]:
                if not each.process.is_alive() or each.until <= time.monotonic():
                    running.remove(each)
                    yield each.trial, _ended(each.process)
    finally:
        for each in running:
            _ended(each.process)


def _started(trial: Trial) -> Running:
    process = _fork.Process(target=_run, args=(trial,), daemon=True)
    process.start()
    return Running(trial, process, time.monotonic() + trial.seconds)


def _ended(process: "multiprocessing.process.BaseProcess") -> int | None:
    is_late = process.is_alive()
    if is_late:
        process.kill()
    process.join()
    return None if is_late else process.exitcode


def _run(trial: Trial) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    if trial.mutant is not None:
        sys.meta_path.insert(0, _Importer(trial.mutant))
    plugins = [trial.plugin()] if trial.plugin is not None else []
    options = ["-x", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # `prepare` was before it
    options += ["--hypothesis-profile", "fast", "--hypothesis-seed", "0"]
    code = 0
    # The first few see most mistakes, and to collect all of them takes longer than to run these.
    for tests in (trial.tests[:_FIRST], trial.tests[_FIRST:]):
        code = code or (pytest.main([*options, *tests], plugins) if tests else 0)
    os._exit(code)  # what a mistake has left running does not hold this up


class _Importer(MetaPathFinder):
    """Imports one module with a mistake in it."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant
        self._name = mutant.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        if name != self._name:
            return None
        loader = _Loader(name, str(Path(self._mutant.path).absolute()), self._mutant.applied())
        return importlib.util.spec_from_file_location(name, loader.path, loader=loader)


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, source: bytes) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self._source, self.path)
