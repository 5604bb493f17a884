"""The failures of Anthropic's Messages API.

The kinds are those of the API's reference, "Errors". In the middle of a stream an error has a
kind only, from which the status follows that it would have had.
"""

from typing import Any

from errors import UpstreamError
from llm.failures import Failures, field

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
    """Makes the errors of the Anthropic provider."""

    prefix = "ANTHROPIC"
    no_quota = "has no credit left, or has reached its limit"

    def of_answer(self, status: int, body: Any, wait: float | None = None) -> UpstreamError:
        error = body.get("error", body) if isinstance(body, dict) else body
        # The API's own time-out comes as 504, which elsewhere means any gateway's.
        is_timeout = field(error, "type") == "timeout_error"
        return super().of_answer(408 if is_timeout else status, error, wait)

    def _status(self, error: Any) -> int:
        return _STATUS.get(field(error, "type"), 500)

    def _is_quota(self, status: int, error: Any) -> bool:
        if status == 402 or field(error, "type") == "billing_error":
            return True
        message = field(error, "message").lower()
        return status in (400, 429) and any(words in message for words in _NO_CREDIT)
