"""The API's description, and the pages that show it without a network."""

import re
from typing import Any, get_args

import msgspec
import pytest

from api.http import documents
from protocols.native import NativeEvent
from tests.api.support import add, fail, scripted
from tests.service import Service, running
from tests.upstream import calls, text

pytestmark = pytest.mark.usefixtures("no_mistakes")


async def page(service: Service, path: str) -> tuple[str, str]:
    """Return a page and its content type."""
    async with service.session.get(service.url + path) as response:
        assert response.status == 200, path
        body = await response.read()
        return body.decode(errors="replace"), response.content_type


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_a_page_refers_to_this_server_only_and_all_it_refers_to_is_there(path: str) -> None:
    async with running() as service:
        html, kind = await page(service, path)
        assert kind == "text/html"
        addresses = set(re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"'#]+)["']""", html))
        assert not re.findall(r"""["'(]\s*(?:https?:)?//""", html)
        assets = {address for address in addresses if address.startswith("/docs/assets/")}
        assert len(assets) >= 2
        for address in addresses | {"/openapi.json"}:
            assert address.startswith("/")
            await page(service, address)


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_a_page_asks_nobody_else_and_stands_in_no_other_page(path: str) -> None:
    async with running() as service, service.session.get(service.url + path) as response:
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'self'; " in policy
        assert policy.endswith("frame-ancestors 'none'")
        assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_the_assets_are_whole_and_can_be_kept() -> None:
    async with running() as service:
        for name in ("swagger-ui-bundle.js", "redoc.standalone.js"):
            async with service.session.get(f"{service.url}/docs/assets/{name}") as response:
                assert len(await response.read()) > 500_000
                assert "javascript" in response.headers["content-type"]
                assert response.headers["etag"]


async def test_the_protocol_is_served_as_markdown_with_every_event_in_it() -> None:
    async with running() as service:
        written, kind = await page(service, "/docs/protocol.md")
    assert kind == "text/markdown"
    for name in event_types():
        assert f"`{name}`" in written, name


def test_the_worked_exchanges_have_events_as_they_are_sent() -> None:
    written = documents.PROTOCOL.read_text(encoding="utf-8")
    frames = map(msgspec.json.decode, re.findall(r"^< (.*)$", written, re.M))
    over_socket = [frame["data"] for frame in frames if "id" in frame]
    over_sse = [*map(msgspec.json.decode, re.findall(r"^data: (.*)$", written, re.M))]
    assert len(over_socket) >= 5
    assert len(over_sse) >= 5
    for shown in over_socket + over_sse:
        event = msgspec.convert(shown, type=NativeEvent)
        assert msgspec.json.decode(msgspec.json.encode(event)) == shown


def event_types() -> dict[str, str]:
    return {str(kind.__struct_config__.tag): kind.__name__ for kind in get_args(NativeEvent)}


def refs(node: Any) -> set[str]:
    """Return all references of a document."""
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*map(refs, node.values())) if node else own
    return set().union(*map(refs, node)) if isinstance(node, list) and node else set()


async def test_the_description_is_whole() -> None:
    async with running() as service:
        document = await service.json("GET", "/openapi.json")
    assert document["openapi"].startswith("3.1")
    assert document["info"]["title"] == "Parley"
    assert document["info"]["version"]
    operations = [
        operation
        for path in document["paths"].values()
        for name, operation in path.items()
        if name in ("get", "post", "put", "delete", "patch")
    ]
    names = [operation["operationId"] for operation in operations]
    assert len(names) == len(set(names))
    schemas = document["components"]["schemas"]
    for ref in refs(document):
        assert ref.startswith("#/components/schemas/")
        assert ref.rpartition("/")[2] in schemas
    for operation in operations:
        assert operation["summary"]
        assert any(status.startswith(("1", "2")) for status in operation["responses"])


async def test_every_route_is_described() -> None:
    async with running() as service:
        document = await service.json("GET", "/openapi.json")
    described = {
        (method, path) for path, methods in document["paths"].items() for method in methods
    }
    assert described >= {
        ("get", "/health"),
        ("post", "/chat"),
        ("post", "/chat/stream"),
        ("get", "/agents"),
        ("get", "/agents/{agent_name}"),
        ("post", "/agents/{agent_name}"),
        ("delete", "/agents/{agent_name}"),
        ("get", "/runs/{run_id}"),
        ("get", "/runs/{run_id}/events"),
        ("post", "/runs/{run_id}/cancel"),
        ("post", "/runs/{run_id}/tool_calls/{tool_call_id}/cancel"),
    }


async def test_every_event_is_described_and_told_apart_by_its_type() -> None:
    async with running() as service:
        document = await service.json("GET", "/openapi.json")
    schemas = document["components"]["schemas"]
    event = schemas["Event"]
    assert event["discriminator"]["propertyName"] == "event_type"
    mapping = event["discriminator"]["mapping"]
    assert mapping == {
        name: f"#/components/schemas/{schema}" for name, schema in event_types().items()
    }
    assert {one["$ref"] for one in event["oneOf"]} == set(mapping.values())
    for name, schema in event_types().items():
        assert schemas[schema]["properties"]["event_type"]["enum"] == [name]
        assert "event_type" in schemas[schema]["required"]
        assert schemas[schema]["description"]


def fits(value: Any, schema: dict[str, Any], schemas: dict[str, Any]) -> bool:
    """Tell whether a value has a schema's properties: the required ones, and no unknown one."""
    if "$ref" in schema:
        return fits(value, schemas[schema["$ref"].rpartition("/")[2]], schemas)
    if "properties" not in schema:
        return True
    known = schema["properties"]
    return (
        set(schema.get("required", ())) <= set(value) <= set(known)
        and all(value[name] in part["enum"] for name, part in known.items() if "enum" in part)
        and all(fits(value[name], known[name], schemas) for name in value)
    )


async def test_the_events_that_are_sent_fit_their_description() -> None:
    script = [
        calls(("add", {"a": 1, "b": 2}), ("fail", {})),
        text("three"),
        text(finish_reason="x"),
    ]
    async with scripted(script, tools=[add, fail]) as (service, _):
        document = await service.json("GET", "/openapi.json")
        found = await service.stream(message="hi") + await service.stream(message="hi")
    schemas, names = document["components"]["schemas"], event_types()
    for event in found:
        del event["id"]
        assert fits(event, schemas[names[event["event_type"]]], schemas), event
    assert {event["event_type"] for event in found} >= {
        "chat_start",
        "chat_chunk",
        "tool_call_start",
        "tool_call_complete",
        "tool_call_error",
        "chat_complete",
    }


async def test_problems_and_the_stream_are_part_of_the_description() -> None:
    async with running() as service:
        document = await service.json("GET", "/openapi.json")
    for path in ("/chat", "/chat/stream", "/agents/{agent_name}", "/runs/{run_id}/cancel"):
        responses = document["paths"][path]["post"]["responses"]
        problem = responses["default"]["content"]["application/problem+json"]["schema"]
        assert {"type", "title", "status", "detail", "code"} <= set(
            problem.get("properties", document["components"]["schemas"].get("Problem", {}))
        )
    stream = document["paths"]["/chat/stream"]["post"]["responses"]["200"]
    assert stream["content"]["text/event-stream"]["schema"] == {
        "$ref": "#/components/schemas/Event"
    }


async def test_health_names_the_tools_and_the_model() -> None:
    async with running() as service:
        health = await service.json("GET", "/health")
    assert (health["status"], health["provider"], health["active_runs"]) == ("healthy", "demo", 0)
    assert [tool["name"] for tool in health["tools"]] == [
        "get_weather",
        "calculate",
        "get_time",
        "search_web",
        "get_stock_price",
    ]
    assert all(tool["description"] for tool in health["tools"])
    assert msgspec.json.encode(health)
