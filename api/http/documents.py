"""The API's description: `/openapi.json`, `/docs`, `/redoc` and the description of the protocol.

It includes the events and the WebSocket messages. The assets of the pages come from a Python
package and are served by this service, so that the pages work without internet access.
"""

import asyncio
import re
import threading
from functools import cache
from pathlib import Path
from typing import Any, get_args

import fastapi_offline
import msgspec
from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.staticfiles import StaticFiles

from models import Problem
from protocols.native import NativeEvent

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"
ASSETS = "/docs/assets"

_SCHEMA = "#/components/schemas/{name}"

EVENT_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events as frames: `id: <run_id>:<epoch>:<seq>`, `data: <Event>`.",
        "content": {"text/event-stream": {"schema": {"$ref": _SCHEMA.format(name="Event")}}},
        "headers": {"X-Run-Id": {"schema": {"type": "string"}}},
    }
}

PROBLEMS: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "A problem (RFC 9457).",
        "content": {"application/problem+json": {"schema": Problem.model_json_schema()}},
    }
}

HEADERS = {
    # The pages' own scripts stand in them, which the packages that make them leave no choice about.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; worker-src blob:; "
    "script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
"""The pages may load nothing from other servers, and no other page may embed them."""

router = APIRouter(include_in_schema=False)


@router.get("/openapi.json")
async def description(request: Request) -> JSONResponse:
    """Serve the description, which takes a fifth of a second to make."""
    return await asyncio.to_thread(lambda: JSONResponse(request.app.openapi()))


@router.get("/docs")
async def swagger(request: Request) -> HTMLResponse:
    """Serve the interactive page."""
    root = request.scope.get("root_path", "")
    page = get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json",
        title=f"{request.app.title}: API",
        swagger_js_url=f"{root}{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{root}{ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{root}{ASSETS}/favicon.png",
    )
    page.headers.update(HEADERS)
    return page


@router.get("/redoc")
async def redoc(request: Request) -> HTMLResponse:
    """Serve the reference page."""
    root = request.scope.get("root_path", "")
    page = get_redoc_html(
        openapi_url=f"{root}/openapi.json",
        title=f"{request.app.title}: API",
        redoc_js_url=f"{root}{ASSETS}/redoc.standalone.js",
        redoc_favicon_url=f"{root}{ASSETS}/favicon.png",
        with_google_fonts=False,
    )
    page.headers.update(HEADERS)
    return page


@router.get("/docs/protocol.md")
async def protocol() -> PlainTextResponse:
    """Serve the description of the events and of the WebSocket."""
    return PlainTextResponse(_protocol_text(), media_type="text/markdown")


def install(app: FastAPI) -> None:
    assets = Path(fastapi_offline.__file__).parent / "static"
    app.mount(ASSETS, StaticFiles(directory=assets), name="docs-assets")
    app.include_router(router)

    written = threading.Lock()

    def openapi() -> dict[str, Any]:
        with written:
            if app.openapi_schema is None:
                app.openapi_schema = _described(app)
            return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _described(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
    )
    document["paths"]["/ws"]["get"]["description"] = _chapter("WebSocket")
    kinds = get_args(NativeEvent)
    _, schemas = msgspec.json.schema_components(kinds, ref_template=_SCHEMA)
    names = [kind.__name__ for kind in kinds]
    schemas["Event"] = {
        "oneOf": [{"$ref": _SCHEMA.format(name=name)} for name in names],
        "description": _chapter("Events"),
        "discriminator": {
            "propertyName": "event_type",
            "mapping": {
                str(kind.__struct_config__.tag): _SCHEMA.format(name=kind.__name__)
                for kind in kinds
            },
        },
    }
    document["components"]["schemas"] |= schemas
    return document


@cache
def _protocol_text() -> str:
    return PROTOCOL.read_text(encoding="utf-8")


def _chapter(title: str) -> str:
    """Return the chapter of the protocol's description with this title."""
    found = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", _protocol_text(), re.M | re.S)
    if found is None:
        raise RuntimeError(f"docs/protocol.md has no chapter {title!r}")
    return found[1].strip()
