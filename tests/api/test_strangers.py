"""A page of a stranger changes nothing: every route, by the table here."""

import sqlite3
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from fastapi.routing import iter_route_contexts
from starlette.routing import Mount, WebSocketRoute

from app import create_app
from settings import Settings
from tests.service import Service, running

pytestmark = pytest.mark.usefixtures("no_mistakes")

CHANGING = {
    "POST": (
        *("/chat", "/chat/run", "/chat/stream", "/assistant/run", "/assistant/stream"),
        *("/agents/{agent_name}/run", "/agents/{agent_name}/stream", "/agents/{agent_name}"),
        *("/api/chat", "/api/chat/simple", "/research", "/research/stream"),
        *("/runs/{run_id}/cancel", "/runs/{run_id}/tool_calls/{tool_call_id}/cancel"),
        *("/conversations/{conversation_id}/regenerate", "/conversations/{conversation_id}/edit"),
        "/conversations/{conversation_id}/regenerate/stream",
        "/conversations/{conversation_id}/edit/stream",
        *("/invocations", "/runtimes/{arn:path}/invocations"),
        *("/v1/chat/completions", "/v1/responses", "/v1/responses/{id}/cancel", "/v1/embeddings"),
        *("/memories", "/callbacks/get_memories", "/callbacks/clear_memories", "/callbacks/health"),
    ),
    "PATCH": ("/conversations/{conversation_id}", "/memories/{memory_id}"),
    "DELETE": (
        *("/conversations/{conversation_id}", "/memories", "/memories/{memory_id}"),
        *("/agents/{agent_name}", "/v1/responses/{id}", "/api/chat/history/{user_id}"),
        *("/assistant/session/{session_id}", "/chat/session/{session_id}"),
        "/agents/{agent_name}/session/{session_id}",
    ),
}
"""The routes that may change something, by method."""

SOCKETS = ("/ws", "/runtimes/{arn:path}/ws")

READING = (
    *("/", "/health", "/api/health", "/api/health/detailed", "/ping", "/ws", "/openapi.json"),
    *("/docs", "/redoc", "/docs/protocol.md", "/docs/assets", "/web"),
    *("/runs/{run_id}", "/runs/{run_id}/events", "/conversations", "/search"),
    *("/conversations/{conversation_id}", "/conversations/{conversation_id}/stream"),
    *("/conversations/{conversation_id}/export", "/api/chat/history/{user_id}"),
    *("/agents", "/agents/{agent_name}", "/agents/{agent_name}/info"),
    *("/chat/info", "/assistant/info", "/chat/session/{session_id}"),
    *("/assistant/session/{session_id}", "/agents/{agent_name}/session/{session_id}"),
    *("/v1/models", "/v1/models/{model:path}", "/v1/responses/{id}"),
    *("/memories", "/memories/{memory_id}"),
)
"""The routes that change nothing, which any page may ask for, though not read the answer."""


def rows() -> set[tuple[str, str]]:
    return {
        *((method, path) for method, paths in CHANGING.items() for path in paths),
        *(("WEBSOCKET", path) for path in SOCKETS),
        *(("GET", path) for path in READING),
    }


def routes(app: Any) -> set[tuple[str, str]]:
    """Return the routes of an application; a folder of files is read with GET."""
    found = set()
    for route in iter_route_contexts(app.routes):
        if isinstance(route.original_route, WebSocketRoute):
            methods = {"WEBSOCKET"}
        elif isinstance(route.original_route, Mount):
            methods = {"GET"}
        else:
            methods = (route.methods or {"?"}) - {"HEAD"} or {"GET"}
        found |= {(method, str(route.path)) for method in methods}
    return found


def test_every_route_is_in_the_table(tmp_path: Any) -> None:
    assert routes(create_app(Settings(_env_file=None, data_dir=tmp_path))) == rows()


STRANGERS: list[dict[str, str]] = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://127.0.0.1"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "null", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    {"Origin": "https://evil.example", "X-Forwarded-Host": "evil.example"},
]


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with running(memory_enabled=False) as service:  # it would learn in the background
        yield service


async def addresses(service: Service) -> dict[str, str]:
    """Make one of each thing that there is, and return what to put into the routes' paths."""
    found = await service.stream(message="hi", conversation_id="c")
    await service.json("POST", "/agents/x", expect=201, json={"instructions": "Be brief."})
    body = {"model": "any", "input": "I love pasta"}
    response = await service.json("POST", "/v1/responses", json=body)
    return {
        "{run_id}": found[0]["run_id"],
        "{conversation_id}": "c",
        "{agent_name}": "x",
        "{id}": response["id"],
        "{tool_call_id}": "call_1",
        "{memory_id}": "memory_1",
        "{session_id}": "c",
        "{user_id}": "default",
        "{arn:path}": "arn:aws:x",
        "{model:path}": "chat",
    }


def filled(path: str, parts: dict[str, str]) -> str:
    for name, value in parts.items():
        path = path.replace(name, value)
    assert "{" not in path
    return path


def kept(service: Service) -> list[str]:
    """Return everything that is stored."""
    lines: list[str] = []
    for path in sorted(service.settings.data_dir.rglob("*.db")):
        database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        lines += database.iterdump()
        database.close()
    return lines


async def test_a_strangers_page_changes_nothing(service: Service) -> None:
    parts = await addresses(service)
    before = kept(service)
    for method, paths in CHANGING.items():
        for path in (*paths, "/nothing"):
            for headers in STRANGERS:
                for body in (None, b'{"message":"hi","input":"hi","user_id":"default"}'):
                    async with service.session.request(
                        method, service.url + filled(path, parts), headers=headers, data=body
                    ) as response:
                        told = await response.json(content_type=None)
                    assert response.status == 403, (method, path, headers)
                    fault = told.get("error", told)
                    assert fault["code"] == "origin_not_allowed"
    assert kept(service) == before
    assert service.registry.active_runs == 0


FRIENDS: list[dict[str, str]] = [
    {},
    {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "{own}"},
    {"Origin": "{own}", "Sec-Fetch-Site": "same-origin"},
    {"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"},
]


async def test_own_pages_allowed_ones_and_programs_may_call_every_route() -> None:
    allowed = ("https://app.example",)
    async with running(cors_origins=allowed) as service:
        parts = await addresses(service)
        for method, paths in CHANGING.items():
            for path in paths:
                for headers in FRIENDS:
                    named = {k: v.replace("{own}", service.url) for k, v in headers.items()}
                    async with service.session.request(
                        method, service.url + filled(path, parts), headers=named
                    ) as response:
                        assert response.status != 403, (method, path, headers)


async def test_any_page_may_ask_for_what_changes_nothing(service: Service) -> None:
    parts = await addresses(service)
    before = kept(service)
    for path in READING:
        address = service.url + filled(path, parts)
        async with service.session.get(address, headers=STRANGERS[0]) as response:
            assert response.status != 403, path
            assert "access-control-allow-origin" not in response.headers
    assert kept(service) == before


async def opened(service: Service, path: str, headers: dict[str, str]) -> int:
    try:
        async with service.session.ws_connect(service.url + path, headers=headers):
            return 101
    except aiohttp.WSServerHandshakeError as refusal:
        return refusal.status


async def test_a_strangers_page_opens_no_socket() -> None:
    async with running(websocket_origins=("https://app.example",)) as service:
        own = {"Origin": service.url, "Sec-Fetch-Site": "cross-site"}  # of Safari for `ws:`
        for path in (filled(path, {"{arn:path}": "arn:aws:x"}) for path in SOCKETS):
            for headers in STRANGERS:
                assert await opened(service, path, headers) == 403, headers
            for headers in (
                *({k: v.replace("{own}", service.url) for k, v in f.items()} for f in FRIENDS),
                own,
            ):
                assert await opened(service, path, headers) == 101, headers


async def test_what_is_allowed_for_one_way_is_not_for_the_other() -> None:
    page = {"Origin": "https://app.example"}
    async with running(cors_origins=("https://app.example",)) as service:
        assert await opened(service, "/ws", page) == 403
    async with running(websocket_origins=("*",)) as service:
        assert await opened(service, "/ws", page) == 101
        async with service.session.post(service.url + "/chat", headers=page) as response:
            assert response.status == 403
    async with (
        running(cors_origins=("*",)) as service,
        service.session.post(service.url + "/chat", headers=page, json={}) as response,
    ):
        assert response.status == 422


async def test_behind_a_proxy_the_page_is_known_by_the_host_that_is_passed_on() -> None:
    page = {"Origin": "https://chat.example", "Sec-Fetch-Site": "same-origin"}
    async with running(host="0.0.0.0") as service:
        for host, status in (("chat.example", 422), ("127.0.0.1:8000", 403), ("", 403)):
            headers = page | {"Host": host, "X-Forwarded-Host": "chat.example"}
            async with service.session.post(
                service.url + "/chat", headers=headers, json={}
            ) as response:
                assert response.status == status, host
