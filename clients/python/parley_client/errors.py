"""The one exception of this package."""

from collections.abc import Mapping
from typing import Any

import msgspec


class ParleyError(Exception):
    """The service refused, or a run failed; or this client is closed.

    A lost connection is no error: it is waited for.

    Attributes:
        message: what happened and what to do, for a person.
        code: the same for a program, such as `conversation_busy`; the client's own codes are
            `client_closed` and `http_error` (an answer that is none of the service).
        status: the HTTP status; None where the answer came over the WebSocket.
        retryable: the same request may succeed later.
        retry_after: in so many seconds, where that is known.
        errors: the faults of invalid values, `{"field": …, "message": …}` each.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
        errors: tuple[Mapping[str, Any], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
        self.retryable = retryable
        self.retry_after = retry_after
        self.errors = errors

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class Refusal(msgspec.Struct, frozen=True):
    """A refusal over the WebSocket: an `error` without a run."""

    code: str
    message: str
    retryable: bool = False
    retry_after: float | None = None
    errors: tuple[dict[str, Any], ...] | None = None

    def error(self, status: int | None = None, retry_after: float | None = None) -> ParleyError:
        return ParleyError(
            self.message,
            code=self.code,
            status=status,
            retryable=self.retryable,
            retry_after=self.retry_after if retry_after is None else retry_after,
            errors=self.errors or (),
        )


class Problem(Refusal, frozen=True, kw_only=True):
    """A refusal over HTTP (RFC 9457)."""

    message: str = msgspec.field(name="detail")


class Lost(Exception):
    """No connection, or no more: to be tried again, after `retry_after` seconds at least.

    Never leaves this package. `code` is the one with which a WebSocket was closed.
    """

    def __init__(self, *, retry_after: float = 0.0, code: int | None = None) -> None:
        super().__init__(code)
        self.retry_after = retry_after
        self.code = code


def refusal_over_http(status: int, body: bytes, retry_after: str | None) -> ParleyError | Lost:
    """Return what an answer outside 2xx means.

    A server error that is not in the service's words is that of something before it, which has
    lost the service: `Lost`.
    """
    is_number = retry_after is not None and retry_after.isascii() and retry_after.isdigit()
    seconds = float(retry_after) if retry_after is not None and is_number else None
    try:
        problem = msgspec.json.decode(body, type=Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        if status >= 500 or status in (408, 429):
            return Lost(retry_after=seconds or 0.0)
        return ParleyError(
            f"The address answers with {status}; is it that of a Parley service?",
            code="http_error",
            status=status,
        )
    return problem.error(status, seconds)


def closed() -> ParleyError:
    """Return what is raised after `async with`."""
    return ParleyError("The client is closed.", code="client_closed")
