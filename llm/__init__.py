"""Model providers: each turns its own stream into reply parts.

A provider is one file with one class. It knows nothing of runs, events or tools' execution:
it gets a `ModelRequest` and yields batches of `ReplyPart`, one batch for each piece that
arrives from its source, so that what came together stays together.
"""

from collections.abc import AsyncGenerator
from typing import Protocol

from llm.dialects import Dialect
from messages import ModelRequest, ReplyPart


class Provider(Protocol):
    """Where answers come from."""

    name: str
    default_model: str

    @property
    def is_available(self) -> bool:
        """Whether it makes sense to ask the default model now."""

    def stream(self, request: ModelRequest) -> AsyncGenerator[list[ReplyPart], None]:
        """Ask the model and yield its reply as it arrives.

        Yields non-empty batches. The last part of the last batch is the only `EndPart`; the
        whole tool calls stand directly before it. Cancelling the caller, or closing the
        generator, closes the connection to the model.

        Raises:
            errors.UpstreamError: the provider refused, broke off, or sent nonsense. Retries
                happen inside, and only while nothing has been yielded.
        """

    def answering(self, wanted: str | None) -> str:
        """Return the model that answers where an agent wants this one, or names none."""

    def dialect_for(self, model: str) -> Dialect | None:
        """Return what is known of a model's dialect by now; None where there are none."""

    async def warm(self) -> None:
        """Do slow preparations ahead of the first request; may raise `errors.UpstreamError`."""

    async def aclose(self) -> None: ...
