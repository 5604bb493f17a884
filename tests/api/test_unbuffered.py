"""Every stream tells a proxy in front that it is not to be buffered."""

from typing import Any

import pytest

from tests.api.test_research import TOOLS
from tests.service import running

pytestmark = pytest.mark.usefixtures("no_mistakes")

EVENTS = {"Accept": "text/event-stream"}
CHAT: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
RESPONSE: dict[str, Any] = {"model": "any", "input": "hi"}
STREAMS: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/chat/stream", {"json": {"message": "hi"}}),
    ("POST", "/chat/stream?protocol=openai", {"json": {"message": "hi"}}),
    ("POST", "/chat/stream?protocol=tokens", {"json": {"message": "hi"}}),
    ("POST", "/chat/stream?protocol=chunks", {"json": {"message": "hi"}}),
    ("POST", "/assistant/stream", {"json": {"input": "hi"}}),
    ("POST", "/agents/chat/stream", {"json": {"input": "hi"}}),
    ("POST", "/research/stream", {"json": {"query": "hi"}}),
    ("POST", "/conversations/c/regenerate/stream", {"json": {}}),
    ("POST", "/conversations/c/edit/stream", {"json": {"message": "ho", "message_id": "{said}"}}),
    ("GET", "/runs/{run}/events", {}),
    ("POST", "/invocations", {"json": {"prompt": "hi"}, "headers": EVENTS}),
    ("POST", "/v1/chat/completions", {"json": CHAT | {"stream": True}}),
    ("POST", "/v1/responses", {"json": RESPONSE | {"stream": True}}),
    ("GET", "/v1/responses/{response}?stream=true", {}),
]


async def test_no_stream_may_be_buffered() -> None:
    async with running(tools=TOOLS) as service:
        run = (await service.stream(message="hi", conversation_id="c"))[0]["run_id"]
        said = (await service.json("GET", "/conversations/c"))["messages"][0]["id"]
        body = RESPONSE | {"stream": False, "background": True}
        response = (await service.json("POST", "/v1/responses", json=body))["id"]
        for method, path, options in STREAMS:
            address = service.url + path.format(run=run, response=response)
            sent = options.get("json", {})
            if "message_id" in sent:
                options = {"json": sent | {"message_id": said}}
            async with service.session.request(method, address, **options) as answer:
                found = (answer.status, answer.headers.get("X-Accel-Buffering"))
                text = await answer.text()
            assert found == (200, "no"), (path, text)
            assert answer.headers["Cache-Control"] == "no-cache", path
