"""The plain version, as most people write it: FastAPI, the official SDK's objects, `json.dumps`.

It has the native wire of this service and the same tool loop, without history, limits,
time-outs, cancelling or resuming. Calls of one turn run together, in `asyncio.gather`.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI
from pydantic import BaseModel

client = AsyncOpenAI()
app = FastAPI()

WAIT = {
    "name": "wait",
    "description": "Wait for 100 ms.",
    "parameters": {
        "type": "object",
        "properties": {"step": {"type": "integer"}},
        "required": ["step"],
    },
}


class ChatRequest(BaseModel):
    """What the native wire asks; the agent's name is the model's."""

    message: str
    agent: str


async def wait(step: int) -> dict[str, Any]:
    await asyncio.sleep(0.1)
    return {"step": step}


async def run_tool(call: dict[str, Any]) -> dict[str, Any]:
    result = await wait(**json.loads(call["function"]["arguments"]))
    return {"role": "tool", "tool_call_id": call["id"], "content": json.dumps(result)}


async def chat(request: ChatRequest) -> AsyncIterator[dict[str, Any]]:
    messages: list[Any] = [{"role": "user", "content": request.message}]
    tools: Any = [{"type": "function", "function": WAIT}] if "tools" in request.agent else None
    options: Any = {"tools": tools} if tools else {}
    final_response = ""
    yield {"event_type": "chat_start", "agent": request.agent}
    while True:
        calls: dict[int, dict[str, Any]] = {}
        stream = await client.chat.completions.create(
            model=request.agent, messages=messages, stream=True, **options
        )
        async for chunk in stream:
            if not chunk.choices:
                continue
            delta = chunk.choices[0].delta
            if delta.content:
                final_response += delta.content
                yield {"event_type": "chat_chunk", "content": delta.content}
            for part in delta.tool_calls or []:
                function = {"name": "", "arguments": ""}
                call = calls.setdefault(
                    part.index, {"id": part.id, "type": "function", "function": function}
                )
                if part.function:
                    call["function"]["name"] += part.function.name or ""
                    call["function"]["arguments"] += part.function.arguments or ""
        if not calls:
            break
        messages.append({"role": "assistant", "tool_calls": list(calls.values())})
        for call in calls.values():
            yield {"event_type": "tool_call_start", "tool_call": call}
        results = await asyncio.gather(*(run_tool(call) for call in calls.values()))
        for result in results:
            yield {"event_type": "tool_call_complete", "tool_call": result}
        messages.extend(results)
    yield {"event_type": "chat_complete", "final_response": final_response}


@app.post("/chat/stream")
async def chat_stream(request: ChatRequest) -> StreamingResponse:

    async def events() -> AsyncIterator[str]:
        async for event in chat(request):
            yield f"data: {json.dumps(event)}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


@app.websocket("/ws")
async def websocket(socket: WebSocket) -> None:
    await socket.accept()
    try:
        while True:
            frame = await socket.receive_json()
            async for event in chat(ChatRequest(**frame["data"])):
                await socket.send_json({"type": event["event_type"], "data": event})
    except WebSocketDisconnect:
        pass


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
