"""OpenAI's SDK for Node, run case by case by `node/client.mjs`."""

import json
import subprocess
from pathlib import Path
from typing import Any

from client_tests.service import MODEL, Model, Service
from tests.upstream import calls, error_event_after, text

CLIENT = Path(__file__).parent / "node" / "client.mjs"
RECIPE = {"title": "Pasta al limone", "minutes": 20}


def node(service: Service, case: str) -> Any:
    """Return what the SDK made of a case."""
    command = ["node", str(CLIENT), service.v1, case]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_completion_is_created(service: Service, model: Model) -> None:
    model.says(text("Good", " day"))
    done = node(service, "create")
    assert done["choices"][0]["message"]["content"] == "Good day"
    assert done["usage"]["total_tokens"] == 15


def test_a_completion_is_streamed_with_its_usage(service: Service, model: Model) -> None:
    model.says(text("Grüße, ", "42 — 😀", ".\n\u2028done"))
    *chunks, last = node(service, "stream")
    said = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "".join(said) == "Grüße, 42 — 😀.\n\u2028done"
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 15)


def test_the_stream_helper_puts_the_answer_together(service: Service, model: Model) -> None:
    model.says(text("Good", " day"))
    helped = node(service, "helper")
    assert helped["whole"] == "".join(helped["deltas"]) == "Good day"


def test_an_answer_is_parsed_into_a_form(service: Service, model: Model) -> None:
    model.says(text(json.dumps(RECIPE)))
    assert node(service, "parse") == RECIPE


def test_the_client_s_tools_are_run_by_the_client(service: Service, model: Model) -> None:
    for case in ("tools", "streamedTools"):
        model.says(calls(("look_up", {"order": 7})), text("It was sent."))
        assert node(service, case) == {"answer": "It was sent.", "ran": [7]}
        results = [m["content"] for m in model.requests[1]["messages"] if m["role"] == "tool"]
        assert results == ["order 7 was sent"]


def test_a_response_has_its_headers(service: Service, model: Model) -> None:
    model.says(text("Good day"))
    found = node(service, "headers")
    assert found["request_id"] == found["run"]
    assert found["id"].removeprefix("chatcmpl-") == found["run"].removeprefix("run_")


def test_errors_are_of_their_class(service: Service, model: Model) -> None:
    assert node(service, "unknown") == {
        "name": "NotFoundError",
        "status": 404,
        "code": "model_not_found",
    }
    bad = node(service, "bad")
    assert (bad["name"], bad["status"]) == ("BadRequestError", 400)


def test_a_stream_that_breaks_off_raises_after_what_was_said(
    service: Service, model: Model
) -> None:
    model.says(error_event_after(3))
    broken = node(service, "broken")
    assert broken["said"] == "one two"
    assert broken["error"]["code"]


def test_the_models_are_listed_and_shown(service: Service) -> None:
    models = node(service, "models")
    assert MODEL in models["listed"]
    assert models["shown"] == MODEL


def test_a_text_is_embedded(service: Service) -> None:
    vector = node(service, "embeddings")
    assert any(vector)
    assert all(isinstance(number, int | float) for number in vector)


def test_a_response_is_created_continued_and_found_again(service: Service, model: Model) -> None:
    model.says(text("Good day"), text("Good night"))
    assert node(service, "respond") == ["Good day", "Good night", "Good day"]


def test_a_response_is_streamed_in_numbered_events(service: Service, model: Model) -> None:
    model.says(text("Good", " day"))
    streamed = node(service, "respondStream")
    numbers = [event["sequence_number"] for event in streamed["events"]]
    assert numbers == list(range(len(numbers)))
    assert streamed["events"][-1]["type"] == "response.completed"
    assert streamed["whole"] == "Good day"


def test_a_response_is_parsed_into_a_form(service: Service, model: Model) -> None:
    model.says(text(json.dumps(RECIPE)))
    assert node(service, "respondParse") == RECIPE


def test_a_response_s_calls_are_answered(service: Service, model: Model) -> None:
    model.says(calls(("look_up", {"order": 7})), text("It was sent."))
    assert node(service, "respondTools") == "It was sent."
