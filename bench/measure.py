"""Processes under measurement: each on its core, with its CPU clock and its memory."""

import asyncio
import itertools
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from bench.load import Void

ROOT = Path(__file__).parent.parent
START_SECONDS = 30.0


class TooFewCores(Exception):
    """The benchmark needs a core for the server and one for the load."""


def cores() -> tuple[int, int]:
    """Return the server's core, and the one that the load client and the upstream share."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise TooFewCores("the benchmark needs two cores: one for the server, one for the load")
    return allowed[0], allowed[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    def __init__(self, pid: int, port: int) -> None:
        self.pid = pid
        self.port = port
        self._clock = (~pid << 3) | 2  # Linux: the CPU clock of another process, all its threads

    def cpu_seconds(self) -> float:
        """Return the user and system time of all threads, in nanosecond steps."""
        return time.clock_gettime(self._clock)

    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def running(module: str, core: int, **environment: str) -> Iterator[Process]:
    """Run `python -m module` on one core until the block ends; it gets a free `PORT`.

    It sees no setting of this shell and no `.env`: only `environment`, and an empty directory
    of its own as working and `DATA_DIR` directory.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="parley-bench-") as directory:
        variables = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "DATA_DIR": directory,
            "LOG_LEVEL": "WARNING",
            **environment,
        }
        child = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=directory,
            env=variables,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        try:
            _wait_until_listening(child, port)
            yield Process(child.pid, port)
        finally:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _wait_until_listening(child: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and child.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{child.args!r} did not start to listen")


def create_agents(port: int, scripts: Iterable[str]) -> None:
    """Create one agent a script on the service; both have the script's name."""
    for script in scripts:
        tools = ["wait"] if script.startswith("tools") else []
        config = {"model": script, "instructions": "Answer briefly.", "tools": tools}
        _post(port, f"/agents/{script}", config)


def remember(port: int, user: str, sentences: Iterable[str]) -> None:
    for sentence in itertools.islice(sentences, 100):
        _post(port, "/memories", {"memory": sentence, "user_id": user})


def _post(port: int, path: str, body: dict[str, Any]) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=msgspec.json.encode(body),
        headers={"content-type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=30).close()


class Figures:
    """Samples by scenario and target; a figure is their median, nothing where it is void."""

    def __init__(self) -> None:
        self._samples: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        self.void: dict[tuple[str, str], str] = {}

    def add(self, scenario: str, target: str, *samples: float) -> None:
        self._samples[scenario, target].extend(samples)

    @contextmanager
    def voiding(self, scenario: str, target: str) -> Iterator[None]:
        """Note a lost token as the figure's end, and go on with the other figures."""
        try:
            yield
        except* Void as failures:
            self.void[scenario, target] = str(failures.exceptions[0])

    def samples(self, scenario: str, target: str) -> list[float]:
        """Return the samples in the order of the repetitions; none where the figure is void."""
        key = scenario, target
        return [] if key in self.void else self._samples.get(key, [])

    def median(self, scenario: str, target: str) -> float | None:
        samples = self.samples(scenario, target)
        return statistics.median(samples) if samples else None

    def quantile(self, scenario: str, target: str, share: float) -> float | None:
        """Return the sample below which that share of all lies, if there is one."""
        samples = sorted(self.samples(scenario, target))
        return samples[min(len(samples) - 1, int(share * len(samples)))] if samples else None


async def settled(process: Process) -> float:
    """Return the CPU seconds once the work behind the last answer is done, too."""
    before = process.cpu_seconds()
    for _ in range(40):
        await asyncio.sleep(0.05)
        now = process.cpu_seconds()
        if now - before < 0.0005:
            break
        before = now
    return now
