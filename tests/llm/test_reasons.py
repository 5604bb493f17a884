"""What a provider says for itself, in any shape, and without keys."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.dialect_servers as servers
from llm.openai_failures import OpenAIFailures
from llm.reasons import reason_of, without_keys

REASON = "The model is overloaded."
FAULT = {"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs"}


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": REASON, "type": "server_error", "code": 500}},  # OpenAI
        [{"error": {"code": 503, "message": REASON, "status": "UNAVAILABLE"}}],  # Gemini
        {"error": REASON},  # Ollama's own API
        {"detail": REASON},  # FastAPI
        {"message": REASON},  # Bedrock
        {"Message": REASON},
        {"object": "error", "message": REASON, "code": 40000},  # vLLM, older
        {"error": "Bad Request", "message": [REASON], "statusCode": 400},  # NestJS
        {"error_code": "BAD_REQUEST", "message": REASON},  # Databricks
        {"error": "Received an error", "external_model_message": {"message": REASON}},
        {"success": False, "errors": [{"code": 7000, "message": REASON}]},  # Cloudflare
        {"error": {"message": "Provider returned error", "metadata": {"raw": REASON}}},
        {"error": {"message": "", "metadata": {"raw": json.dumps({"detail": REASON})}}},
        {"error": {"message": json.dumps({"error": {"message": REASON}})}},
        {"type": "about:blank", "title": REASON, "status": 503},  # RFC 9457
        {"type": "error", "error": {"type": "overloaded_error", "message": REASON}},  # Anthropic
        {"error_msg": REASON},  # Baidu
        f"\n{REASON}\n",
        json.dumps([{"error": {"message": REASON}}]),
        f"<!DOCTYPE html><html><head><style>b{{}}</style><title>{REASON}</title></head><h1>"
        f"{REASON}</h1><p>nginx</p></html>",
        f"<html><body><p>{REASON}</p></body></html>",
        f"Traceback (most recent call last):\n  File x\n{REASON}",
    ],
)
def test_the_reason_is_found_whatever_the_shape(body: Any) -> None:
    assert reason_of(body) == REASON
    assert REASON in OpenAIFailures("none").of_answer(503, body).message


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"detail": [FAULT]}, "body.seed: Extra inputs"),
        ({"object": "error", "message": {"detail": [FAULT]}}, "body.seed: Extra inputs"),
        (
            {"error": {"message": servers.TEMPLATE_REFUSAL}},
            "Jinja Exception: Conversation roles must alternate user/assistant/user/assistant/...",
        ),
        (
            # As llama.cpp of October 2026 has it, with the status 400.
            {"error": {"message": f"Unable to generate parser: {servers.TEMPLATE_REFUSAL}"}},
            "Jinja Exception: Conversation roles must alternate user/assistant/user/assistant/...",
        ),
        ("No.\n-----\nAsk again.", "No. ----- Ask again."),
        ("<title>a.example | 502: Bad gateway</title><h1>Sorry</h1>", "a.example | 502: Bad"),
        ("<html><title>&quot;No&quot;</title>", '"No"'),
        ("a < b", "a < b"),
        ({"error": {"code": "x", "param": None}}, ""),
        ({"message": "  "}, ""),
        (None, ""),
        ([], ""),
        (5, ""),
        ("{broken", "{broken"),
    ],
)
def test_the_most_telling_sentence_is_the_reason(body: Any, expected: str) -> None:
    assert reason_of(body).startswith(expected)
    assert bool(reason_of(body)) == bool(expected)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["error", "message", "detail", "loc", "x"]), inner)
        ),
    )
)
def test_no_shape_breaks_it(body: Any) -> None:
    reason = reason_of(body)
    assert reason == " ".join(reason.split())
    OpenAIFailures("none").of_answer(400, body)


@pytest.mark.parametrize(
    "body",
    [
        "<html>" + "<script " * 100_000,
        "<html>" + "<title>" * 100_000,
        "<html>" + "<" * 500_000,
        "-" * 500_000,
        "sk-" * 200_000,
        "a-" * 200_000,
        '{"message":' * 100_000,
        {"message": ["x" * 500_000] * 10},
    ],
    ids=range(8),
)
def test_a_huge_answer_stalls_nothing(body: Any) -> None:
    started = time.thread_time()
    assert len(OpenAIFailures("swordfish").of_answer(400, body).message) < 600
    assert time.thread_time() - started < 0.1


DUMMIES = ["none", "ollama", "lm-studio", "EMPTY", "dummy", "not-needed", "sk-no-key-required", "x"]


@pytest.mark.parametrize("dummy", DUMMIES)
def test_a_dummy_key_is_no_secret(dummy: str) -> None:
    text = f"The server {dummy} at {dummy}.local knows none of 3 models; set {dummy}."
    assert without_keys(text, dummy) == text


@pytest.mark.parametrize(
    "innocent",
    [
        "meta-llama/llama-3.1-405b-instruct-fp8-dynamic-long-context is not loaded",
        "The following tool_call_ids did not have responses: call_AbCdEfGh0123456789IjKlMnOp",
        "chatcmpl-tool-0123456789abcdef0123456789abcdef is unknown",
        "Missing Bearer token in the header.",
    ],
)
def test_what_only_looks_a_little_like_a_key_stays(innocent: str) -> None:
    assert without_keys(innocent, "swordfish") == innocent


@pytest.mark.parametrize(
    "key",
    [
        "sk-proj-AbCdEf0123456789",
        "sk-ant-api03-AbCdEf",
        "gsk_AbCdEf0123456789",
        "xai-AbCdEf0123456789AbCdEf",
        "hf_AbCdEfGhIjKlMnOpQr",
        "nvapi-AbCdEf0123456789AbCdEf",
        "dapi0123456789abcdef01234567",
        "AIzaSyA0123456789-AbCdEf_GhIjKl",
        "0123456789abcdef0123456789abcdef",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "Bearer abc",
    ],
)
def test_what_is_a_key_is_blotted_out_also_where_another_is_configured(key: str) -> None:
    for secret in ("none", "x", "sk-no-key-required", "", "another"):
        assert without_keys(f"Key {key} is wrong", secret) == "Key [redacted] is wrong"


@pytest.mark.parametrize(
    ("secret", "text", "expected"),
    [
        ("swordfish", "Who is swordfish?", "Who is [redacted]?"),
        ("pa$$", "pa$$, pa$$word", "[redacted], pa$$word"),
        ("abc", "abc is no alphabet: abcd", "[redacted] is no alphabet: abcd"),
        ("correct-horse-battery", "q=correct-horse-batteryx", "q=[redacted]x"),
    ],
)
def test_the_configured_key_is_blotted_out_where_it_stands_for_itself(
    secret: str, text: str, expected: str
) -> None:
    assert without_keys(text, secret) == expected
