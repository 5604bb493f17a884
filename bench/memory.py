"""How long it takes to recall: 10,000 memories of one user, 100,000 in all.

The rows are written into the store directly; what is measured is `Memories.recall` as the service
calls it, with the words of real sentences, while a probe sees how long the event loop stands
still.
"""

import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from caller import Caller
from memory import rows
from memory.embedder import WordllamaEmbedder
from memory.local import LocalRecords
from memory.long_term import key_of, open_local
from messages import UserMessage

MINE = 10_000
OTHERS = 9
RECALLS = 300
LIMIT = 5

RECALL_MEDIAN, RECALL_P99 = "recall, median", "recall, 99th percentile"
RECALL_CPU, LOOP_STALL, LEARN = "recall, CPU", "recall, loop stall", "learning"

_WHO = ("I", "My sister", "My neighbour", "Our team", "My oldest friend", "The whole family")
_DO = ("loves", "avoids", "collects", "paints", "repairs", "sells", "studies", "writes about")
_WHAT = ("Italian food", "old bicycles", "jazz records", "mountain maps", "chess", "orchids")
_WHEN = ("every Sunday", "since 2019", "in winter", "at work", "with great care", "in Lisbon")


def sentences() -> Iterator[str]:
    """Yield different sentences about a user's life, without an end."""
    for number in itertools.count():
        for words in itertools.product(_WHO, _DO, _WHAT, _WHEN):
            yield f"{' '.join(words)}, note {number}"


async def fill(folder: Path, embedder: WordllamaEmbedder) -> None:
    texts = list(itertools.islice(sentences(), MINE))
    vectors = await embedder.embed(texts)
    records = LocalRecords(folder, embedder.name, embedder.dimensions)
    for number in range(OTHERS + 1):
        owner = key_of(Caller("bench", f"user{number}"))
        drafts = [rows.draft(t, v, None) for t, v in zip(texts, vectors, strict=True)]
        for start in range(0, MINE, 5_000):
            await records.write(owner, rows.add, embedder.name, drafts[start : start + 5_000])
    await records.close()


class Probe:
    """Sees how long the event loop stands still."""

    def __init__(self) -> None:
        self.stall = 0.0
        self._task = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            self.stall = max(self.stall, time.perf_counter() - before - 0.001)

    async def end(self) -> float:
        """Stop looking, and return the longest time in milliseconds."""
        self._task.cancel()
        await asyncio.wait([self._task])
        return self.stall * 1000


async def _measure(folder: Path) -> dict[str, float]:
    embedder = WordllamaEmbedder()
    begun = time.perf_counter()
    await fill(folder, embedder)
    filled = time.perf_counter() - begun
    memories = open_local(folder, embedder, None)
    await memories.warm()
    owner = Caller("bench", "user0")
    probe = Probe()
    cold = [
        await _timed(memories.recall(Caller("bench", f"user{n}"), "food", LIMIT)) for n in range(5)
    ]
    cold_stall = await probe.end()
    questions = [f"What does my sister do {when}? {n}" for n in range(50) for when in _WHEN][
        :RECALLS
    ]
    probe, cpu = Probe(), time.process_time()
    warm = [await _timed(memories.recall(owner, question, LIMIT)) for question in questions]
    cpu = time.process_time() - cpu
    stall = await probe.end()
    learned = [
        await _timed(memories.learn(owner, [UserMessage(f"I own {n} red cars")], f"run{n}"))
        for n in range(50)
    ]
    await memories.aclose()
    await embedder.aclose()
    return {
        "filling": filled * 1000,
        RECALL_MEDIAN: statistics.median(warm),
        RECALL_P99: statistics.quantiles(warm, n=100)[98],
        RECALL_CPU: cpu * 1000 / RECALLS,
        LOOP_STALL: stall,
        "cold recall, longest": max(cold),
        "cold recall, loop stall": cold_stall,
        LEARN: statistics.median(learned),
    }


async def _timed(work: object) -> float:
    begun = time.perf_counter()
    await work  # type: ignore[misc]
    return (time.perf_counter() - begun) * 1000


async def measure() -> dict[str, float]:
    """Return the figures by name, in milliseconds."""
    with tempfile.TemporaryDirectory(prefix="parley-bench-") as folder:
        return await _measure(Path(folder) / "memory")


if __name__ == "__main__":
    for name, value in asyncio.run(measure()).items():
        print(f"{name:>24} {value:10.2f} ms")
