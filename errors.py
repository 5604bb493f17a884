"""Every failure that the service names. The type says whose fault it is; the rest follows.

Each error has a stable `code` for programs, a `message` for people that says what to do and
holds no secret, the HTTP `status` of its surface, and whether the same request is worth
`retrying`. A surface puts these into its own shape (problem JSON, a WebSocket frame, the
terminal event of a run).

This module imports nothing of the project.
"""

from typing import Any, ClassVar


class ParleyError(Exception):
    """The base of all named failures.

    Args:
        message: what happened and what to do, for a person; never a secret.
        code: overrides the class's code where one class covers several.
        retryable: overrides the class's: whether the same request may succeed later.
        retry_after: seconds after which a retry makes sense, if known.
    """

    code: str = "internal_error"
    status: ClassVar[int] = 500
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        if code is not None:
            self.code = code
        if retryable is not None:
            self.retryable = retryable


class ClientError(ParleyError):
    """The caller's fault: the request cannot be served as it is."""

    code = "invalid_request"
    status = 400


class NotFound(ClientError):
    """No such thing, or not for this caller."""

    code = "not_found"
    status = 404


class Conflict(ClientError):
    """The request contradicts the present state."""

    code = "conflict"
    status = 409


class TooLarge(ClientError):
    """More bytes or characters than the configured limit."""

    code = "too_large"
    status = 413


class Invalid(ClientError):
    """Well formed, but its values are not acceptable.

    Args:
        errors: one entry for each fault, `{"field": …, "message": …}`.
    """

    code = "invalid_value"
    status = 422

    def __init__(self, message: str, *, errors: list[dict[str, Any]] | None = None) -> None:
        super().__init__(message)
        self.errors = errors or []


class TooMany(ClientError):
    """The caller has too many active requests; a later attempt may succeed."""

    code = "too_many_requests"
    status = 429
    retryable = True


class Unavailable(ParleyError):
    """The service cannot accept this request in its present state."""

    code = "unavailable"
    status = 503
    retryable = True


class RunTimeout(ParleyError):
    """A run took longer than its deadline."""

    code = "run_timeout"
    status = 504
    retryable = True


class UpstreamError(ParleyError):
    """The fault of the model provider, or of the network between.

    Args:
        is_doubtful: the request itself may have caused it; others may be answered well.
        refusal: what the provider answered, where that may be about a parameter. Not for people:
            it may hold a secret.
    """

    code = "upstream_error"
    status = 502

    def __init__(
        self, message: str, *, is_doubtful: bool = False, refusal: Any = None, **more: Any
    ) -> None:
        super().__init__(message, **more)
        self.is_doubtful = is_doubtful
        self.refusal = refusal


class ToolError(Exception):
    """A tool's failure, with a text for the model and the user; it never ends a run.

    Raise it in a tool for an expected failure (a source that cannot be reached, a city that
    does not exist). Its text becomes the call's error.
    """


class InvalidArguments(ToolError):
    """The model's arguments do not fit the tool's schema; the text says how."""


RUN_STATUS = {
    "nothing_to_answer": 409,
    "shutting_down": 503,
    "storage_unavailable": 503,
    "unavailable": 503,
    "run_taken_over": 503,
    "run_timeout": 504,
    "upstream_timeout": 504,
}
"""The HTTP status for a run that failed, by its error's code, where `run_status` has no rule."""


def run_status(code: str) -> int:
    """Return the HTTP status for a run that failed: 502 where a model provider did, or else 500."""
    return RUN_STATUS.get(code, 502 if code.startswith("upstream_") else 500)
