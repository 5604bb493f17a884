"""What is measured. Each scenario adds its samples to the figures, under its name.

CPU figures are of the server process. "Per token" is all that the server did from the first
byte of the first request to its rest after the last answer, divided by the tokens: the fixed
cost of the chats is in it. Only at the paced streams it is a window in which no chat begins or
ends.
"""

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bench import load
from bench.load import Record, Target
from bench.measure import Figures, Process, settled

MICRO, MILLI, KIB = 1e-6, 1e-3, 1024


class Fast(NamedTuple):
    """Chats of one script, all of them in `streams` concurrent streams."""

    name: str
    streams: int
    chats: int
    script: str
    tokens: int
    once: bool = False


FAST = (
    Fast("1 stream", 1, 6, "fast-500", 500),
    Fast("32 streams", 32, 32, "fast-500", 500),
    Fast("32 streams, a write a token", 32, 32, "single-500", 500, once=True),
    Fast("200 streams", 200, 200, "fast-250", 250, once=True),
)
PACED, FIXED, TOOLS_ALONE, TOOLS_MANY = "paced", "fixed", "tools alone", "tools, 50 at once"
ADDED_ALONE, ADDED_BUSY = "added time to first token", "added time at 200 streams"
REMEMBERING = "added time to first token by memory"
MESSAGES = "messages per token"
IDLE, OPEN = "memory per idle socket", "memory per open stream"

PACED_STREAMS, RATE = 200, 5
RAMP, WINDOW = 4.0, 6.0
PROBE_SECONDS = 4.0
FIXED_TURNS, FIXED_CHATS, PROBES = 6, 32, 100
IDLE_SOCKETS, OPEN_STREAMS = 500, 200

SCRIPTS = (
    "fast-1",
    *dict.fromkeys(fast.script for fast in FAST),
    *(f"paced-{RATE}-{tokens}" for tokens in (20, 45, 55)),
    "tools-5",
)


async def warm_up(figures: Figures, target: Target) -> None:
    """Load what is loaded lazily, fill pools and caches."""
    with figures.voiding("warm-up", target.name):
        await load.chats(target, "fast-1", 1, total=40, at_once=8)
        await load.chats(target, "fast-500", 500, total=8, at_once=4)


async def fast(figures: Figures, target: Target, process: Process, case: Fast) -> None:
    """CPU per token of streams as fast as they come, in µs."""
    with figures.voiding(case.name, target.name):
        before, tokens = process.cpu_seconds(), case.chats * case.tokens
        records = await load.chats(
            target, case.script, case.tokens, total=case.chats, at_once=case.streams
        )
        spent = await settled(process) - before
        figures.add(case.name, target.name, spent / tokens / MICRO)
        messages = sum(record.messages for record in records)
        figures.add(f"{case.name}, {MESSAGES}", target.name, messages / tokens)


async def fixed(
    figures: Figures, targets: Sequence[Target], processes: Mapping[str, Process]
) -> None:
    """CPU of accepting, starting and ending one chat, of one token, in ms; in many short turns."""
    spent = dict.fromkeys(targets, 0.0)
    with figures.voiding(FIXED, ", ".join(target.name for target in targets)):
        for _ in range(FIXED_TURNS):
            for target in targets:
                process = processes[target.server]
                before = process.cpu_seconds()
                await load.chats(target, "fast-1", 1, total=FIXED_CHATS, at_once=8)
                spent[target] += await settled(process) - before
        for target in targets:
            figures.add(FIXED, target.name, spent[target] / FIXED_TURNS / FIXED_CHATS / MILLI)


async def added_alone(figures: Figures, target: Target, direct: Target) -> None:
    """Time to first token through the server, less the upstream's own, one at a time, in ms.

    The median of all probes is one sample, so that it can be compared within a repetition.
    """
    with figures.voiding(ADDED_ALONE, target.name):
        through, own = [], []
        for _ in range(PROBES // 2):
            through.append((await load.chat(target, "fast-1", 1)).time_to_first_token)
            own.append((await load.chat(direct, "fast-1", 1)).time_to_first_token)
        added = statistics.median(through) - statistics.median(own)
        figures.add(ADDED_ALONE, target.name, added / MILLI)


async def remembering(figures: Figures, target: Target) -> None:
    """Time to first token with memory, less that without, turn about, in ms."""
    with figures.voiding(REMEMBERING, target.name):
        with_memory = target._replace(remembers=True)
        await load.chats(with_memory, "fast-1", 1, total=4, at_once=1)
        for _ in range(PROBES // 2):
            through = (await load.chat(with_memory, "fast-1", 1)).time_to_first_token
            without = (await load.chat(target, "fast-1", 1)).time_to_first_token
            figures.add(REMEMBERING, target.name, (through - without) / MILLI)


async def paced(
    figures: Figures, targets: Sequence[Target], processes: Mapping[str, Process]
) -> None:
    """CPU per token of 200 streams of each server at a real model's pace, in µs.

    The servers work side by side, so that whatever slows the machine down slows all of them.
    """
    tokens = int(RATE * (RAMP + WINDOW + 1))
    who = ", ".join(target.name for target in targets)
    with figures.voiding(PACED, who):
        async with asyncio.TaskGroup() as group:
            streams: dict[Target, list[asyncio.Task[Record]]] = {each: [] for each in targets}
            for _ in range(PACED_STREAMS):
                for target in targets:
                    chat = load.chat(target, f"paced-{RATE}-{tokens}", tokens)
                    streams[target].append(group.create_task(chat))
                    await asyncio.sleep(RAMP / PACED_STREAMS / len(targets))
            start = time.perf_counter()
            before = {each: processes[each.server].cpu_seconds() for each in targets}
            await asyncio.sleep(WINDOW)
            end = time.perf_counter()
            spent = {each: processes[each.server].cpu_seconds() - before[each] for each in targets}
        for target in targets:
            seen = sum(task.result().tokens_between(start, end) for task in streams[target])
            figures.add(PACED, target.name, spent[target] / seen / MICRO)


async def added_busy(figures: Figures, target: Target, direct: Target) -> None:
    """Added time to first token of further chats while 200 paced streams go on, in ms."""
    tokens = int(RATE * (RAMP + PROBE_SECONDS + 1))
    with figures.voiding(ADDED_BUSY, target.name):
        async with asyncio.TaskGroup() as group:
            for _ in range(PACED_STREAMS):
                group.create_task(load.chat(target, f"paced-{RATE}-{tokens}", tokens))
                await asyncio.sleep(RAMP / PACED_STREAMS)
            await _probe(figures, target, direct)


async def _probe(figures: Figures, target: Target, direct: Target) -> None:
    """Begin further chats while 200 go on, 30 a second, each beside one with the upstream."""
    through: list[asyncio.Task[Record]] = []
    own: list[asyncio.Task[Record]] = []
    async with asyncio.TaskGroup() as group:
        for _ in range(PROBES):
            through.append(group.create_task(load.chat(target, "fast-1", 1)))
            await asyncio.sleep(1 / 60)
            own.append(group.create_task(load.chat(direct, "fast-1", 1)))
            await asyncio.sleep(1 / 60)
    base = statistics.median(task.result().time_to_first_token for task in own)
    added = ((task.result().time_to_first_token - base) / MILLI for task in through)
    figures.add(ADDED_BUSY, target.name, *added)


async def tools(figures: Figures, targets: Sequence[Target]) -> None:
    """Time from request to end of a run with five parallel tools of 100 ms, in ms."""
    for target in targets:
        with figures.voiding(TOOLS_ALONE, target.name):
            for _ in range(5):
                record = await load.chat(target, "tools-5", 10)
                figures.add(TOOLS_ALONE, target.name, (record.ended - record.started) / MILLI)
    for _ in range(3):
        for target in targets:
            with figures.voiding(TOOLS_MANY, target.name):
                records = await load.chats(target, "tools-5", 10, total=50, at_once=50)
                took = max(r.ended for r in records) - min(r.started for r in records)
                figures.add(TOOLS_MANY, target.name, took / MILLI)


async def memory(figures: Figures, sse: Target, process: Process) -> None:
    """Resident memory of a fresh server per idle WebSocket, then per open stream, in KiB."""
    await load.chats(sse, "fast-1", 1, total=100, at_once=20)
    for transport in await load.idle_sockets(sse.port, 10):
        transport.close()
    before = process.resident_bytes()
    sockets = await load.idle_sockets(sse.port, IDLE_SOCKETS)
    await settled(process)
    with_idle = process.resident_bytes()
    figures.add(IDLE, sse.server, (with_idle - before) / IDLE_SOCKETS / KIB)
    with figures.voiding(OPEN, sse.server):
        async with asyncio.TaskGroup() as group:
            for _ in range(OPEN_STREAMS):
                group.create_task(load.chat(sse, f"paced-{RATE}-20", 20))
            await asyncio.sleep(3.0)
            with_streams = process.resident_bytes()
        figures.add(OPEN, sse.server, (with_streams - with_idle) / OPEN_STREAMS / KIB)
    for transport in sockets:
        transport.close()
