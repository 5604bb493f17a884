"""Stream one chat with aiohttp, line by line, and print what was understood as JSON.

Usage: python sse_client.py <base URL> <message>
"""

import asyncio
import json
import sys
from typing import Any

import aiohttp


async def stream_chat(base: str, message: str) -> dict[str, Any]:
    seen: dict[str, Any] = {"chunks": [], "tools": [], "final": None, "types": []}
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{base}/chat/stream",
            json={"message": message, "reset_history": False, "parallel_tools": True},
        ) as response,
    ):
        async for raw in response.content:
            line = raw.decode("utf-8").strip()
            if not line.startswith("data: "):
                continue
            data = json.loads(line[6:])
            seen["types"].append(data["event_type"])
            if data["event_type"] == "chat_chunk":
                seen["chunks"].append(data["content"])
            elif data["event_type"] == "tool_call_complete":
                seen["tools"].append(data["tool_call"])
            elif data["event_type"] == "chat_complete":
                seen["final"] = data["final_response"]
    return seen


if __name__ == "__main__":
    print(json.dumps(asyncio.run(stream_chat(sys.argv[1], sys.argv[2]))))
