"""A run's events as a streaming HTTP response.

One loop: take all events that are new, send their frames in one write, repeat. It ends with
the run's log, or when the client disconnects, which ends only this reader.

One timer for each stream does two things, so that a token needs no timer. While the stream is
silent, it sends a heartbeat every `heartbeat` seconds. It disconnects a client whose connection has
accepted no data for `write_timeout` seconds. The client loses nothing: it can resume from its
cursor.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from events import Event
from hub import Offer, Reader
from protocols import Encoder

logger = logging.getLogger("parley.api")


class WriteTimeout:
    """Cuts off a sender whose connection takes nothing for too long.

    Args:
        seconds: how long one write may take.
        task: is cancelled then, and `exceeded` is true.
    """

    def __init__(self, seconds: float, task: "asyncio.Task[object]") -> None:
        self.exceeded = False
        self._seconds = seconds
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._sending = 0
        self._since = 0.0

    def begin(self) -> None:
        """A write begins; the time counts from the first pending write."""
        if self._sending == 0:
            self._since = self._loop.time()
        self._sending += 1

    def end(self) -> None:
        """A write was accepted by the connection, or abandoned."""
        self._sending -= 1
        self._since = self._loop.time()

    def check(self) -> None:
        """Cut the sender off if its write has taken too long; called now and then."""
        is_late = self._sending > 0 and self._loop.time() - self._since > self._seconds
        if is_late and not self.exceeded:
            self.exceeded = True
            self._task.cancel()


async def cut_off(scope: Scope) -> None:
    """Abort a connection with all its unsent data, if the server supports it."""
    abort = scope.get("extensions", {}).get("parley.abort")
    if abort is not None:
        abort()
        await asyncio.sleep(0)  # the server learns of it in the next turn of the loop


def offer_of(scope: Scope, encode: Callable[[Event], bytes]) -> Offer | None:
    """Return the function that sends events without waiting, if the server supports it."""
    offer = scope.get("extensions", {}).get("parley.offer")
    return None if offer is None else partial(offer, encode)


async def replay_to(encoder: Encoder, events: AsyncIterator[Event]) -> None:
    """Let an encoder with a memory see what its client has seen; its frames are dropped."""
    async for event in events:
        encoder.encode(event)


class EventStream(Response):
    """A run's events as a streaming response.

    Args:
        reader: follows the run.
        encoder: makes the frames.
        heartbeat: seconds of silence after which one is sent.
        write_timeout: seconds that one write may take.
        headers: sent beside those of every event stream.
    """

    def __init__(
        self,
        reader: Reader,
        encoder: Encoder,
        *,
        heartbeat: float,
        write_timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.media_type = encoder.media_type
        self.status_code = 200
        self.background = None
        self.init_headers(
            {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **(headers or {})}
        )
        self._reader = reader
        self._encoder = encoder
        self._heartbeat = heartbeat
        self._write_timeout = write_timeout
        self._gone = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("an event stream is served by a task")
        timeout = WriteTimeout(self._write_timeout, task)
        watcher = asyncio.create_task(self._watch_client(receive))
        self._tick(timeout)
        try:
            await self._send_all(send, timeout, offer_of(scope, self._encoder.encode))
        except asyncio.CancelledError:
            if not timeout.exceeded or task.uncancel() > 0:
                raise
            logger.info("A reader took nothing for %g s and was cut off", self._write_timeout)
            await cut_off(scope)
        finally:
            self._timer.cancel()
            watcher.cancel()

    async def _send_all(self, send: Send, timeout: WriteTimeout, offer: Offer | None) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        while not self._reader.ended and not self._gone:
            frames = b"".join(map(self._encoder.encode, await self._reader.read(offer)))
            if frames or not self._reader.ended:
                timeout.begin()
                await send(_body(frames or self._encoder.heartbeat))
                timeout.end()
        await send(_body(b"", more=False))

    def _tick(self, timeout: WriteTimeout) -> None:
        timeout.check()
        self._reader.wake()
        self._timer = asyncio.get_running_loop().call_later(self._heartbeat, self._tick, timeout)

    async def _watch_client(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._reader.wake()


def _body(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}
