"""OpenAI's SDK for Python: chat completions, models and embeddings.

These run with two generations of the SDK: the service's own environment has the newest, that of
the other clients has the one that these agree on.
"""

from collections.abc import AsyncIterator, Iterator

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from client_tests.service import MODEL, Model, Service
from tests.upstream import Reply, calls, completion, error_event_after, reset_after, status, text

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello!"}]

LOOK_UP: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Find an order.",
        "parameters": {
            "type": "object",
            "properties": {"order": {"type": "integer"}},
            "required": ["order"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}


class Recipe(BaseModel):
    """A form of an answer."""

    title: str
    minutes: int


RECIPE = '{"title": "Pasta al limone", "minutes": 20}'


@pytest.fixture
def client(service: Service) -> Iterator[OpenAI]:
    with OpenAI(base_url=service.v1, api_key="any", max_retries=0, timeout=20) as client:
        yield client


@pytest.fixture
async def asynchronous(service: Service) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=service.v1, api_key="any", max_retries=0, timeout=20) as client:
        yield client


def test_a_completion_is_created(client: OpenAI, model: Model) -> None:
    model.says(text("Good", " day"))
    done = client.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hello!"}]},
        ],
        temperature=0.5,
        max_tokens=50,
        top_p=0.9,
        stop=["END"],
        seed=7,
    )
    assert done.object == "chat.completion"
    assert done.id.startswith("chatcmpl-")
    assert done.model == MODEL
    assert done.choices[0].message.content == "Good day"
    assert done.choices[0].finish_reason == "stop"
    assert done.usage is not None
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens == 15
    asked = model.requests[0]
    assert (asked["temperature"], asked["top_p"], asked["stop"]) == (0.5, 0.9, ["END"])
    assert asked["seed"] == 7
    assert asked["messages"][-1]["content"] == "Hello!"
    assert any("Be brief." in str(message["content"]) for message in asked["messages"])


async def test_a_completion_is_created_by_the_asynchronous_client(
    asynchronous: AsyncOpenAI, model: Model
) -> None:
    model.says(text("Good", " day"))
    done = await asynchronous.chat.completions.create(model=MODEL, messages=HELLO)
    assert done.choices[0].message.content == "Good day"


def test_a_picture_reaches_the_model(client: OpenAI, model: Model) -> None:
    model.says(text("A cat."))
    picture = "data:image/png;base64,iVBORw0KGgo="
    done = client.chat.completions.create(
        model=MODEL,
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": picture}},
                ],
            }
        ],
    )
    assert done.choices[0].message.content == "A cat."
    assert model.requests[0]["messages"][-1]["content"][1]["image_url"]["url"] == picture


def test_a_completion_is_streamed(client: OpenAI, model: Model) -> None:
    model.says(text("Grüße, ", "it is ", "42 — 😀", ".\n\u2028done"))
    chunks = list(client.chat.completions.create(model=MODEL, messages=HELLO, stream=True))
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert said == "Grüße, it is 42 — 😀.\n\u2028done"
    ends = [chunk.choices[0].finish_reason for chunk in chunks]
    assert ends == [None] * (len(chunks) - 1) + ["stop"]
    assert all(chunk.usage is None for chunk in chunks)


async def test_the_usage_comes_in_a_last_chunk_without_choices(
    asynchronous: AsyncOpenAI, model: Model
) -> None:
    model.says(text("Good", " day"))
    stream = await asynchronous.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 15
    assert all(chunk.usage is None and chunk.choices for chunk in chunks[:-1])


def test_the_stream_helper_tells_the_text_and_puts_the_answer_together(
    client: OpenAI, model: Model
) -> None:
    model.says(text("Good", " day"))
    with client.chat.completions.stream(model=MODEL, messages=HELLO) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        whole = stream.get_final_completion()
    assert "".join(deltas) == "Good day"
    assert deltas[-2:] == ["Good", " day"]
    assert whole.choices[0].message.content == "Good day"


async def test_the_stream_helper_parses_calls_and_forms(
    asynchronous: AsyncOpenAI, model: Model
) -> None:
    model.says(calls(("look_up", {"order": 7})))
    async with asynchronous.chat.completions.stream(
        model=MODEL, messages=HELLO, tools=[LOOK_UP]
    ) as stream:
        done = [event async for event in stream if event.type.endswith("arguments.done")]
        whole = await stream.get_final_completion()
    assert len(done) == 1
    called = whole.choices[0].message.tool_calls or []
    assert [call.function.parsed_arguments for call in called] == [{"order": 7}]
    model.says(completion([{"content": RECIPE[:9]}, {"content": RECIPE[9:]}]))
    async with asynchronous.chat.completions.stream(
        model=MODEL, messages=HELLO, response_format=Recipe
    ) as form:
        parsed = (await form.get_final_completion()).choices[0].message.parsed
    assert parsed == Recipe(title="Pasta al limone", minutes=20)


def test_an_answer_is_parsed_into_a_form(client: OpenAI, model: Model) -> None:
    model.says(text(RECIPE))
    done = client.chat.completions.parse(model=MODEL, messages=HELLO, response_format=Recipe)
    assert done.choices[0].message.parsed == Recipe(title="Pasta al limone", minutes=20)
    wanted = model.requests[0]["response_format"]["json_schema"]
    assert (wanted["name"], wanted["strict"]) == ("Recipe", True)
    assert set(wanted["schema"]["properties"]) == {"title", "minutes"}


@pytest.mark.parametrize("stream", [False, True])
def test_the_client_s_tools_are_called_by_the_client(
    client: OpenAI, model: Model, stream: bool
) -> None:
    model.says(calls(("look_up", {"order": 7}), ("look_up", {"order": 8}), ids=["a", "b"]))
    if stream:
        with client.chat.completions.stream(model=MODEL, messages=HELLO, tools=[LOOK_UP]) as reply:
            choice = reply.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.parse(
            model=MODEL, messages=HELLO, tools=[LOOK_UP]
        ).choices[0]
    assert choice.finish_reason == "tool_calls"
    wanted = choice.message.tool_calls or []
    assert [call.function.parsed_arguments for call in wanted] == [{"order": 7}, {"order": 8}]
    model.says(text("Both are on their way."))
    results: list[ChatCompletionMessageParam] = [
        {"role": "tool", "tool_call_id": call.id, "content": "sent"} for call in wanted
    ]
    said: ChatCompletionMessageParam = {
        "role": "assistant",
        "content": choice.message.content,
        "tool_calls": [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for call in wanted
        ],
    }
    done = client.chat.completions.create(
        model=MODEL, messages=[*HELLO, said, *results], tools=[LOOK_UP]
    )
    assert done.choices[0].message.content == "Both are on their way."
    assert [m["content"] for m in model.requests[0]["messages"] if m["role"] == "tool"] == [
        "sent",
        "sent",
    ]


def test_the_service_s_own_tools_stay_invisible(client: OpenAI, model: Model) -> None:
    model.says(calls(("calculate", {"expression": "6*7"})), text("It is 42."))
    chunks = list(client.chat.completions.create(model="assistant", messages=HELLO, stream=True))
    assert all(not chunk.choices[0].delta.tool_calls for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "It is 42."
    results = [m for m in model.requests[1]["messages"] if m["role"] == "tool"]
    assert "42" in results[0]["content"]


def test_a_raw_response_has_its_headers_and_its_body(client: OpenAI, model: Model) -> None:
    model.says(text("Good day"))
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO)
    assert raw.status_code == 200
    assert raw.request_id == raw.headers["x-run-id"]
    assert raw.http_response.json()["choices"][0]["message"]["content"] == "Good day"
    assert raw.parse().choices[0].message.content == "Good day"


def test_what_openai_has_and_this_service_has_not_is_ignored(client: OpenAI, model: Model) -> None:
    model.says(text("Good day"))
    done = client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        frequency_penalty=0.1,
        logit_bias={},
        metadata={"a": "b"},
        service_tier="auto",
        store=False,
        extra_body={"made_up": [1]},
    )
    assert done.choices[0].message.content == "Good day"


def test_an_unknown_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-nobody", messages=HELLO)
    assert caught.value.code == "model_not_found"
    assert "gpt-nobody" in caught.value.message


@pytest.mark.parametrize(
    ("wrong", "param"),
    [({"messages": []}, "messages"), ({"temperature": 9}, "temperature"), ({"n": 2}, "n")],
    ids=["no messages", "too hot", "two answers"],
)
def test_a_bad_request_names_what_is_wrong(
    client: OpenAI, wrong: dict[str, object], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO, extra_body=wrong)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def test_a_model_that_is_overloaded_is_an_error_after_which_one_may_ask_again(
    client: OpenAI, model: Model
) -> None:
    model.says(status(429, "Slow down.", error_type="rate_limit", retry_after=1))
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO)
    assert caught.value.code == "upstream_rate_limited"
    assert "Slow down." in caught.value.message
    model.says(text("Good day"))
    done = client.chat.completions.create(model=MODEL, messages=HELLO)
    assert done.choices[0].message.content == "Good day"


def test_a_client_that_repeats_its_request_gets_its_answer(client: OpenAI, model: Model) -> None:
    model.says(status(500), text("Good day"))
    patient = client.with_options(max_retries=1)
    done = patient.chat.completions.create(model=MODEL, messages=HELLO)
    assert done.choices[0].message.content == "Good day"
    assert len(model.requests) == 2


@pytest.mark.parametrize("broken", [error_event_after(3), reset_after(3)], ids=["error", "reset"])
def test_a_stream_that_breaks_off_raises_after_what_was_said(
    client: OpenAI, model: Model, broken: Reply
) -> None:
    model.says(broken)
    stream = client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    said: list[str] = []
    with pytest.raises(openai.APIError) as caught:
        said.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "".join(said) == "one two"
    assert caught.value.code
    model.says(text("Good day"))
    done = client.chat.completions.create(model=MODEL, messages=HELLO)
    assert done.choices[0].message.content == "Good day"


def test_the_models_are_listed_and_shown(client: OpenAI) -> None:
    listed = {each.id: each for each in client.models.list()}
    assert {"assistant", "chat", MODEL} <= set(listed)
    shown = client.models.retrieve(MODEL)
    assert (shown.id, shown.object) == (MODEL, "model")
    assert shown == listed[MODEL]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-nobody")


async def test_the_asynchronous_client_lists_the_models(asynchronous: AsyncOpenAI) -> None:
    assert MODEL in [each.id async for each in asynchronous.models.list()]


def test_texts_are_embedded(client: OpenAI) -> None:
    names = ["I love pasta.", "Spaghetti is my favourite food.", "The train is late."]
    made = client.embeddings.create(model="text-embedding-3-small", input=names)
    pasta, spaghetti, train = (each.embedding for each in made.data)
    assert [each.index for each in made.data] == [0, 1, 2]
    assert len(pasta) == len(spaghetti) == len(train) > 1
    assert _alike(pasta, spaghetti) > _alike(pasta, train)
    plain = client.embeddings.create(
        model="text-embedding-3-small", input=names[0], encoding_format="float"
    )
    assert plain.data[0].embedding == pytest.approx(pasta, abs=1e-6)


def _alike(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
