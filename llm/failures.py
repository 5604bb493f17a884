"""What can go wrong between us and a model provider, as `UpstreamError`.

Three libraries share a request (the SDK, httpx2 and aiohttp), each wraps the errors of the next
one incompletely, and their texts may quote a credential. So nothing of theirs goes further: the
kind of failure decides `code` and `retryable`, and only the provider's own reason is passed on,
cut to 500 characters and without anything that looks like a key (`llm.reasons`).
"""

import email.utils
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from errors import UpstreamError
from llm.reasons import MAX_REASON, reason_of, without_keys

_MAX_LOOKED_AT = 4096
_REFUSALS = frozenset({400, 404, 422, 500, 501})
"""What may be about a parameter; for tools OpenRouter has 404, and llama.cpp 500."""


class Failures(ABC):
    """Makes the errors of one provider.

    Args:
        secret: the provider's credential, which no message may hold.

    Attributes:
        prefix: how the names of the provider's settings begin.
        no_quota: what is said of an account that has to be paid.
    """

    prefix: ClassVar[str]
    no_quota: ClassVar[str] = "has no quota left"

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def before_stream(self, error: Exception) -> UpstreamError:
        """Return the error of a request that got no stream, all retries included."""
        from httpx2 import RequestError, TimeoutException

        status = getattr(error, "status_code", None)
        if isinstance(status, int):
            headers = getattr(getattr(error, "response", None), "headers", {})
            return self.of_answer(status, answer_in(error), retry_after(headers))
        if _has_cause(error, TimeoutException):
            return _passing("upstream_timeout", "The model provider did not answer in time.")
        # An SDK calls all that happens while it sends a failure of the connection.
        if _has_cause(error, (RequestError, OSError)):
            return _passing(
                "upstream_unreachable",
                "The model provider could not be reached, or hung up before it answered.",
            )
        return UpstreamError(
            f"The request to the model provider could not be made ({type(error).__name__}); "
            f"check {self.prefix}_API_KEY and {self.prefix}_BASE_URL."
        )

    def in_stream(self, error: Exception) -> UpstreamError:
        """Return the error of a stream whose next bytes could not be read."""
        from httpx2 import DecodingError, TimeoutException

        if _has_cause(error, TimeoutException):
            return _passing(
                "upstream_timeout", "The model provider fell silent in the middle of its answer."
            )
        if isinstance(error, DecodingError):
            return self.malformed("it is compressed in a way that cannot be undone")
        return _passing(
            "upstream_disconnected",
            "The connection to the model provider broke in the middle of its answer.",
            is_doubtful=True,
        )

    def sent(self, error: Any) -> UpstreamError:
        """Return the error that the provider sent as an event of its stream."""
        return self.of_answer(self._status(error), error)

    def malformed(self, why: str) -> UpstreamError:
        """Return the error of an answer that breaks the protocol."""
        text = f"The model provider's answer cannot be read: {why}."
        return _passing("upstream_malformed", text, is_doubtful=True)

    def truncated(self) -> UpstreamError:
        """Return the error of a stream that ended without saying why."""
        text = "The model provider's answer ended before it was complete."
        return _passing("upstream_truncated", text, is_doubtful=True)

    def not_a_stream(self) -> UpstreamError:
        """Return the error of a web page where an answer was due."""
        return UpstreamError(
            "The address of the model provider answers with a web page; "
            f"check {self.prefix}_BASE_URL.",
            code="upstream_malformed",
        )

    def of_answer(self, status: int, body: Any, wait: float | None = None) -> UpstreamError:
        """Return the error of an HTTP status.

        `body`: the answer's JSON, or the error in it. `wait`: seconds before the next request.
        """
        error = unwrapped(body)
        reason = self._said(body)
        if status in (401, 403):
            return UpstreamError(
                f"The model provider refused the credentials; check {self.prefix}_API_KEY{reason}",
                code="upstream_unauthorized",
            )
        if self._is_quota(status, error):
            return UpstreamError(
                f"The account at the model provider {self.no_quota}; check its plan and billing"
                f"{reason}",
                code="upstream_quota",
            )
        message, code, retryable = self._meaning(status)
        return UpstreamError(
            f"{message}{reason}",
            code=code,
            retryable=retryable,
            retry_after=wait if retryable else None,
            is_doubtful=status == 500,
            refusal=body if status in _REFUSALS else None,
        )

    def _meaning(self, status: int) -> tuple[str, str, bool]:
        match status:
            case 404:
                text = (
                    "The model provider does not know the model, or the address is wrong; check "
                    f"{self.prefix}_MODEL and {self.prefix}_BASE_URL"
                )
                return text, "upstream_model_not_found", False
            case 408:
                return "The model provider gave up waiting", "upstream_timeout", True
            case 429:
                text = "The model provider limits the rate of requests"
                return text, "upstream_rate_limited", True
            case _ if 400 <= status < 500 and status != 409:
                return "The model provider rejected the request", "upstream_rejected", False
        return "The model provider failed", "upstream_error", status == 409 or status >= 500

    @abstractmethod
    def _status(self, error: Any) -> int:
        """Return the HTTP status that an error in a stream would have had."""

    @abstractmethod
    def _is_quota(self, status: int, error: Any) -> bool:
        """Tell whether the account has to be paid before it may ask again."""

    def _said(self, body: Any) -> str:
        """Return the provider's own reason as the end of a sentence."""
        text = without_keys(reason_of(body)[:_MAX_LOOKED_AT], self._secret)
        if len(text) > MAX_REASON:
            text = text[: MAX_REASON - 1] + "…"
        return f": {text}" if text else "."


def answer_in(error: Exception) -> Any:
    """Return what a server answered, from an SDK's error: JSON, or else text.

    The SDK itself keeps the member `error` only, which is not where everybody says why.
    """
    content = getattr(getattr(error, "response", None), "content", b"")
    try:
        return msgspec.json.decode(content)
    except (ValueError, RecursionError):
        return getattr(error, "body", None)


def unwrapped(body: Any) -> Any:
    """Return the error in an answer's JSON: `{"error": …}`, or Google's list of such."""
    if isinstance(body, list) and body and isinstance(body[0], dict):
        body = body[0]
    return body["error"] if isinstance(body, dict) and body.get("error") else body


def field(error: Any, name: str) -> str:
    """Return a field of an error as text; empty where there is none."""
    return str(error.get(name) or "") if isinstance(error, dict) else ""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of `retry-after-ms` or `retry-after`, which may be a date."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, date.timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _passing(code: str, message: str, *, is_doubtful: bool = False) -> UpstreamError:
    """Return an error that may not happen again."""
    return UpstreamError(message, code=code, retryable=True, is_doubtful=is_doubtful)


def _has_cause(error: BaseException, kinds: type[Exception] | tuple[type[Exception], ...]) -> bool:
    """Tell whether an error, or one that it was raised from, is of one of the kinds."""
    seen = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, kinds):
            return True
        seen.add(id(cause))
        cause = cause.__cause__
    return False
