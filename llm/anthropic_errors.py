"""What can go wrong between us and Anthropic's Messages API, as `UpstreamError`.

The codes are those of `llm.openai_errors`, whose rules hold here too: nothing of a library's
words goes further, and the provider's own only without what looks like a key. The kinds of
errors are those of the API's reference, "Errors"; in the middle of a stream an error has a kind
only, from which the status follows that it would have had.
"""

from typing import Any

from errors import UpstreamError
from llm.openai_errors import Failures

_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "timeout_error": 408,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "overloaded_error": 529,
}
_NO_CREDIT = ("credit balance", "spend limit", "spending limit")
"""Words of refusals that are of the kind of a bad request, or of a rate limit, but of money."""


class AnthropicFailures(Failures):
    """Makes the errors of the Anthropic provider.

    Args:
        secret: the provider's credential, which no message may hold.
    """

    def before_stream(self, error: Exception) -> UpstreamError:
        """Return the error of a request that got no stream, all retries included."""
        from anthropic import APIConnectionError, APIStatusError, APITimeoutError
        from httpx2 import RequestError, TimeoutException

        if isinstance(error, (APIStatusError, APITimeoutError, TimeoutException)):
            return super().before_stream(error)
        # The SDK calls everything that happens while it sends a failure of the connection.
        cause = error.__cause__ if isinstance(error, APIConnectionError) else error
        if isinstance(cause, (RequestError, OSError)):
            return UpstreamError(
                "The model provider could not be reached, or hung up before it answered.",
                code="upstream_unreachable",
                retryable=True,
            )
        return UpstreamError(
            "The request to the model provider could not be made "
            f"({type(error).__name__}); check ANTHROPIC_API_KEY and ANTHROPIC_BASE_URL."
        )

    def sent(self, error: Any) -> UpstreamError:
        """Return the error that the provider sent as an event of its stream."""
        return self._of_answer(_STATUS.get(_text(error, "type"), 500), error, "", None)

    def not_a_stream(self) -> UpstreamError:
        """Return the error of a web page where an answer was due."""
        return UpstreamError(
            "The address of the model provider answers with a web page; check ANTHROPIC_BASE_URL.",
            code="upstream_malformed",
        )

    def _of_answer(
        self, status: int, body: Any, kind: str, retry_after: float | None
    ) -> UpstreamError:
        error = body["error"] if isinstance(body, dict) and "error" in body else body
        kind = _text(error, "type")
        if status in (401, 403):
            return UpstreamError(
                "The model provider refused the credentials; check ANTHROPIC_API_KEY.",
                code="upstream_unauthorized",
            )
        if status == 402 or kind == "billing_error" or _is_without_credit(status, error):
            return UpstreamError(
                "The account at the model provider has no credit left, or has reached its limit; "
                "check its plan and billing.",
                code="upstream_quota",
            )
        if status == 404:
            return UpstreamError(
                "The model provider does not know the model, or the address is wrong; check "
                f"ANTHROPIC_MODEL and ANTHROPIC_BASE_URL{self._said(error)}",
                code="upstream_model_not_found",
            )
        # The API's own time-out comes as 504, which elsewhere means any gateway's.
        status = _STATUS[kind] if kind == "timeout_error" else status
        return super()._of_answer(status, error, kind, retry_after)


def _is_without_credit(status: int, error: Any) -> bool:
    message = _text(error, "message").lower()
    return status in (400, 429) and any(words in message for words in _NO_CREDIT)


def _text(error: Any, name: str) -> str:
    value = error.get(name) if isinstance(error, dict) else None
    return value if isinstance(value, str) else ""
