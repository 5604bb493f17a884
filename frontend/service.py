"""The service over HTTP, and its runs as server-sent events.

* A run is followed by a thread of its own, because reading blocks and a Streamlit script must stay
  able to answer a click. The threads of one script put what they read into one bounded inbox.
* A lost connection is no end: the thread asks for the rest after its cursor until it is there.
  Leaving ends no run either. A thread that is left ends with the next bytes that come, which the
  service's heartbeat bounds.
* A message is sent under an idempotency key, so that it can be sent again without being said twice.
"""

import json
import queue
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import quote

import requests

TIMEOUT = (5.0, 30.0)
"""Seconds until a connection stands, and between two reads of a plain answer."""

SILENCE = (5.0, 50.0)
"""The same of a stream, in which something comes every 15 seconds."""

PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds before each further attempt to reach the service; the last one for all that follow."""

INBOX = 1000
"""How many events wait for the script; the service holds what is behind them."""

_LINE_END = re.compile(rb"\r\n|\n|\r(?=[^\n])")  # a CR at the end may be half of a CRLF


class Problem(Exception):
    """What the service refused, or that it is not there.

    Attributes:
        code: its stable name; `unreachable` where there was no answer.
        status: of the answer, 0 where there was none.
    """

    def __init__(self, message: str, code: str, status: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


@dataclass(frozen=True)
class Said:
    """One event of a run, and the cursor behind it."""

    cursor: str
    event: dict[str, Any]


@dataclass(frozen=True)
class Accepted:
    """The service took a message: its run has this id."""

    run_id: str


@dataclass(frozen=True)
class Lost:
    """There is no connection at present; another attempt follows."""


@dataclass(frozen=True)
class Refused:
    """The end of following: the service took no message, or knows the run no more."""

    problem: Problem


News: TypeAlias = Said | Accepted | Lost | Refused


class Frames:
    """Bytes of a stream in, its events out. A read may end anywhere, also inside a character.

    The format is the one of the HTML standard, 9.2.6; of its fields `id` and `data` are used.
    """

    def __init__(self) -> None:
        self._tail = b""
        self._data: list[bytes] = []
        self._cursor = ""

    def feed(self, chunk: bytes) -> list[Said]:
        """Return the events that `chunk` completes, in order; often none."""
        *lines, self._tail = _LINE_END.split(self._tail + chunk)
        return [said for line in lines if (said := self._line(line)) is not None]

    def _line(self, line: bytes) -> Said | None:
        if line:
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                self._data.append(value)
            elif name == b"id":
                self._cursor = value.decode()
            return None
        if not self._data:
            return None
        data, self._data = b"\n".join(self._data), []
        return Said(self._cursor, json.loads(data))


class Service:
    """The service at an address, such as `http://localhost:8000`."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def get(self, *path: str, **query: str | int) -> Any:
        """Return the JSON at a path, given by its parts.

        Raises:
            Problem: the service refused, or is not there.
        """
        return self._json("GET", path, query)

    def post(self, *path: str) -> Any:
        """Post nothing to a path, and return the JSON of the answer; raises as `get`."""
        return self._json("POST", path, {})

    def delete(self, *path: str) -> None:
        """Delete what is at a path; raises as `get`."""
        self._json("DELETE", path, {})

    def stream(self, message: dict[str, Any], key: str) -> requests.Response:
        """Send a message, the body of `POST /chat/stream`; raises as `get`."""
        return self._opened("POST", ("chat", "stream"), {"Idempotency-Key": key}, message)

    def rest(self, run_id: str, cursor: str) -> requests.Response:
        """Ask for a run's events after a cursor, all of them where it is empty; raises as `get`."""
        headers = {"Last-Event-ID": cursor} if cursor else {}
        return self._opened("GET", ("runs", run_id, "events"), headers)

    def _json(self, method: str, path: tuple[str, ...], query: dict[str, str | int]) -> Any:
        try:
            answer = requests.request(method, self._address(path), params=query, timeout=TIMEOUT)
            if answer.ok:
                return answer.json()
        except requests.RequestException as error:
            raise self._unreachable() from error
        raise _problem(answer)

    def _opened(
        self, method: str, path: tuple[str, ...], headers: dict[str, str], body: Any = None
    ) -> requests.Response:
        plain = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
        try:
            answer = requests.request(
                method,
                self._address(path),
                json=body,
                headers=plain | headers,
                timeout=SILENCE,
                stream=True,
            )
            if answer.status_code == 200:
                return answer
            with answer:
                raise _problem(answer)
        except requests.RequestException as error:
            raise self._unreachable() from error

    def _address(self, path: tuple[str, ...]) -> str:
        return "/".join([self.url, *(quote(part, safe="") for part in path)])

    def _unreachable(self) -> Problem:
        return Problem(f"The service at {self.url} cannot be reached.", "unreachable")


def _problem(answer: requests.Response) -> Problem:
    """Return what an answer says is wrong (RFC 9457)."""
    try:
        said = answer.json()
        faults = "; ".join(fault["message"] for fault in said.get("errors") or [])
        message, code = faults or said["detail"], said["code"]
    except (ValueError, KeyError, TypeError, AttributeError):  # somebody else's answer
        message, code = f"The service answered with the status {answer.status_code}.", "unknown"
    return Problem(message, code, answer.status_code)


class Inbox:
    """What the runs that are followed say, in one place. Used as a context, which leaves them."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._news: queue.Queue[tuple[str, News]] = queue.Queue(INBOX)
        self._left = threading.Event()

    def __enter__(self) -> "Inbox":
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()

    def send(self, name: str, message: dict[str, Any], key: str) -> None:
        """Send a message and follow its run, whose news come under `name`."""
        self._start(name, lambda: self._service.stream(message, key), "", "")

    def follow(self, name: str, run_id: str, cursor: str) -> None:
        """Follow a run after a cursor, from its beginning where that is empty."""
        self._start(name, lambda: self._service.rest(run_id, cursor), run_id, cursor)

    def take(self, wait: float) -> list[tuple[str, News]]:
        """Return what has come, in order; wait so many seconds for it where nothing has."""
        try:
            taken = [self._news.get(timeout=wait)]
        except queue.Empty:
            return []
        while not self._news.empty():  # nobody else takes
            taken.append(self._news.get())
        return taken

    def _start(
        self, name: str, ask: Callable[[], requests.Response], run_id: str, cursor: str
    ) -> None:
        reader = _Reader(self._service, lambda news: self._put(name, news), self._left)
        reader.run_id, reader.cursor = run_id, cursor
        threading.Thread(target=reader.read, args=(ask,), daemon=True).start()

    def _put(self, name: str, news: News) -> None:
        while not self._left.is_set():
            try:
                return self._news.put((name, news), timeout=1.0)
            except queue.Full:
                continue
        return None


class _Reader:
    """Reads one run to its end, through any number of connections."""

    def __init__(
        self, service: Service, tell: Callable[[News], None], left: threading.Event
    ) -> None:
        self._service = service
        self._tell = tell
        self._left = left
        self._failures = 0
        self.run_id = ""
        self.cursor = ""

    def read(self, ask: Callable[[], requests.Response]) -> None:
        """Read the stream that `ask` opens, and the rest of the run where it breaks off."""
        while not self._left.is_set():
            try:
                if self._read_one(ask()):
                    return
            except Problem as problem:
                is_passing = problem.status == 0 or problem.status >= 500
                if not (self.run_id and is_passing):
                    self._tell(Refused(problem))
                    return
            except requests.RequestException:
                pass  # the connection broke: what is missing comes over the next one
            self._tell(Lost())
            self._left.wait(PAUSES[min(self._failures, len(PAUSES) - 1)])
            self._failures += 1
            ask = self._rest

    def _rest(self) -> requests.Response:
        return self._service.rest(self.run_id, self.cursor)

    def _read_one(self, answer: requests.Response) -> bool:
        """Tell what one connection says; return whether it was the end of the run."""
        frames = Frames()
        with answer:
            if not self.run_id:
                self.run_id = answer.headers["X-Run-Id"]
                self._tell(Accepted(self.run_id))
            for chunk in answer.iter_content(None):
                for said in frames.feed(chunk):
                    self._failures = 0
                    self.cursor = said.cursor
                    self._tell(said)
                    if said.event["event_type"] in ("chat_complete", "error"):
                        return True
                if self._left.is_set():
                    return True
        return False
