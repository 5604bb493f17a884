"""`POST /v1/embeddings`: vectors of texts, from the embedder that memory has.

Whatever `model` says, the service's own embedder answers, and the answer names it.
"""

import base64
import struct
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from api.openai.errors import FAILURES
from api.openai.messages import Text, refused
from memory import Embedder
from memory.embedder import unit
from messages import clean_text
from offload import offload

router = APIRouter(tags=["openai"], responses=FAILURES)

MAX_TEXTS = 2048

_BATCH = 64


class EmbeddingsRequest(BaseModel):
    """Texts, and the format of their vectors."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    input: Text | Annotated[list[Any], Field(min_length=1, max_length=MAX_TEXTS)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)

    def texts(self) -> list[str]:
        """Return the texts.

        Raises:
            errors.Invalid: they are no texts, or empty.
        """
        texts = [self.input] if isinstance(self.input, str) else self.input
        for at, text in enumerate(texts):
            if not isinstance(text, str):
                raise refused(f"input.{at}", "Send texts; token ids are not supported.")
            if not text:
                raise refused("input", "A text must not be empty.")
            if clean_text(text) != text:
                raise refused("input", "A text must not contain NUL or lone surrogate characters.")
        return texts


@router.post("/v1/embeddings", response_class=Response)
async def embed(body: EmbeddingsRequest, request: Request) -> Response:
    """Return a vector for each text."""
    embedder: Embedder = request.app.state.embedder
    dimensions = body.dimensions or embedder.dimensions
    if dimensions > embedder.dimensions:
        raise refused("dimensions", f"At most {embedder.dimensions} are supported.")
    texts = body.texts()
    vectors, tokens = await embedder.counted(texts)
    # Many vectors are megabytes of JSON: they are written in a thread, some at a time.
    pieces = [
        await offload(_items, vectors, start, dimensions, body.encoding_format)
        for start in range(0, len(vectors), _BATCH)
    ]
    rest = {
        "model": embedder.name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    head = b'{"object":"list","data":[%b],' % b",".join(pieces)
    return Response(head + msgspec.json.encode(rest)[1:], media_type="application/json")


def _items(vectors: Sequence[Sequence[float]], start: int, dimensions: int, encoding: str) -> bytes:
    """Return the JSON of some vectors, without the brackets around them."""
    items = [
        {"object": "embedding", "index": index, "embedding": _written(vector, dimensions, encoding)}
        for index, vector in enumerate(vectors[start : start + _BATCH], start)
    ]
    return msgspec.json.encode(items)[1:-1]


def _written(vector: Sequence[float], dimensions: int, encoding: str) -> list[float] | str:
    """Return a vector, cut to fewer dimensions where these were asked for, in its encoding."""
    cut = list(vector) if dimensions == len(vector) else unit(vector[:dimensions])
    if encoding == "float":
        return cut
    return base64.b64encode(struct.pack(f"<{len(cut)}f", *cut)).decode()
