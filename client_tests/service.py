"""The service in a process of its own, and the scripted model that it asks.

Many clients block the thread that calls them, so the model (`tests.upstream`) lives in a thread
with an event loop of its own. It is told what to say before a client asks; each test begins with
a model that says nothing.

The service runs in the environment that `make run` makes, whatever interpreter the clients have;
`SERVICE_PYTHON` names another one.
"""

import asyncio
import os
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any
from urllib.request import urlopen

from tests.upstream import EXHAUSTED, Reply, Upstream

ROOT = Path(__file__).parent.parent
PYTHON = os.environ.get("SERVICE_PYTHON", str(ROOT / ".venv" / "bin" / "python"))
START = 30.0
"""Seconds that the service may take until it listens."""

MODEL = "scripted"
"""The only model that the service allows."""


class Model:
    """What the model says next, and what it was asked.

    Attributes:
        requests: the bodies of the requests since the last `says`.
    """

    def __init__(self) -> None:
        self._replies: deque[Reply] = deque()
        self._upstream = Upstream(self._next)
        self._loop = asyncio.new_event_loop()
        self._before = 0

    def says(self, *replies: Reply) -> None:
        """Forget all before, and give these replies to the next requests, in order."""
        self._before = self._upstream.asked.value
        self.requests.clear()
        self._replies = deque(replies)

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The bodies of the requests so far, decoded."""
        return self._upstream.requests

    @property
    def base_url(self) -> str:
        """Where the model is asked."""
        return self._upstream.base_url

    def asked(self, count: int) -> None:
        """Return once so many requests have come since the last `says`."""
        future = asyncio.run_coroutine_threadsafe(
            self._upstream.asked.reach(self._before + count), self._loop
        )
        future.result(START)

    @property
    def unsaid(self) -> int:
        """How many replies nobody has asked for."""
        return len(self._replies)

    def _next(self, body: dict[str, Any]) -> Reply:
        return self._replies.popleft() if self._replies else EXHAUSTED

    @contextmanager
    def serving(self) -> Iterator["Model"]:
        """Answer while the body runs."""
        loop = self._loop
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._upstream.__aenter__(), loop).result(START)
            yield self
            asyncio.run_coroutine_threadsafe(self._upstream.__aexit__(), loop).result(START)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


@dataclass(frozen=True)
class Service:
    """Where the service is."""

    url: str

    @property
    def v1(self) -> str:
        """What a client of OpenAI takes as its base URL."""
        return f"{self.url}/v1"


@contextmanager
def running(**environment: str) -> Iterator[Service]:
    """Run the service in a process, in a folder of its own, until the body ends."""
    url = f"http://127.0.0.1:{_free_port()}"
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    with TemporaryDirectory() as directory:
        own = {"PORT": url.rpartition(":")[2], "DATA_DIR": directory, "DEMO_TOKENS_PER_SECOND": "0"}
        child = subprocess.Popen(
            [PYTHON, "app.py"], cwd=ROOT, env=kept | own | environment, stderr=subprocess.PIPE
        )
        assert child.stderr is not None
        said: deque[str] = deque(maxlen=100)
        listens = threading.Event()
        with child:
            log = threading.Thread(target=_drain, args=(child.stderr, url, said, listens))
            log.start()
            try:
                assert listens.wait(START), said
                assert _answers(url), said
                yield Service(url)
            finally:
                child.kill()
                log.join()


def _drain(log: IO[bytes], url: str, said: deque[str], listens: threading.Event) -> None:
    """Read a log to its end, so that its writer never waits; tell when it names the address."""
    for line in log:
        said.append(line.decode())
        if url in said[-1]:
            listens.set()
    listens.set()


def _answers(url: str) -> bool:
    """Tell whether the service is up; one that listens answers once it is."""
    try:
        with urlopen(f"{url}/health", timeout=START) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
