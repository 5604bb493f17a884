"""`curl`, as OpenAI's own reference writes it."""

import json
import subprocess
from typing import Any

from client_tests.service import MODEL, Model, Service
from tests.upstream import error_event_after, text

HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hello!"}]}


def curl(url: str, body: Any = None, *options: str) -> str:
    """Run curl to its end and return what it printed."""
    sent = ["-H", "Content-Type: application/json", "-d", json.dumps(body)] if body else []
    command = ["curl", "-sS", "--max-time", "20", "-H", "Authorization: Bearer any", *sent]
    done = subprocess.run([*command, *options, url], capture_output=True, check=True, text=True)
    return done.stdout


def frames(stream: str) -> list[str]:
    return [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data:")]


def test_a_completion_is_created(service: Service, model: Model) -> None:
    model.says(text("Good", " day"))
    done = json.loads(curl(f"{service.v1}/chat/completions", HELLO))
    assert done["choices"][0]["message"]["content"] == "Good day"


def test_a_completion_is_streamed(service: Service, model: Model) -> None:
    model.says(text("Good", " day"))
    *chunks, end = frames(curl(f"{service.v1}/chat/completions", HELLO | {"stream": True}, "-N"))
    assert end == "[DONE]"
    deltas = [json.loads(chunk)["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content", "") for delta in deltas) == "Good day"


def test_a_stream_that_breaks_off_ends_in_an_error(service: Service, model: Model) -> None:
    model.says(error_event_after(3))
    last = frames(curl(f"{service.v1}/chat/completions", HELLO | {"stream": True}, "-N"))[-1]
    assert set(json.loads(last)["error"]) == {"message", "type", "param", "code"}


def test_an_unknown_model_is_not_found(service: Service) -> None:
    body, _, status = curl(
        f"{service.v1}/chat/completions", HELLO | {"model": "nobody"}, "-w", "\n%{http_code}"
    ).rpartition("\n")
    assert status == "404"
    assert json.loads(body)["error"]["code"] == "model_not_found"


def test_the_models_are_listed(service: Service) -> None:
    listed = json.loads(curl(f"{service.v1}/models"))
    assert MODEL in [each["id"] for each in listed["data"]]


def test_a_text_is_embedded(service: Service) -> None:
    asked = {"model": "text-embedding-3-small", "input": "Hello!"}
    made = json.loads(curl(f"{service.v1}/embeddings", asked))
    assert all(isinstance(number, float) for number in made["data"][0]["embedding"])


def test_a_response_is_created_and_streamed(service: Service, model: Model) -> None:
    model.says(text("Good day"), text("Good", " day"))
    asked = {"model": MODEL, "input": "Hello!"}
    made = json.loads(curl(f"{service.v1}/responses", asked))
    assert made["output"][0]["content"][0]["text"] == "Good day"
    told = curl(f"{service.v1}/responses", asked | {"stream": True}, "-N")
    assert json.loads(frames(told)[-1])["type"] == "response.completed"
    assert "event: response.completed\n" in told
