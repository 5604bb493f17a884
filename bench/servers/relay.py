"""The raw relay: the upstream's bytes go on unparsed, over the HTTP client of this service.

What it costs is the floor under any Python service with this client and this server. It takes
the native request and answers in OpenAI's wire.
"""

import os
from collections.abc import AsyncIterator

import httpx2
import msgspec
import uvicorn
from openai import DefaultAioHttpClient
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

client: httpx2.AsyncClient = DefaultAioHttpClient(base_url=os.environ["OPENAI_BASE_URL"])


async def chat_stream(request: Request) -> StreamingResponse:
    """Ask the upstream and pass on what it says."""
    chat = msgspec.json.decode(await request.body())
    question = {
        "model": chat["agent"],
        "messages": [{"role": "user", "content": chat["message"]}],
        "stream": True,
    }
    upstream = await client.send(
        client.build_request("POST", "/chat/completions", json=question), stream=True
    )
    body: AsyncIterator[bytes] = upstream.aiter_raw()
    return StreamingResponse(
        body,
        status_code=upstream.status_code,
        media_type="text/event-stream",
        background=BackgroundTask(upstream.aclose),
    )


app = Starlette(routes=[Route("/chat/stream", chat_stream, methods=["POST"])])

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
