"""A bound on a count holds however many come at once, over several stores, too."""

import asyncio
from contextlib import AsyncExitStack

from errors import TooMany
from messages import AssistantMessage, UserMessage
from storage.store import Store
from tests.storage.support import ANN, DONE, a_run, says


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


async def learn(store: Store, number: int) -> None:
    run = a_run(f"c{number}")
    await store.accept(run, begin=says("Hi"))
    said = (UserMessage("I like tea."), AssistantMessage("Noted."))
    assert await store.finish(run, [said[1]], DONE, learn_from=said)


async def test_there_are_never_more_extraction_jobs_than_there_may_be(url: str) -> None:
    many = 1 if url.startswith("sqlite") else 2
    async with AsyncExitStack() as stack:
        opened = [Store.open(url, instance=f"s{number}", jobs=10) for number in range(many)]
        stores = [await stack.enter_async_context(each) for each in opened]
        await asyncio.gather(*(learn(stores[number % many], number) for number in range(100)))
        assert await stores[0].count_extraction_jobs() == 10
