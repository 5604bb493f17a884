"""The figures as text: the targets, the tables, and `docs/benchmark.md`."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from bench import memory, plot, scenarios
from bench.measure import ROOT, Figures

SERVICE, UNSTORED, PLAIN, RELAY = "service", "nothing stored", "plain version", "raw relay"
SSE, SOCKET = f"{SERVICE}, SSE", f"{SERVICE}, WebSocket"
COMPLETIONS = f"{SERVICE}, OpenAI"
PLAIN_SSE, PLAIN_SOCKET = f"{PLAIN}, SSE", f"{PLAIN}, WebSocket"
RELAY_SSE = f"{RELAY}, SSE"
UNSTORED_SSE = f"{UNSTORED}, SSE"
COLUMNS = (SSE, SOCKET, COMPLETIONS, UNSTORED_SSE, PLAIN_SSE, PLAIN_SOCKET, RELAY_SSE)

PACKAGES = (
    *("fastapi", "starlette", "uvicorn", "uvloop", "httptools", "websockets"),
    *("pydantic", "msgspec", "openai", "httpx2", "aiohttp"),
)
FAST_32, SINGLE_32 = "32 streams", "32 streams, a write a token"


class Goal(NamedTuple):
    """A target: the samples, whose median counts, and the bound on it."""

    text: str
    samples: list[float]
    limit: float
    unit: str = "×"

    def row(self) -> tuple[str, ...]:
        if not self.samples:
            return self.text, "–", "–", f"≤ {_number(self.limit, self.unit)}", "not measured"
        measured = statistics.median(self.samples)
        spread = f"{_number(min(self.samples))} to {_number(max(self.samples))}"
        return (
            self.text,
            _number(measured, self.unit),
            spread if len(self.samples) > 1 else "–",
            f"≤ {_number(self.limit, self.unit)}",
            "met" if measured <= self.limit else "not met",
        )


def goals(figures: Figures) -> list[Goal]:
    get = figures.samples

    def ratio(scenario: str, column: str, to: str) -> list[float]:
        """Compare repetition by repetition, so that a slow spell of the machine hits both."""
        pairs = zip(get(scenario, column), get(scenario, to), strict=False)
        return [own / other for own, other in pairs]

    fast, pace = "32 streams as fast as they come", "200 paced streams"
    paced, fixed, many = scenarios.PACED, scenarios.FIXED, scenarios.TOOLS_MANY
    first, tools = scenarios.ADDED_ALONE, "50 runs of five 100 ms tools at once"
    slowest = figures.quantile(scenarios.ADDED_BUSY, SSE, 0.99)
    busy = [] if slowest is None else [slowest]
    return [
        Goal(f"{fast}, SSE: to the plain version", ratio(FAST_32, SSE, PLAIN_SSE), 0.07),
        Goal(f"{fast}, WebSocket: to the same", ratio(FAST_32, SOCKET, PLAIN_SOCKET), 0.07),
        Goal(f"{fast}, chat completions: to native SSE", ratio(FAST_32, COMPLETIONS, SSE), 1.3),
        Goal(f"{pace}, SSE: to the raw relay", ratio(paced, SSE, RELAY_SSE), 1.3),
        Goal(f"{pace}, WebSocket: to the raw relay (SSE)", ratio(paced, SOCKET, RELAY_SSE), 1.3),
        Goal(f"{pace}, SSE: to the plain version", ratio(paced, SSE, PLAIN_SSE), 1 / 3),
        Goal(f"{pace}, WebSocket: to the same", ratio(paced, SOCKET, PLAIN_SOCKET), 1 / 3),
        Goal(f"{pace}, SSE: to nothing stored", ratio(paced, SSE, UNSTORED_SSE), 1.1),
        Goal(
            "a chat's fixed cost, SSE: to the plain version, which stores nothing",
            ratio(fixed, SSE, PLAIN_SSE),
            0.75,
        ),
        Goal("the same with nothing stored", ratio(fixed, UNSTORED_SSE, PLAIN_SSE), 1 / 2),
        Goal("added time to first token, to the plain version", ratio(first, SSE, PLAIN_SSE), 1),
        Goal(f"the same beside {pace}, 99th percentile", busy, 50, "ms"),
        Goal(f"{tools}: to the plain version", ratio(many, SSE, PLAIN_SSE), 0.33),
        Goal("one such run, alone", get(scenarios.TOOLS_ALONE, SSE), 130, "ms"),
        Goal("memory per open SSE stream", get(scenarios.OPEN, SERVICE), 50, "KiB"),
        Goal("memory per idle WebSocket", get(scenarios.IDLE, SERVICE), 25, "KiB"),
        Goal(
            "recalling of 10,000 memories (100,000 in all), 99th percentile",
            get(memory.RECALL_P99, SERVICE),
            150,
            "ms",
        ),
    ]


def _number(value: float | None, unit: str = "") -> str:
    if value is None:
        return "–"
    digits = 2 if unit == "×" or value < 2 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}{' ' if unit else ''}{unit}"


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an aligned Markdown table; all columns but the first are right-aligned."""
    cells = [list(head), *map(list, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    marks = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for row in [cells[0], marks, *cells[1:]]:
        first, *others = (
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append(f"| {' | '.join([first, *others])} |")
    return "\n".join(lines)


def targets(figures: Figures) -> str:
    head = ("target", "median", "lowest to highest", "to reach", "")
    return _rows(head, [goal.row() for goal in goals(figures)])


def tables(figures: Figures) -> str:
    """Return the table of all figures, and why any of them is void."""
    get = figures.median

    def p99(scenario: str, column: str) -> float | None:
        return figures.quantile(scenario, column, 0.99)

    def row(text: str, scenario: str, find: Callable[[str, str], float | None] = get) -> list[str]:
        return [text, *(_number(find(scenario, column)) for column in COLUMNS)]

    def memory_row(text: str, scenario: str) -> list[str]:
        own, plain = (_number(get(scenario, server)) for server in (SERVICE, PLAIN))
        return [text, own, "", "", "", plain, "", ""]

    def own_row(text: str, scenario: str, column: str = SERVICE) -> list[str]:
        return [text, _number(get(scenario, column)), *[""] * (len(COLUMNS) - 1)]

    rows = [
        *(row(f"{case.name}: CPU µs per token", case.name) for case in scenarios.FAST),
        row(f"32 streams: {scenarios.MESSAGES}", f"{FAST_32}, {scenarios.MESSAGES}"),
        row("200 streams, 5 tokens a second: CPU µs per token", scenarios.PACED),
        row("fixed cost of a chat: CPU ms", scenarios.FIXED),
        row("added time to first token, alone: ms", scenarios.ADDED_ALONE),
        row("the same beside 200 streams, median: ms", scenarios.ADDED_BUSY),
        row("the same beside 200 streams, 99th percentile: ms", scenarios.ADDED_BUSY, p99),
        row("five 100 ms tools, one run: ms", scenarios.TOOLS_ALONE),
        row("five 100 ms tools, 50 runs at once: ms", scenarios.TOOLS_MANY),
        memory_row("memory per idle WebSocket: KiB", scenarios.IDLE),
        memory_row("memory per open SSE stream: KiB", scenarios.OPEN),
        own_row("recalling of 10,000 memories, median: ms", memory.RECALL_MEDIAN),
        own_row("the same, 99th percentile: ms", memory.RECALL_P99),
        own_row("the same, CPU: ms", memory.RECALL_CPU),
        own_row("the same, longest stall of the event loop: ms", memory.LOOP_STALL),
        own_row("learning from an exchange as it was said: ms", memory.LEARN),
        own_row("time to first token that memory adds: ms", scenarios.REMEMBERING, SSE),
    ]
    void = [f"\nVoid: {name}, {who}: {why}." for (name, who), why in figures.void.items()]
    return "\n".join([_rows(("", *COLUMNS), rows), *void])


def machine() -> str:
    """Return the processor, its cores and memory, the system and Python, in one line."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB; "
        f"{platform.system()} {platform.release()}; "
        f"{platform.python_implementation()} {platform.python_version()}"
    )


def write(figures: Figures, seconds: float) -> None:
    docs = ROOT / "docs"
    docs.mkdir(exist_ok=True)
    template = (Path(__file__).parent / "report.md").read_text()
    text = template.format(
        date=time.strftime("%Y-%m-%d"),
        minutes=f"{seconds / 60:.0f}",
        machine=machine(),
        versions=", ".join(f"{package} {version(package)}" for package in PACKAGES),
        targets=targets(figures),
        figures=tables(figures),
    )
    (docs / "benchmark.md").write_text(text)
    panels = [
        plot.Panel("32 streams, as fast as they come", "CPU µs per token", FAST_32),
        plot.Panel("200 streams, 5 tokens a second each", "CPU µs per token", scenarios.PACED),
        plot.Panel("Accepting, starting and ending a chat", "CPU ms", scenarios.FIXED),
        plot.Panel(
            "50 runs at once, five 100 ms tools each", "ms end to end", scenarios.TOOLS_MANY
        ),
    ]
    (docs / "benchmark.svg").write_text(plot.svg(panels, COLUMNS, figures.median))
