"""The raw relay: the upstream's bytes go on unparsed, over the HTTP client of this service.

What it costs is the floor under any Python service with this client and this server. It takes
the native request and answers in OpenAI's wire.
"""

import os
from collections.abc import AsyncIterator

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from llm.transport import AiohttpTransport, Pattern, Readable, client

ADDRESS = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
HEADERS = {"content-type": "application/json"}
transport = AiohttpTransport()
pattern = Pattern(client(transport, 60.0).build_request("POST", ADDRESS, headers=HEADERS))


async def pieces(body: Readable) -> AsyncIterator[bytes]:
    while data := await body.read():
        yield data


async def chat_stream(request: Request) -> StreamingResponse:
    chat = msgspec.json.decode(await request.body())
    question = {
        "model": chat["agent"],
        "messages": [{"role": "user", "content": chat["message"]}],
        "stream": True,
    }
    body = await transport.send(pattern, msgspec.json.encode(question))
    return StreamingResponse(
        pieces(body), media_type="text/event-stream", background=BackgroundTask(body.aclose)
    )


app = Starlette(routes=[Route("/chat/stream", chat_stream, methods=["POST"])])

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
