"""An address with an empty part, or with a slash in a name, is nobody else's address."""

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from yarl import URL

from tests.api.test_strangers import CHANGING, READING, SOCKETS, addresses, filled, kept, opened
from tests.service import Service, running

pytestmark = pytest.mark.usefixtures("no_mistakes")

BODIES: tuple[dict[str, Any], ...] = (
    {},
    {"message": "hi", "input": "hi", "prompt": "hi", "user_id": "default", "memory": "New."},
)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with running() as service:
        body = {"memory": "I love pasta.", "user_id": "default"}
        await service.json("POST", "/memories", expect=201, json=body)
        yield service


def with_an_empty_part(path: str, parts: dict[str, str]) -> Iterator[str]:
    """Yield an address with slashes too many, and with each of its names in turn left out."""
    whole = filled(path, parts)
    yield from (f"{whole}/", f"{whole}//", f"/{whole}", f"{whole}/?user_id=default")
    yield from (
        whole[: at.start()] + whole[at.start() :].replace("/", "//", 1)
        for at in re.finditer("/", whole)
    )
    for name in re.findall(r"\{.*?\}", path):
        yield filled(path.replace(name, ""), parts)


def with_a_slash_in_a_name(path: str, parts: dict[str, str]) -> Iterator[str]:
    """Yield an address with each slash in turn as a character of a name, and one at its end."""
    whole = filled(path, parts)
    yield from (f"{whole}%2F", f"{whole}%2f")
    yield from (
        whole[: at.start()] + "%2F" + whole[at.end() :] for at in re.finditer("(?<=.)/", whole)
    )


async def asked(service: Service, method: str, path: str, body: dict[str, Any]) -> int:
    """Send the address as it is written, follow no redirect, and return the status."""
    address = URL(service.url + path, encoded=True)
    async with service.session.request(
        method, address, json=body, allow_redirects=False
    ) as response:
        assert response.content_type.endswith("json"), (method, path)
        return response.status


async def test_an_empty_part_reaches_no_route_and_changes_nothing(service: Service) -> None:
    parts = await addresses(service)
    before = kept(service)
    for method, paths in CHANGING.items():
        for path in paths:
            for odd in with_an_empty_part(path, parts):
                for body in BODIES:
                    assert await asked(service, method, odd, body) == 404, (method, odd)
    assert kept(service) == before
    assert service.registry.active_runs == 0


async def test_a_slash_in_a_name_reaches_no_other_route_and_changes_nothing(
    service: Service,
) -> None:
    parts = await addresses(service)
    before = kept(service)
    for method, paths in CHANGING.items():
        for path in paths:
            for odd in with_a_slash_in_a_name(path, parts):
                for body in BODIES:
                    status = await asked(service, method, odd, body)
                    assert status in (404, 405, 422), (method, odd, status)
    assert kept(service) == before
    assert service.registry.active_runs == 0


async def test_nothing_is_redirected_also_of_what_is_only_read(service: Service) -> None:
    parts = await addresses(service)
    for path in (*READING[1:], "/nothing"):
        for odd in with_an_empty_part(path, parts):
            assert await asked(service, "GET", odd, {}) == 404, odd
    assert await asked(service, "GET", "/web", {}) == 404
    for path in SOCKETS:
        for odd in with_an_empty_part(path, parts):
            assert await opened(service, odd, {}) in (403, 404), odd


async def test_a_name_that_may_have_slashes_may_have_them_quoted() -> None:
    model = "meta-llama/Llama-3"
    async with running(allowed_models=(model,)) as service:
        for path in (f"/v1/models/{model}", "/v1/models/meta-llama%2FLlama-3"):
            address = URL(service.url + path, encoded=True)
            async with service.session.get(address) as response:
                assert (await response.json())["id"] == model
        body = {"prompt": "hi"}
        for arn in ("arn:aws:x:runtime/a", "arn%3Aaws%3Ax%3Aruntime%2Fa"):
            assert await asked(service, "POST", f"/runtimes/{arn}/invocations", body) == 200


async def test_an_empty_id_clears_nobody(service: Service) -> None:
    for path in ("/memories/", "/memories/?user_id=default", "/memories//", "/memories/%20"):
        status = await asked(service, "DELETE", path, {})
        assert status in (404, 422), path
    found = await service.json("GET", "/memories")
    assert [each["memory"] for each in found["memories"]] == ["I love pasta."]


async def test_all_of_a_user_is_cleared_where_the_user_is_named() -> None:
    async with running() as service:
        for user in ("default", "ann"):
            body = {"memory": "I love pasta.", "user_id": user}
            await service.json("POST", "/memories", expect=201, json=body)
        for query in ("", "?user_id=", "?user_id", "?user=ann", "?user_id=ann&user_id="):
            problem = await service.json("DELETE", f"/memories{query}", expect=422)
            assert problem["errors"][0]["field"] == "user_id", query
        for user in ("default", "ann"):
            own = {"user_id": user}
            assert len((await service.json("GET", "/memories", params=own))["memories"]) == 1
            assert (await service.json("DELETE", "/memories", params=own))["cleared"] == 1


DELETING = [
    ("DELETE", "/conversations/c"),
    ("DELETE", "/chat/session/c"),
    ("DELETE", "/assistant/session/c"),
    ("DELETE", "/agents/x/session/c"),
    ("DELETE", "/memories/m"),
    ("DELETE", "/memories"),
    ("POST", "/callbacks/clear_memories"),
]


@pytest.mark.parametrize(("method", "path"), DELETING)
async def test_an_empty_name_of_a_user_deletes_nothing(
    service: Service, method: str, path: str
) -> None:
    await addresses(service)
    before = kept(service)
    if method == "DELETE":
        assert await asked(service, method, f"{path}?user_id=", {}) == 422
    else:
        assert await asked(service, method, path, {"user_id": ""}) == 422
    assert kept(service) == before
