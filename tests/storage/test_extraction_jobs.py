"""The queue of what is to be learned."""

import pytest

from caller import Caller
from messages import AssistantMessage, UserMessage
from storage import ExtractionJob, StoredRun, extraction_jobs
from storage.store import Store
from tests.storage.support import ANN, a_run

BEN = Caller("acme", "ben")
SAID = (UserMessage("I love pasta."), AssistantMessage("Noted."))


MOST = 4


async def teach(store: Store, owner: Caller = ANN) -> StoredRun:
    run = a_run(owner=owner)
    await store._db.write(extraction_jobs.add, run, SAID, MOST)
    return run


async def taken(store: Store) -> ExtractionJob:
    job = await store.take_extraction_job()
    assert job is not None
    return job


async def test_jobs_are_taken_one_after_the_other_and_once(store: Store) -> None:
    first, second = await teach(store), await teach(store, BEN)
    one, two = await taken(store), await taken(store)
    assert (one.run_id, one.owner, one.messages, one.attempts) == (first.id, ANN, SAID, 1)
    assert (two.run_id, two.owner) == (second.id, BEN)
    assert await store.take_extraction_job() is None
    assert await store.count_extraction_jobs() == 2
    await store.drop_extraction_job(one)
    assert await store.count_extraction_jobs() == 1


async def test_what_could_not_be_learned_waits_and_comes_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await teach(store)
    await store.return_extraction_job(await taken(store))
    assert await store.take_extraction_job() is None
    monkeypatch.setattr(extraction_jobs, "PAUSE", -1.0)
    await teach(store)
    await store.return_extraction_job(await taken(store))
    again = await taken(store)
    assert again.run_id != run.id
    assert again.attempts == 2


async def test_a_job_of_a_process_that_is_gone_is_taken_by_another(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        Store.open(url, instance="one") as one,
        Store.open(url, instance="two") as two,
    ):
        monkeypatch.setattr(extraction_jobs, "HELD", -1.0 if one.kind == "postgresql" else 60.0)
        run = await teach(one)
        late = await taken(one)
        job = await taken(two)
        assert (job.run_id, job.attempts) == (run.id, 2)
        await one.drop_extraction_job(late)
        await one.return_extraction_job(late)
        assert await two.count_extraction_jobs() == 1
        await two.drop_extraction_job(job)
        assert await two.count_extraction_jobs() == 0


async def test_a_job_that_is_held_is_nobody_elses(postgres_url: str) -> None:
    async with (
        Store.open(postgres_url, instance="one") as one,
        Store.open(postgres_url, instance="two") as two,
    ):
        await teach(one)
        await taken(one)
        assert await two.take_extraction_job() is None


async def test_the_oldest_go_where_there_are_too_many(store: Store) -> None:
    runs = [await teach(store) for _ in range(MOST + 2)]
    assert await store.count_extraction_jobs() == MOST
    assert [(await taken(store)).run_id for _ in range(MOST)] == [run.id for run in runs[2:]]


async def test_what_a_user_wants_forgotten_is_not_learned(store: Store) -> None:
    await teach(store)
    run = await teach(store, BEN)
    await teach(store)
    assert (await store.count_extraction_jobs(ANN), await store.count_extraction_jobs(BEN)) == (
        2,
        1,
    )
    await store.forget_extraction_jobs(ANN)
    assert await store.count_extraction_jobs() == 1
    assert (await taken(store)).run_id == run.id
    await store.forget_extraction_jobs(Caller("other", "ben"))
    assert await store.count_extraction_jobs() == 1
