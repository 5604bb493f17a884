"""What can go wrong between us and an OpenAI-compatible server, as `UpstreamError`.

Three libraries share a request (the SDK, httpx2 and aiohttp), each wraps the errors of the next
one incompletely, and their texts may quote a credential. So nothing of theirs goes further: the
kind of failure decides `code` and `retryable`, and only the provider's own message is passed on,
cut to 500 characters and without anything that looks like a key.
"""

import email.utils
import math
import re
import time
from typing import Any

from errors import UpstreamError

MAX_MESSAGE = 500

# Known prefixes of keys, what follows "Bearer", and any long opaque word with a digit in it.
_KEY = re.compile(
    r"\b(?:sk|pk|rk|flp|gsk|xai)[-_][\w*.-]{4,}|\bBearer\s+\S+|\b(?=[\w-]*\d)[\w-]{32,}", re.I
)
_HIDDEN = "[redacted]"
_QUOTA = "insufficient_quota"


class Failures:
    """Makes the errors of one provider.

    Args:
        secret: the provider's credential, which no message may hold.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def before_stream(self, error: Exception) -> UpstreamError:
        """Return the error of a request that got no stream, all retries included."""
        status = getattr(error, "status_code", None)
        if isinstance(status, int):
            return self._of_status(status, error)
        if _timed_out(error):
            return _timeout("The model provider did not answer in time.")
        if _of_connection(error):
            return UpstreamError(
                "The model provider could not be reached, or hung up before it answered.",
                code="upstream_unreachable",
                retryable=True,
            )
        return UpstreamError(
            "The request to the model provider could not be made "
            f"({type(error).__name__}); check OPENAI_API_KEY and OPENAI_BASE_URL."
        )

    def in_stream(self, error: Exception) -> UpstreamError:
        """Return the error of a stream whose next bytes could not be read."""
        if _timed_out(error):
            return _timeout("The model provider fell silent in the middle of its answer.")
        if _cannot_be_decoded(error):
            return self.malformed("it is compressed in a way that cannot be undone")
        return UpstreamError(
            "The connection to the model provider broke in the middle of its answer.",
            code="upstream_disconnected",
            retryable=True,
        )

    def sent(self, error: Any) -> UpstreamError:
        """Return the error that the provider sent as an event of its stream."""
        kind, code = (str(_field(error, name) or "") for name in ("type", "code"))
        if code.isdecimal() and 400 <= int(code[:9]) < 600:
            status = int(code)
        elif _QUOTA in (kind, code) or "rate_limit" in code:
            status = 429
        else:
            status = 400 if kind == "invalid_request_error" else 500
        return self._of_answer(status, error, f"{kind} {code}", None)

    def malformed(self, why: str) -> UpstreamError:
        """Return the error of an answer that breaks the protocol."""
        return UpstreamError(
            f"The model provider's answer cannot be read: {why}.",
            code="upstream_malformed",
            retryable=True,
        )

    def truncated(self) -> UpstreamError:
        """Return the error of a stream that ended without saying why."""
        return UpstreamError(
            "The model provider's answer ended before it was complete.",
            code="upstream_truncated",
            retryable=True,
        )

    def not_a_stream(self) -> UpstreamError:
        """Return the error of a web page where an answer was due."""
        return UpstreamError(
            "The address of the model provider answers with a web page; check OPENAI_BASE_URL.",
            code="upstream_malformed",
        )

    def _of_status(self, status: int, error: Exception) -> UpstreamError:
        body = getattr(error, "body", None)
        kind = f"{_field(body, 'type')} {_field(body, 'code')}"
        headers = getattr(getattr(error, "response", None), "headers", {})
        return self._of_answer(status, body, kind, retry_after(headers))

    def _of_answer(
        self, status: int, body: Any, kind: str, retry_after: float | None
    ) -> UpstreamError:
        if status in (401, 403):
            return UpstreamError(
                "The model provider refused the credentials; check OPENAI_API_KEY.",
                code="upstream_unauthorized",
            )
        if status == 429 and _QUOTA in kind:
            return UpstreamError(
                "The account at the model provider has no quota left; check its plan and billing.",
                code="upstream_quota",
            )
        said = self._said(body)
        if status == 429:
            return UpstreamError(
                f"The model provider limits the rate of requests{said}",
                code="upstream_rate_limited",
                retryable=True,
                retry_after=retry_after,
            )
        if status == 404:
            return UpstreamError(
                "The model provider does not know the model, or the address is wrong; check "
                f"OPENAI_MODEL and OPENAI_BASE_URL{said}",
                code="upstream_model_not_found",
            )
        if status == 408:
            return _timeout(f"The model provider gave up waiting{said}")
        if 400 <= status < 500 and status != 409:
            return UpstreamError(
                f"The model provider rejected the request{said}", code="upstream_rejected"
            )
        return UpstreamError(
            f"The model provider failed{said}",
            retryable=status == 409 or status >= 500,
            retry_after=retry_after,
        )

    def _said(self, body: Any) -> str:
        """Return the provider's message as the end of a sentence."""
        message = body if isinstance(body, str) else _field(body, "message")
        text = " ".join(str(message or "").split())
        if self._secret:
            text = text.replace(self._secret, _HIDDEN)
        text = _KEY.sub(_HIDDEN, text)
        if len(text) > MAX_MESSAGE:
            text = text[: MAX_MESSAGE - 1] + "…"
        return f": {text}" if text else "."


def _timeout(message: str) -> UpstreamError:
    return UpstreamError(message, code="upstream_timeout", retryable=True)


def _field(body: Any, name: str) -> Any:
    return body.get(name) if isinstance(body, dict) else None


def _causes(error: BaseException | None) -> list[BaseException]:
    causes = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__
    return causes


def _timed_out(error: Exception) -> bool:
    from httpx2 import TimeoutException

    return any(isinstance(cause, TimeoutException) for cause in _causes(error))


def _of_connection(error: Exception) -> bool:
    from httpx2 import RequestError
    from openai import APIConnectionError

    return isinstance(error, (APIConnectionError, RequestError, OSError))


def _cannot_be_decoded(error: Exception) -> bool:
    from httpx2 import DecodingError

    return isinstance(error, DecodingError)


def retry_after(headers: Any) -> float | None:
    """Return the seconds of `retry-after-ms` or `retry-after`, which may be a date."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name)) * unit
        except (TypeError, ValueError):
            continue
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after") or "")
        return max(0.0, date.timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
