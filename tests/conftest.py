"""Which tests are `slow`, so that `make test-fast` leaves them out.

A test is slow that needs more than this process: a browser, node, a PostgreSQL server, a process
of the service. So is one that tries many cases, or waits for real time, longer than seconds. Whole
folders and files are named here, other tests carry the mark. A test that starts a process without
it fails, so that it is not forgotten; `make test-fast` prints what takes longest.
"""

import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("fast", max_examples=10)

SLOW = (
    *("browser/", "killing/", "python_client/", "web/"),
    *("llm/test_anthropic.py", "llm/test_openai.py", "tools/test_workers.py"),
    *("api/test_bad_input.py", "api/test_memories.py", "api/test_socket_bad_input.py"),
)
"""Folders and files all of whose tests are slow."""

_may_start_processes = True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        path = item.path.relative_to(Path(__file__).parent).as_posix()
        if path.startswith(SLOW) or _needs_postgres(item):
            item.add_marker("slow")


def _needs_postgres(item: pytest.Item) -> bool:
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return isinstance(item, pytest.Function) and (
        "server" in item.fixturenames or "postgres" in parameters.values()
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    global _may_start_processes
    _may_start_processes = item.get_closest_marker("slow") is not None
    try:
        return (yield)
    finally:
        _may_start_processes = True


def _check_process(event: str, _: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen" and not _may_start_processes:
        raise AssertionError("A test that starts a process is to be marked `slow`.")


sys.addaudithook(_check_process)
