"""A chat on `/api/chat` with `requests`, whole and in chunks: `user_chat.py <url>`; prints JSON."""

import contextlib
import json
import sys
from typing import Any

import requests

url = sys.argv[1]
whole: Any = requests.post(
    f"{url}/api/chat/simple", json={"user_id": "user123", "message": "Hello, how are you?"}
).json()

pieces: list[str] = []
ended = False
response = requests.post(
    f"{url}/api/chat", json={"user_id": "user123", "message": "Tell me a story"}, stream=True
)
for line in response.iter_lines():
    text = line.decode("utf-8")
    if not text.startswith("data: "):
        continue
    data = text[len("data: ") :]
    if data == "[DONE]":
        ended = True
        break
    with contextlib.suppress(json.JSONDecodeError):
        pieces.append(json.loads(data)["content"])
response.close()
print(json.dumps({"whole": whole, "pieces": pieces, "ended": ended}))
