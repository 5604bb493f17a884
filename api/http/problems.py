"""Errors over HTTP: RFC 9457, `application/problem+json`.

Besides the fields of the standard, each problem has `code`, a stable name for programs,
`retryable`, and for invalid values `errors`, one entry for each fault.

A surface whose clients expect another shape has its own, for all paths with the same prefix.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, TypeAlias

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from errors import Invalid, ParleyError, run_status
from events import RunError
from models import Problem

logger = logging.getLogger("parley.api")

_CODES = {
    400: "invalid_request",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    503: "unavailable",
}

_PLACES = ("body", "path", "query", "header")
_KINDS = ("<message>", "<input>")
"""The tags of bodies of two kinds, in a fault's place; no field of the body."""

MAX_FAULTS = 50
"""How many faults of one request are listed."""


Shape: TypeAlias = Callable[[Problem, dict[str, str]], Response]
"""Makes a problem, and headers, a response."""


class ProblemResponse(Response):
    """A problem as a response, in the shape of the standard."""

    media_type = "application/problem+json"

    def __init__(self, problem: Problem, headers: dict[str, str]) -> None:
        super().__init__(problem.model_dump_json(exclude_none=True), problem.status, headers)


def refusal(
    scope: Scope,
    status: int,
    detail: str,
    code: str,
    *,
    retryable: bool = False,
    retry_after: float | None = None,
    errors: list[dict[str, Any]] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """Return a problem in the shape of the surface that was asked.

    Args:
        scope: of the request.
        retry_after: seconds.
        errors: the faults of invalid values.
    """
    problem = _problem(status, detail, code, retryable=retryable, errors=errors)
    return _shape_for(scope)(problem, (headers or {}) | _wait(retry_after))


def _wait(seconds: float | None) -> dict[str, str]:
    return {} if seconds is None else {"Retry-After": str(max(1, round(seconds)))}


def _problem(
    status: int,
    detail: str,
    code: str,
    *,
    retryable: bool = False,
    errors: list[dict[str, Any]] | None = None,
) -> Problem:
    title = HTTPStatus(status).phrase
    return Problem(
        title=title, status=status, detail=detail, code=code, retryable=retryable, errors=errors
    )


def _shape_for(scope: Scope) -> Shape:
    shapes: Mapping[str, Shape] = scope["app"].state.shapes
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    return next((shapes[prefix] for prefix in shapes if path.startswith(prefix)), ProblemResponse)


def run_failed(
    failure: RunError, headers: dict[str, str], shape: Shape = ProblemResponse
) -> Response:
    problem = _problem(
        run_status(failure.code), failure.message, failure.code, retryable=failure.retryable
    )
    return shape(problem, headers | _wait(failure.retry_after))


def validation_faults(error: Any) -> list[dict[str, Any]]:
    """Return Pydantic's faults as `{"field", "message"}`, without the values."""
    return [
        {
            "field": _field(fault["loc"]),
            "message": fault["msg"].removeprefix("Value error, "),
        }
        for fault in error.errors()[:MAX_FAULTS]
    ]


def _field(place: Sequence[str | int]) -> str:
    """Return where in the body, path, query or headers a fault is."""
    inner = place[1:] if place and place[0] in _PLACES else place
    return ".".join(str(part) for part in inner if part not in _KINDS and "[" not in str(part))


def install(app: FastAPI, shapes: Mapping[str, Shape]) -> None:
    """Make every error of the app a problem.

    Args:
        shapes: by the beginning of a path, where it is not the standard's.
    """
    app.state.shapes = shapes
    app.add_exception_handler(ParleyError, _named)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


async def _named(request: Request, error: Exception) -> Response:
    assert isinstance(error, ParleyError)  # noqa: S101 - registered for this type only
    return refusal(
        request.scope,
        error.status,
        error.message,
        error.code,
        retryable=error.retryable,
        retry_after=error.retry_after,
        errors=(error.errors or None) if isinstance(error, Invalid) else None,
    )


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this type only
    scope, faults = request.scope, error.errors()
    if any(fault["type"] == "json_invalid" for fault in faults):
        return refusal(scope, 400, "The body is not valid JSON in UTF-8.", "invalid_json")
    lacks_body = any(tuple(fault["loc"]) == ("body",) for fault in faults)
    if lacks_body and "json" not in request.headers.get("content-type", ""):
        detail = "The body is read as JSON only with Content-Type: application/json."
        return refusal(scope, 415, detail, "unsupported_media_type")
    listed = validation_faults(error)
    detail = "; ".join(f"{fault['field'] or 'body'}: {fault['message']}" for fault in listed[:5])
    return refusal(scope, 422, detail, "invalid_value", errors=listed)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type only
    scope = request.scope
    if isinstance(error.__cause__, ValueError | RecursionError):
        return refusal(scope, 400, "The body is not valid JSON in UTF-8.", "invalid_json")
    return refusal(
        scope,
        error.status_code,
        str(error.detail),
        _CODES.get(error.status_code, "http_error"),
        retryable=error.status_code == 503,
        headers=dict(error.headers or {}),
    )


async def _unexpected(request: Request, error: Exception) -> Response:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    text = "The service made a mistake; it has been logged."
    return refusal(request.scope, 500, text, "internal_error")
