"""The chat page: `/` for browsers, and the page's files under `/web`.

* The page may run and load only what this service serves (CSP 3), and may put into itself only HTML
  that the sanitizer has made (Trusted Types). So text of a model or a tool that gets past the
  sanitizer still executes nothing and loads nothing.
* Of `web/node_modules`, only the modules that the page imports are served. If they are not
  installed, the answer is 404, and the page shows plain text.
"""

import os
from collections.abc import MutableMapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.staticfiles import StaticFiles

PAGE: Final = "index.html"
WEB: Final = Path(__file__).parents[2] / "web"

_PRIVATE: Final = {"node_modules", "package.json", "package-lock.json"}
"""Parts of a path that leads to what is not for readers, in lower case."""

LIBRARIES: Final = {
    "vendor/marked.js": "node_modules/marked/lib/marked.esm.js",
    "vendor/dompurify.js": "node_modules/dompurify/dist/purify.es.mjs",
    "vendor/highlight.js": "node_modules/@highlightjs/cdn-assets/es/highlight.min.js",
}
"""The addresses of libraries under `/web`, and their files."""

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",
    )
)

HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Asked for again each time, and answered with 304: a page and its modules are of one version.
    "Cache-Control": "no-cache",
}

router = APIRouter()


@router.head("/", include_in_schema=False)
@router.get("/", response_class=Response, tags=["health"])
async def root(request: Request) -> Response:
    """Show the chat page to browsers, and a short status to all other clients."""
    response: Response
    if "text/html" in request.headers.get("accept", "").lower():
        response = await _Files(shows_page=True).get_response(PAGE, request.scope)
    else:
        response = JSONResponse({"status": "healthy", "service": request.app.title})
    response.headers.update(HEADERS | {"Vary": "Accept"})
    return response


class _Files(StaticFiles):
    """The files of `web/` and the libraries; the page itself where `shows_page`."""

    def __init__(self, *, shows_page: bool = False) -> None:
        super().__init__(directory=WEB)
        self._shows_page = shows_page

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        """Find a file by its address; `path` is normal (`os.path.normpath`)."""
        if path == PAGE and not self._shows_page:
            return "", None  # its addresses are relative to `/`
        if path in LIBRARIES:
            return super().lookup_path(LIBRARIES[path])
        # Without regard to case, as some file systems are.
        if _PRIVATE & {part.lower() for part in Path(path).parts}:
            return "", None
        return super().lookup_path(path)

    async def get_response(self, path: str, scope: MutableMapping[str, Any]) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        if path.endswith(".js") and response.status_code == HTTPStatus.OK:
            # Whatever the system's table of types says: with another one it would not be run.
            response.headers["Content-Type"] = "text/javascript; charset=utf-8"
        return response


def install(app: FastAPI) -> None:
    app.mount("/web", _Files(), name="web")
