"""A front end's stream of tokens, with `requests`: `token_reader.py <url> <message> [<id>]`.

It takes each `data:` line that is not an object for a token, and looks into objects for the
conversation's id. Prints JSON.
"""

import json
import sys

import requests

url, message, *known = sys.argv[1:]
conversation_id = known[0] if known else None
tokens: list[str] = []
response = requests.post(
    url, json={"message": message, "conversation_id": conversation_id}, stream=True
)
for line in response.iter_lines():
    if not line:
        continue
    text = line.decode("utf-8")
    if not text.startswith("data:"):
        continue
    data = text[len("data:") :].strip()
    if data and not data.startswith("{"):
        tokens.append(data)
    elif data.startswith("{"):
        parsed = json.loads(data)
        if "conversation_id" in parsed:
            conversation_id = parsed["conversation_id"]
print(json.dumps({"tokens": tokens, "conversation_id": conversation_id}))
