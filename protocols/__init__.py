"""Wire protocols: each turns a run's events into frames.

An encoder is a pure function of the events, total by type: every event that a reader can get
has a place in every protocol, if only as no bytes at all. Where memory is unavoidable it is
in one small object per reader. A new front end is one file here, its line in `ENCODERS` and
its table of cases.
"""

from collections.abc import Callable
from typing import ClassVar, Protocol

from events import ReaderEvent
from protocols.agents_sdk import AgentsSdkEncoder
from protocols.chunks import ChunksEncoder
from protocols.completions import CompletionsEncoder
from protocols.native import EventsEncoder
from protocols.tokens import TokensEncoder


class Encoder(Protocol):
    """What one reader of a streaming HTTP response needs."""

    media_type: ClassVar[str]
    heartbeat: ClassVar[bytes]

    def encode(self, event: ReaderEvent) -> bytes:
        """Return the frames of one event; empty where the protocol has none for it.

        What closes the stream is among the frames of the last event.
        """


ENCODERS: dict[str, Callable[[int], Encoder]] = {
    "events": EventsEncoder,
    "tokens": TokensEncoder,
    "chunks": ChunksEncoder,
    "agents-sdk": AgentsSdkEncoder,
    "openai": CompletionsEncoder,
}
"""Protocol name to encoder; the argument is the epoch of the log that is read."""
