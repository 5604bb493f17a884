"""The failures of OpenAI-compatible servers.

In the middle of a stream an error has no HTTP status. What it has differs between servers: a
status as its `code`, or OpenAI's own words.
"""

import re
from typing import Any

from errors import UpstreamError
from llm.failures import Failures, field, unwrapped
from llm.reasons import reason_of

_QUOTA = "insufficient_quota"
_CONVERSATION = re.compile(
    r"must alternate|jinja|chat.?template|raise_exception|templateerror|"
    r"system (?:message|role|prompt) (?:must|should|not)|context (?:size|length|window)",
    re.IGNORECASE,
)
"""Why servers with a chat template (llama.cpp, LM Studio, older vLLM) answer 500 to a request."""


def is_about_conversation(status: int, text: str) -> bool:
    """Tell whether a server's fault is that its model does not take a conversation as it is."""
    return status == 500 and _CONVERSATION.search(text) is not None


class OpenAIFailures(Failures):
    """Makes the errors of an OpenAI-compatible server."""

    prefix = "OPENAI"

    def of_answer(self, status: int, body: Any, wait: float | None = None) -> UpstreamError:
        if is_about_conversation(status, reason_of(body)):
            return UpstreamError(
                f"The model does not take this conversation{self._said(body)}",
                code="upstream_unsupported",
            )
        return super().of_answer(status, body, wait)

    def _status(self, error: Any) -> int:
        error = unwrapped(error)
        kind, code = field(error, "type"), field(error, "code")
        if code.isdecimal() and 400 <= (status := int(code[:9])) < 600:
            return status
        if _QUOTA in (kind, code) or "rate_limit" in code:
            return 429
        return 400 if kind == "invalid_request_error" else 500

    def _is_quota(self, status: int, error: Any) -> bool:
        is_empty = _QUOTA in (field(error, "type"), field(error, "code"))
        return status == 402 or (status == 429 and is_empty)
