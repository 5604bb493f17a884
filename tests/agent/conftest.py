"""Fixtures of the tests of the agent loop."""

from collections.abc import AsyncIterator, Generator

import pytest

from tests.agent.support import Held
from tools.workers import Workers


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    async with Workers(16) as workers:
        yield workers


@pytest.fixture
def held() -> Generator[Held, None, None]:
    held = Held()
    yield held
    held.released.set()
