"""`POST /v1/embeddings`: vectors of texts, from the embedder that memory has.

Whatever `model` says, the service's own embedder answers, and the answer names it.
"""

import base64
import struct
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from api.v1.errors import FAILURES
from api.v1.messages import Text, refused
from memory import Embedder
from memory.embedder import unit

router = APIRouter(tags=["openai"], responses=FAILURES)

MAX_TEXTS = 2048


class EmbeddingsRequest(BaseModel):
    """Texts, and how their vectors are to be written."""

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
                raise refused(
                    f"input.{at}", "Give texts: another model's tokens mean nothing here."
                )
            if not text:
                raise refused("input", "A text must not be empty.")
        return texts


@router.post("/v1/embeddings", response_class=JSONResponse)
async def embed(body: EmbeddingsRequest, request: Request) -> Response:
    """Return a vector for each text."""
    embedder: Embedder = request.app.state.embedder
    dimensions = body.dimensions or embedder.dimensions
    if dimensions > embedder.dimensions:
        raise refused("dimensions", f"The vectors have {embedder.dimensions} dimensions.")
    texts = body.texts()
    vectors, tokens = await embedder.counted(texts)
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _written(vector, dimensions, body.encoding_format),
        }
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "data": data, "model": embedder.name, "usage": usage})


def _written(vector: Sequence[float], dimensions: int, encoding: str) -> list[float] | str:
    """Return a vector, cut to fewer dimensions where these were asked for, in its encoding."""
    cut = list(vector) if dimensions == len(vector) else unit(vector[:dimensions])
    if encoding == "float":
        return cut
    return base64.b64encode(struct.pack(f"<{len(cut)}f", *cut)).decode()
