"""The bytes of a streamed answer become reply parts, without I/O: what all providers share.

A reply is complete when the model has said why it stopped; a stream that ends before that was
cut off. What follows a complete reply is of interest, such as the usage, but never an error.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, Literal, TypeAlias

from errors import UpstreamError
from events import Usage
from llm.failures import Failures
from llm.tool_calls import MAX_CALLS, GrowingCall
from messages import EndPart, ReplyPart
from sse import Decoder, FrameTooLarge

Reason: TypeAlias = Literal["stop", "length", "content_filter", "tool_calls"]


class Reply(ABC):
    """One reply as it arrives. Feed it bytes until it `is_over`.

    Args:
        failures: makes the errors.
        taken: ids of calls that exist already; a new call never gets one of them.
        source: names the server in what it gives to be given back to it.

    Attributes:
        failure: what broke the reply; raise it after the parts that came before it.
        is_over: nothing more is expected.
        reasons: `Reason` by the provider's own name; every other one is a plain stop, or that of
            the tool calls.
    """

    reasons: ClassVar[Mapping[str, Reason]]

    def __init__(self, failures: Failures, taken: Iterable[str] = (), source: str = "") -> None:
        self.failure: UpstreamError | None = None
        self.is_over = False
        self._failures = failures
        self._source = source
        self._taken = set(taken)
        self._split: Callable[[bytes], list[bytes]] = Decoder().feed  # into the data of events
        self._batch: list[ReplyPart] = []
        self._calls: list[GrowingCall] = []
        self._reason: str | None = None
        self._usage: Usage | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the model has said that it is done; a break no longer matters."""
        return self._reason is not None

    def feed(self, data: bytes) -> list[ReplyPart]:
        """Return the parts that `data` completes; often none."""
        try:
            for event in self._split(data):
                self._take_event(event)
                if self.is_over:
                    break
        except FrameTooLarge:
            self._fail(self._failures.malformed("an event is too large"))
        except (ValueError, RecursionError):
            self._fail(self._failures.malformed("an event is not valid JSON of its type"))
        batch, self._batch = self._batch, []
        return batch

    def end(self) -> list[ReplyPart]:
        """Return the last parts, the stream being at its end."""
        self._finish()
        batch, self._batch = self._batch, []
        return batch

    @abstractmethod
    def _take_event(self, event: bytes) -> None:
        """Take the data of one event; `ValueError` or `RecursionError`: it cannot be read."""

    def _given_back(self) -> list[ReplyPart]:
        """Return what else the server wants back with a whole reply."""
        return []

    def _begin_call(self, call: GrowingCall) -> None:
        self._calls.append(call)
        if len(self._calls) > MAX_CALLS:
            self._fail(self._failures.malformed(f"it has more than {MAX_CALLS} tool calls"))

    def _fail(self, failure: UpstreamError) -> None:
        self.failure = failure
        self.is_over = True

    def _finish(self) -> None:
        if self.is_over:
            return
        if self._reason is None:
            self._fail(self._failures.truncated())
            return
        self.is_over = True
        calls = [call.finished(self._taken, self._source) for call in self._calls]
        self._batch += [*self._given_back(), *calls]
        reason = self.reasons.get(self._reason, "tool_calls" if calls else "stop")
        self._batch.append(EndPart(reason, self._usage))
