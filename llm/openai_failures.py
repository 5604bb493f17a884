"""The failures of OpenAI-compatible servers.

In the middle of a stream an error has no HTTP status. What it has differs between servers: a
status as its `code`, or OpenAI's own words.
"""

from typing import Any

from llm.failures import Failures, field

_QUOTA = "insufficient_quota"


class OpenAIFailures(Failures):
    """Makes the errors of an OpenAI-compatible server."""

    prefix = "OPENAI"

    def _status(self, error: Any) -> int:
        kind, code = field(error, "type"), field(error, "code")
        if code.isdecimal() and 400 <= (status := int(code[:9])) < 600:
            return status
        if _QUOTA in (kind, code) or "rate_limit" in code:
            return 429
        return 400 if kind == "invalid_request_error" else 500

    def _is_quota(self, status: int, error: Any) -> bool:
        return status == 429 and _QUOTA in (field(error, "type"), field(error, "code"))
