"""What the tests of the Python client share."""

import asyncio
from typing import Any

import msgspec

from parley_client import Event, ParleyClient, Reset, Run, Timings
from parley_client.events import decode_event
from tests.api.support import follow
from tests.service import DEADLINE, Service

QUICK = Timings(backoff_first=0.01, backoff_most=0.05)
"""So that no test waits for a pause."""


def client_of(url: str, **options: Any) -> ParleyClient:
    """Return a client that tries again at once."""
    return ParleyClient(url, **({"timings": QUICK} | options))


async def all_of(run: Run) -> list[Event]:
    """Return a run's events; it has to end in time."""
    async with asyncio.timeout(3 * DEADLINE):
        return [event async for event in run]


async def until(run: Run, kind: type[Any]) -> list[Event]:
    """Return the events up to the first of a kind."""
    found: list[Event] = []
    async with asyncio.timeout(DEADLINE):
        while not found or not isinstance(found[-1], kind):
            found.append(await anext(run))
    return found


async def log_of(service: Service, run: Run) -> list[Event]:
    """Return what the service itself tells of the run, asked directly."""
    assert run.id is not None
    frames = await follow(service, run.id)
    found = [decode_event(msgspec.json.encode(frame)) for frame in frames]
    assert not any(isinstance(event, Reset) for event in found)
    return found
