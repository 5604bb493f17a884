"""OpenAI's SDK for Python: responses.

These run with two generations of the SDK, as the chat completions do.
"""

from collections.abc import AsyncIterator, Iterator

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.responses import FunctionToolParam, Response
from pydantic import BaseModel

from client_tests.service import MODEL, Model, Service
from tests.upstream import calls, error_event_after, held, text

LOOK_UP: FunctionToolParam = {
    "type": "function",
    "name": "look_up",
    "description": "Find an order.",
    "parameters": {
        "type": "object",
        "properties": {"order": {"type": "integer"}},
        "required": ["order"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Recipe(BaseModel):
    """A form of an answer."""

    title: str
    minutes: int


@pytest.fixture
def client(service: Service) -> Iterator[OpenAI]:
    with OpenAI(base_url=service.v1, api_key="any", max_retries=0, timeout=20) as client:
        yield client


@pytest.fixture
async def asynchronous(service: Service) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=service.v1, api_key="any", max_retries=0, timeout=20) as client:
        yield client


def test_a_response_is_created_and_found_again(client: OpenAI, model: Model) -> None:
    model.says(text("Good", " day"))
    made = client.responses.create(
        model=MODEL, input="Hello!", instructions="Be brief.", metadata={"order": "7"}
    )
    assert made.id.startswith("resp_")
    assert (made.object, made.status, made.model) == ("response", "completed", MODEL)
    assert made.output_text == "Good day"
    assert made.usage is not None
    assert made.usage.total_tokens == made.usage.input_tokens + made.usage.output_tokens == 15
    assert made.metadata == {"order": "7"}
    assert any("Be brief." in str(m["content"]) for m in model.requests[0]["messages"])
    assert client.responses.retrieve(made.id).output_text == "Good day"


async def test_a_response_takes_items(asynchronous: AsyncOpenAI, model: Model) -> None:
    model.says(text("You are Ada."))
    made = await asynchronous.responses.create(
        model=MODEL,
        input=[
            {"role": "user", "content": [{"type": "input_text", "text": "I am Ada."}]},
            {"role": "assistant", "content": "Hello Ada."},
            {"role": "user", "content": "Who am I?"},
        ],
    )
    assert made.output_text == "You are Ada."
    said = [m["content"] for m in model.requests[0]["messages"] if m["role"] != "system"]
    assert said == ["I am Ada.", "Hello Ada.", "Who am I?"]


def test_a_response_follows_the_one_before(client: OpenAI, model: Model) -> None:
    model.says(text("Hello Ada."), text("Ada."))
    first = client.responses.create(model=MODEL, input="I am Ada.", instructions="Be brief.")
    second = client.responses.create(model=MODEL, input="Who am I?", previous_response_id=first.id)
    assert second.output_text == "Ada."
    assert second.previous_response_id == first.id
    said = [m["content"] for m in model.requests[1]["messages"]]
    assert said[-3:] == ["I am Ada.", "Hello Ada.", "Who am I?"]
    assert "Be brief." not in str(said)


def test_a_response_is_streamed_in_numbered_events(client: OpenAI, model: Model) -> None:
    model.says(text("Good", " day"))
    events = list(client.responses.create(model=MODEL, input="Hello!", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == "Good day"


async def test_the_stream_helper_puts_the_response_together(
    asynchronous: AsyncOpenAI, model: Model
) -> None:
    model.says(text("Good", " day"))
    async with asynchronous.responses.stream(model=MODEL, input="Hello!") as stream:
        deltas = [e.delta async for e in stream if e.type == "response.output_text.delta"]
        whole = await stream.get_final_response()
    assert "".join(deltas) == whole.output_text == "Good day"


def test_a_response_is_parsed_into_a_form(client: OpenAI, model: Model) -> None:
    model.says(text('{"title": "Pasta al limone", "minutes": 20}'))
    made = client.responses.parse(model=MODEL, input="A recipe!", text_format=Recipe)
    assert made.output_parsed == Recipe(title="Pasta al limone", minutes=20)
    assert model.requests[0]["response_format"]["json_schema"]["name"] == "Recipe"


@pytest.mark.parametrize("stream", [False, True])
def test_the_client_s_tools_are_called_by_the_client(
    client: OpenAI, model: Model, stream: bool
) -> None:
    model.says(calls(("look_up", {"order": 7}), ids=["a"]), text("It is on its way."))
    made: Response
    if stream:
        with client.responses.stream(model=MODEL, input="Where?", tools=[LOOK_UP]) as reply:
            made = reply.get_final_response()
    else:
        made = client.responses.create(model=MODEL, input="Where?", tools=[LOOK_UP])
    wanted = [item for item in made.output if item.type == "function_call"]
    assert [(call.name, call.arguments) for call in wanted] == [("look_up", '{"order": 7}')]
    done = client.responses.create(
        model=MODEL,
        previous_response_id=made.id,
        input=[{"type": "function_call_output", "call_id": wanted[0].call_id, "output": "sent"}],
        tools=[LOOK_UP],
    )
    assert done.output_text == "It is on its way."
    assert [m["content"] for m in model.requests[1]["messages"] if m["role"] == "tool"] == ["sent"]


def test_the_service_s_own_tools_stay_invisible(client: OpenAI, model: Model) -> None:
    model.says(calls(("calculate", {"expression": "6*7"})), text("It is 42."))
    made = client.responses.create(model="assistant", input="What is six times seven?")
    assert [item.type for item in made.output] == ["message"]
    assert made.output_text == "It is 42."


def test_a_background_response_is_asked_for_until_it_is_there(client: OpenAI, model: Model) -> None:
    model.says(text("Good", " day"))
    made = client.responses.create(model=MODEL, input="Hello!", background=True)
    assert made.status in ("queued", "in_progress", "completed")
    events = list(client.responses.retrieve(made.id, stream=True))
    assert events[-1].type == "response.completed"
    assert client.responses.retrieve(made.id).output_text == "Good day"


def test_a_stream_is_resumed_behind_a_number(client: OpenAI, model: Model) -> None:
    model.says(text("Good", " day"))
    events = list(client.responses.create(model=MODEL, input="Hello!", stream=True))
    created = events[0]
    assert created.type == "response.created"
    for at in (0, len(events) // 2):
        rest = client.responses.retrieve(created.response.id, stream=True, starting_after=at)
        assert [(e.sequence_number, e.type) for e in rest] == [
            (e.sequence_number, e.type) for e in events[at + 1 :]
        ]


def test_a_background_response_is_cancelled(client: OpenAI, model: Model) -> None:
    model.says(held(text("never")))
    made = client.responses.create(model=MODEL, input="Hello!", background=True)
    kinds = (event.type for event in client.responses.retrieve(made.id, stream=True))
    assert next(kinds) == "response.created"
    model.asked(1)
    assert client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.retrieve(made.id).status == "cancelled"


def test_a_deleted_response_is_gone(client: OpenAI, model: Model) -> None:
    model.says(text("Good day"))
    made = client.responses.create(model=MODEL, input="Hello!")
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_an_unknown_response_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_00000000000000000000000000000000")
    with pytest.raises(openai.APIStatusError) as caught:
        client.responses.create(model=MODEL, input="Go on", previous_response_id="resp_nobody")
    assert caught.value.status_code in (400, 404)


def test_a_response_that_breaks_off_has_failed(client: OpenAI, model: Model) -> None:
    model.says(error_event_after(3))
    events = list(client.responses.create(model=MODEL, input="Hello!", stream=True))
    assert events[-1].type == "response.failed"
    assert events[-1].response.error is not None
    assert "had an error" in events[-1].response.error.message
