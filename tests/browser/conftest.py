"""One browser for all tests of a process, which run in one event loop because Playwright needs it.

Where node or the packages are missing, the tests are skipped with the reason; where the environment
has REQUIRE_BROWSER, they fail.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from tests.browser import chromium
from tests.browser.support import Visitor, visiting

Visiting: TypeAlias = Callable[..., AbstractAsyncContextManager[Visitor]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of this folder in the loop of the session."""
    for item in items:
        if Path(__file__).parent in item.path.parents and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """A browser; launched once a process."""
    reason = chromium.missing()
    if reason is not None:
        (pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip)(reason)
    path = await asyncio.to_thread(chromium.executable)
    async with async_playwright() as playwright, AsyncExitStack() as stack:
        launched = await playwright.chromium.launch(
            executable_path=path, args=list(chromium.ARGUMENTS), env=dict(chromium.environment())
        )
        stack.push_async_callback(launched.close)
        yield launched


@pytest.fixture(scope="session")
def visitors(browser: Browser) -> Visiting:
    """Visits with options of a context: `async with visitors(color_scheme="dark") as visitor`."""
    return partial(visiting, browser)


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(browser: Browser) -> AsyncIterator[Visitor]:
    """A visitor with a fresh profile."""
    async with visiting(browser) as visitor:
        yield visitor
