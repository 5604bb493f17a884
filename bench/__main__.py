"""`python -m bench [--quick]`: measure, print the table, write `docs/benchmark.md`.

The exit status says whether the measurement ran, not whether a target was met: the table says
that.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import get_args

import uvloop

from bench import memory, report, scenarios
from bench.load import REMEMBERED, Target, Wire
from bench.measure import Figures, Process, TooFewCores, cores, create_agents, remember, running
from bench.report import PLAIN, RELAY, SERVICE, UNSTORED

MODULES = {SERVICE: "service", UNSTORED: "unstored", PLAIN: "plain", RELAY: "relay"}


@contextmanager
def server(name: str, upstream: Process, core: int) -> Iterator[Process]:
    environment = {
        "OPENAI_BASE_URL": f"http://127.0.0.1:{upstream.port}/v1",
        "OPENAI_API_KEY": "benchmark",
        # Whatever asks for no model in particular gets an answer, such as what reads exchanges.
        "OPENAI_MODEL": "fast-1",
    }
    with running(f"bench.servers.{MODULES[name]}", core, **environment) as process:
        if name in (SERVICE, UNSTORED):
            create_agents(process.port, scenarios.SCRIPTS)
        if name == SERVICE:
            remember(process.port, REMEMBERED, memory.sentences())
        yield process


def targets(processes: dict[str, Process]) -> list[Target]:
    """Return each server's wires, in the order of the tables."""
    found = (
        Target(name, process.port, wire)
        for name, process in processes.items()
        for wire in get_args(Wire)
    )
    return [target for target in found if target.name in report.COLUMNS]


async def measure(quick: bool, names: list[str]) -> Figures:
    figures = Figures()
    server_core, load_core = cores()
    os.sched_setaffinity(0, {load_core})
    with ExitStack() as stack:
        upstream = stack.enter_context(running("bench.upstream", load_core))
        processes = {
            name: stack.enter_context(server(name, upstream, server_core)) for name in names
        }
        direct = Target("upstream", upstream.port, "OpenAI")
        wires, repetitions = targets(processes), 1 if quick else 3
        for target in wires:
            await scenarios.warm_up(figures, target)
        for repetition in range(repetitions):
            say(f"repetition {repetition + 1} of {repetitions}")
            whole = repetition == 0 and not quick
            for target in wires:
                await unpaced(figures, target, direct, processes[target.server], whole)
            await scenarios.fixed(figures, wires, processes)
            native = [each for each in wires if each.wire != "OpenAI"]
            await scenarios.tools(figures, [each for each in native if each.server != RELAY])
            for wire in ("SSE", "WebSocket"):
                at_once = [each for each in wires if each.wire == wire]
                await scenarios.paced(figures, at_once, processes)
            for target in wires:
                if target.wire == "SSE" and target.server != UNSTORED:
                    await scenarios.added_busy(figures, target, direct)
                if target.name == report.SSE:
                    await scenarios.remembering(figures, target)
    await fresh(figures, names, server_core, load_core)
    return figures


async def fresh(figures: Figures, names: list[str], server_core: int, load_core: int) -> None:
    """Run what needs processes that have served nobody yet."""
    with running("bench.upstream", load_core) as upstream:
        for name in names:
            if name not in (UNSTORED, RELAY):
                with server(name, upstream, server_core) as process:
                    say(f"memory: {name}")
                    await scenarios.memory(figures, Target(name, process.port, "SSE"), process)
    if SERVICE in names:
        say("long-term memory")
        for name, value in (await memory.measure()).items():
            figures.add(name, SERVICE, value)


async def unpaced(
    figures: Figures, target: Target, direct: Target, process: Process, whole: bool
) -> None:
    """Run what takes as long as the server takes; the slowest cases only if it is the `whole`."""
    for case in scenarios.FAST:
        if whole or not case.once:
            await scenarios.fast(figures, target, process, case)
    if target.wire == "SSE":
        await scenarios.added_alone(figures, target, direct)


def say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one repetition, for a first look")
    parser.add_argument("--only", choices=list(MODULES), action="append", help="measure these only")
    parser.add_argument("--no-write", action="store_true", help="leave docs/ as it is")
    options = parser.parse_args()
    started = time.monotonic()
    try:
        figures = uvloop.run(measure(options.quick, options.only or list(MODULES)))
    except TooFewCores as error:
        sys.exit(str(error))
    seconds = time.monotonic() - started
    say(f"took {seconds:.0f} s")
    print(report.targets(figures), report.tables(figures), sep="\n\n")
    if not options.no_write:
        report.write(figures, seconds)


if __name__ == "__main__":
    main()
