"""The Streamlit page as a process that a browser speaks with, and a connection that breaks."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import connect

from client_tests.service import ROOT

FRONTEND = ROOT / "frontend"
DEADLINE = 30.0
"""Seconds that a script or a page may take."""


class Relay:
    """Hands bytes on to the service one at a time, and breaks off.

    Args:
        cuts: after how many bytes of an answer each connection for a stream is broken, in order;
            None: not at all. All further ones are not.

    Attributes:
        swallow: the next request that begins so is handed on, its answer is not.
        is_away: nobody is reached.
        streams: how many streams were asked for.
    """

    def __init__(self, url: str, cuts: list[int | None]) -> None:
        address = urlsplit(url)
        self._to = (str(address.hostname), int(address.port or 0))
        self._cuts = iter(cuts)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.swallow = ""
        self.is_away = False
        self.streams = 0

    def __enter__(self) -> "Relay":
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return  # closed
            if self.is_away:
                client.close()
                continue
            threading.Thread(target=self._hand_on, args=(client,), daemon=True).start()

    def _hand_on(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._to) as service, contextlib.suppress(OSError):
            asked = client.recv(2**20)
            # One request a connection, so that each is seen here.
            service.sendall(asked.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            is_stream = re.match(rb"POST /chat/stream|GET /runs/\S+/events", asked) is not None
            self.streams += is_stream
            left = next(self._cuts, None) if is_stream else None
            threading.Thread(target=_pour, args=(client, service), daemon=True).start()
            swallows = bool(self.swallow) and asked.startswith(self.swallow.encode())
            while answer := service.recv(2**16):
                if swallows:
                    self.swallow = ""
                    break
                kept = answer if left is None else answer[:left]
                for at in range(len(kept)):
                    client.sendall(kept[at : at + 1])
                if left is not None and (left := left - len(kept)) == 0:
                    break
            client.shutdown(socket.SHUT_RDWR)  # wakes the other thread too


def _pour(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):  # one of them is gone
        while sent := source.recv(2**16):
            target.sendall(sent)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


@contextmanager
def serving(url: str) -> Iterator[int]:
    """Run the front end's server in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    options = ("headless=true", "address=127.0.0.1", f"port={port}", "fileWatcherType=none")
    command = [sys.executable, "-m", "streamlit", "run", "frontend/app.py"]
    with subprocess.Popen(
        command + [f"--server.{option}" for option in options],
        cwd=ROOT,
        env=os.environ | {"API_URL": url, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        try:
            assert any(f":{port}" in line and "URL" in line for line in child.stdout)
            yield port
        finally:
            child.kill()


class Page:
    """A page in a browser, as far as the server can tell; `shown` is what stands on it."""

    def __init__(self, port: int, query: str = "") -> None:
        address = f"ws://127.0.0.1:{port}/_stcore/stream"
        self._socket = connect(address, proxy=None, max_size=None, open_timeout=DEADLINE)
        self.query = query
        self.shown: dict[tuple[int, ...], Any] = {}
        self.is_running = True
        self._rerun()

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    @property
    def said(self) -> str:
        """All texts of the page, in their order."""
        kinds = ("markdown", "text", "alert")
        found = []
        for _, element in sorted(self.shown.items()):
            kind = element.WhichOneof("type")
            if kind in kinds:
                found.append(getattr(element, kind).body)
        return "\n".join(found)

    def until(self, is_so: Callable[[], bool]) -> None:
        """Take what the server sends until something is so."""
        while not is_so():
            self._take(ForwardMsg.FromString(self._socket.recv(timeout=DEADLINE)))

    def button(self, label: str) -> str | None:
        """Return the id of a button, where it is there."""
        buttons = (e.button for e in self.shown.values() if e.WhichOneof("type") == "button")
        return next((button.id for button in buttons if button.label == label), None)

    def click(self, label: str) -> None:
        """Click a button once it is there."""
        self.until(lambda: self.button(label) is not None)
        self._rerun(id=self.button(label), trigger_value=True)

    def say(self, message: str) -> None:
        """Type a message and send it, once the input is there."""
        self.until(lambda: self._input() is not None)
        self._rerun(id=self._input(), chat_input_value={"data": message})

    def _input(self) -> str | None:
        kinds = (e.chat_input for e in self.shown.values() if e.WhichOneof("type") == "chat_input")
        return next((each.id for each in kinds), None)

    def _rerun(self, **widget: Any) -> None:
        asked = BackMsg()
        asked.rerun_script.query_string = self.query
        if widget:
            asked.rerun_script.widget_states.widgets.add(**widget)
        self._socket.send(asked.SerializeToString())

    def _take(self, message: ForwardMsg) -> None:
        match message.WhichOneof("type"):
            case "new_session":
                self.shown, self.is_running = {}, True
            case "page_info_changed":
                self.query = message.page_info_changed.query_string
            case "delta" if message.delta.WhichOneof("type") == "new_element":
                element = message.delta.new_element
                assert element.WhichOneof("type") != "exception", element.exception
                self.shown[tuple(message.metadata.delta_path)] = element
            case "script_finished":
                self.is_running = message.script_finished != ForwardMsg.FINISHED_SUCCESSFULLY
