"""Failures in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

from typing import Any

from starlette.responses import JSONResponse, Response

from api.http.problems import run_failed
from events import RunError
from models import Problem
from protocols.completions import error_body
from storage import StoredRun

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

_SCHEMA = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}

FAILURES: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "An error in OpenAI's shape.",
        "content": {"application/json": {"schema": _SCHEMA}},
    }
}


def as_openai(problem: Problem, headers: dict[str, str]) -> Response:
    """Return a problem in OpenAI's shape and with its statuses.

    OpenAI's SDKs repeat what failed by its status, unless `X-Should-Retry` says otherwise.
    """
    status = 400 if problem.status == 422 else problem.status
    # What a model provider rejects is what the client has put into its request.
    status = {
        "upstream_rate_limited": 429,
        "upstream_rejected": 400,
        "upstream_unsupported": 400,
    }.get(problem.code, status)
    headers = headers | {"X-Should-Retry": "true" if problem.retryable else "false"}
    kind = "invalid_request_error" if status < 500 else "server_error"
    param = str(problem.errors[0]["field"]) if problem.errors else None
    body = error_body(problem.detail, problem.code, type=_TYPES.get(status, kind), param=param)
    return JSONResponse(body, status, headers)


def failed(failure: RunError, headers: dict[str, str]) -> Response:
    return run_failed(failure, headers, shape=as_openai)


def request_id(run: StoredRun) -> dict[str, str]:
    """Return the headers by which a run is found again; OpenAI's clients know the second."""
    return {"X-Run-Id": run.id, "X-Request-Id": run.id}
