"""A response that follows another one is remembered for a user only where there is one."""

from typing import Any

import pytest

from storage import StoredRun
from tests.api.support import scripted
from tests.upstream import text


@pytest.mark.parametrize(("named", "remembers"), [({}, None), ({"user": "ann"}, True)])
async def test_what_follows_a_response_is_remembered_as_it_was(
    named: dict[str, str], remembers: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool | None] = []
    async with scripted([text("one"), text("two")]) as (service, _):
        start = service.registry.start

        async def noting(caller: Any, request: Any, *more: Any, **options: Any) -> StoredRun:
            asked.append(request.memory)
            return await start(caller, request, *more, **options)

        monkeypatch.setattr(service.registry, "start", noting)
        body = {"model": "chat", "input": "Hi."}
        first = await service.json("POST", "/v1/responses", json=body | named)
        follows = body | {"previous_response_id": first["id"]}
        await service.json("POST", "/v1/responses", json=follows)
    assert asked == [remembers, remembers]
