"""A run that left memory, with its events, is read from storage by every surface."""

from typing import Any

import msgspec
import pytest

from tests.api.support import follow, scripted, types
from tests.service import Service
from tests.upstream import text
from tests.wsclient import Client

pytestmark = pytest.mark.usefixtures("no_mistakes")

ANSWER = "word " * 100_000
MAX_RUN_BYTES = 4 << 20
RUNS = 8


def is_in_memory(service: Service, run_id: str) -> bool:
    index: Any = service.registry._index
    hub: Any = service.registry._hub
    return index.find(run_id) is not None or run_id in hub._logs


async def test_every_surface_reads_a_run_that_left_memory() -> None:
    async with scripted(lambda _: text(ANSWER), max_run_bytes=MAX_RUN_BYTES) as (service, _):
        body = {"model": "chat", "input": "Hi."}
        response = await service.json("POST", "/v1/responses", json=body)
        key = {"Idempotency-Key": "key"}
        body = {"message": "Hi.", "conversation_id": "c"}
        run = await service.json("POST", "/chat", json=body, headers=key)
        run_id, gone = run["run_id"], "run_" + response["id"].removeprefix("resp_")
        for _ in range(RUNS):
            await service.json("POST", "/chat", json={"message": "Hi."})
        assert not is_in_memory(service, run_id)
        assert not is_in_memory(service, gone)

        assert (await service.json("GET", f"/runs/{run_id}"))["status"] == "completed"
        found = await follow(service, run_id)
        assert types(found) == ["reset", "chat_start", "chat_chunk", "chat_complete"]
        assert found[-1]["final_response"] == ANSWER
        again = await service.json("POST", "/chat", json=body, headers=key)
        assert (again["run_id"], again["response"]) == (run_id, ANSWER)
        cancelled = await service.json("POST", f"/runs/{run_id}/cancel", expect=200)
        assert cancelled["status"] == "completed"
        detail = await service.json("GET", "/conversations/c")
        assert detail["last_run"]["run_id"] == run_id

        path = f"/v1/responses/{response['id']}"
        shown = await service.json("GET", path)
        assert shown["output"] == response["output"]
        async with service.session.get(service.url + path + "?stream=true") as streamed:
            assert ANSWER.encode() in await streamed.read()
        follower = {"model": "chat", "input": "And?", "previous_response_id": response["id"]}
        assert (await service.json("POST", "/v1/responses", json=follower))["output"]

        async with service.session.ws_connect(service.url + "/ws") as connection:
            client = Client(connection)
            await client.send("subscribe", "r", run_id=run_id)
            frames = await client.until("chat_complete", "error", request_id="r")
            assert msgspec.json.encode(frames[-1]).count(ANSWER.encode()) == 1
        await service.json("DELETE", "/conversations/c")
        await service.json("GET", f"/runs/{run_id}", expect=404)
