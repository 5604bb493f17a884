"""What a server or a model wants of a chat completion that another one does not: its dialect.

A dialect is plain data. What the address or the model's name tells is a row of `ROWS`; what a
refusal tells is learned (`llm.lessons`); a setting and an agent's configuration overrule both.
"""

from typing import Literal, TypeAlias

import msgspec

Bound: TypeAlias = Literal["max_completion_tokens", "max_tokens", "none"]
CallIds: TypeAlias = Literal["any", "nine"]
Echo: TypeAlias = Literal["nothing", "reasoning_content", "extra_content"]


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """How a request is written; the defaults are OpenAI's own.

    Args:
        bound: the name of the bound on a reply's tokens.
        stream_options: whether usage may be asked for.
        temperature, top_p: whether another value than the model's own is taken.
        parallel_tool_calls: whether parallel calls can be forbidden.
        json_schema, json_object: the forms of an answer that can be demanded.
        call_ids: nine letters and digits, which suit all; or any up to 40 characters, as the
            model made them.
        alternate: whether users and assistants have to take turns.
        echo: what the model gives to be given back with its calls: `reasoning_content` of the
            message, or `extra_content` of each call.
        think_tags: whether an answer may begin with `<think>…</think>`, which is its reasoning.
    """

    bound: Bound = "max_completion_tokens"
    stream_options: bool = True
    temperature: bool = True
    top_p: bool = True
    parallel_tool_calls: bool = True
    json_schema: bool = True
    json_object: bool = True
    call_ids: CallIds = "nine"
    alternate: bool = False
    echo: Echo = "nothing"
    think_tags: bool = False


def dialect_of(base_url: str | None, model: str) -> Dialect:
    """Return what is known beforehand of a model at an address (None: OpenAI's own)."""
    return Dialect(bound="max_completion_tokens" if base_url is None else "max_tokens")
