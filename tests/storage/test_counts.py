"""A bound on a count holds however many come at once, over several stores, too."""

import asyncio
from contextlib import AsyncExitStack

from errors import TooMany
from storage.store import Store
from tests.storage.support import ANN


async def test_there_are_never_more_agents_than_there_may_be(url: str) -> None:
    many = 1 if url.startswith("sqlite") else 3
    async with AsyncExitStack() as stack:
        opened = [Store.open(url, instance=f"s{number}") for number in range(many)]
        stores = [await stack.enter_async_context(each) for each in opened]
        puts = (
            stores[number % many].put_agent(
                ANN, f"a{number}", "{}", built_in=("chat", "assistant"), limit=10
            )
            for number in range(100)
        )
        outcomes = await asyncio.gather(*puts, return_exceptions=True)
        assert sum(outcome is True for outcome in outcomes) == 8
        assert sum(isinstance(outcome, TooMany) for outcome in outcomes) == 92
        assert len(await stores[0].agents()) == 8
        again = stores[0].put_agent(ANN, "chat", "{}", built_in=("chat",), limit=1)
        assert await again is False
