"""The short way of ordinary requests, and that every other one takes FastAPI's."""

from typing import Any

import fastapi.routing
import pytest

from tests.service import running

PLAIN = {"content-type": "application/json"}
ORDINARY = [
    ("/chat", PLAIN, b'{"message": "hi"}', 200),
    ("/chat/stream", PLAIN, b'{"message": "hi"}', 200),
    ("/chat/stream", PLAIN, b'{"input": "hi", "agent": "chat"}', 200),
    ("/chat/stream", PLAIN | {"idempotency-key": "k"}, b'{"message": "hi"}', 200),
    ("/chat", PLAIN, b'{"message": "hi", "agent": "nobody"}', 404),
    (
        "/v1/chat/completions",
        PLAIN,
        b'{"model": "chat", "messages": [{"role": "user", "content": "hi"}]}',
        200,
    ),
]
IRREGULAR = [
    ("/chat/stream?protocol=events", PLAIN, b'{"message": "hi"}', 200),
    ("/chat/stream?protocol=none", PLAIN, b'{"message": "hi"}', 400),
    ("/chat", {"content-type": "application/json; charset=utf-8"}, b'{"message": "hi"}', 200),
    ("/chat", {"content-type": "text/plain"}, b'{"message": "hi"}', 415),
    ("/chat", PLAIN | {"idempotency-key": ""}, b'{"message": "hi"}', 422),
    ("/chat", PLAIN | {"idempotency-key": "k" * 256}, b'{"message": "hi"}', 422),
    ("/chat", PLAIN, b'{"message": 1}', 422),
    ("/chat", PLAIN, b'{"message"', 400),
    ("/chat", PLAIN, b"\xff", 400),
    ("/chat", PLAIN, b"[" * 20_000, 400),
    ("/chat", PLAIN, b"", 422),
]


@pytest.mark.parametrize(
    ("requests", "by_fastapi"), [(ORDINARY, False), (IRREGULAR, True)], ids=["ordinary", "odd"]
)
async def test_fastapi_is_asked_about_what_is_irregular(
    monkeypatch: pytest.MonkeyPatch, requests: list[Any], by_fastapi: bool
) -> None:
    handlers, asked = fastapi.routing.get_request_handler, []

    def watched(*args: Any, **options: Any) -> Any:
        handle = handlers(*args, **options)

        async def noted(request: Any) -> Any:
            asked.append(request.url.path)
            return await handle(request)

        return noted

    monkeypatch.setattr(fastapi.routing, "get_request_handler", watched)
    async with running() as service:
        for path, headers, body, status in requests:
            asked.clear()
            async with service.session.post(
                service.url + path, data=body, headers=headers
            ) as response:
                assert response.status == status, (path, body, await response.text())
                await response.read()
            assert bool(asked) is by_fastapi, (path, headers, body)
