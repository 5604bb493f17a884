"""Texts to vectors: in this process, or by OpenAI's API.

**wordllama** is a table of token vectors in its wheel: an embedding is the mean of a text's rows,
20 us for a sentence, without a network. It is loaded in a thread (0.1 s, 55 MiB). Only the wheel's
data is read: its newer releases have the same table, and compiled code beside it that is not built
for every Python.

**OpenAI**: vectors are asked for with `DIMENSIONS` instead of the model's full length, which the
API cuts and normalizes: a third of the memory for a search that is nearly as good.

Both read the first `MAX_CHARS` of a text only: the tokenizer takes 10 ms for 20,000 characters,
and the mean of a long text is near to everything.
"""

import asyncio
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar

from memory import MemoryUnavailable

MAX_CHARS: Final = 8_000
"""Characters of a text that its vector is made of."""

DIMENSIONS: Final = 512
"""The length of the vectors that OpenAI is asked for."""

_T = TypeVar("_T")

_BATCH: Final = 256
_TIMEOUT: Final = 30.0


class WordllamaEmbedder:
    """Static word vectors, without a network."""

    name = "wordllama-l2-supercat-256"
    dimensions = 256

    def __init__(self) -> None:
        # A recall must not wait for somebody's two thousand texts.
        self._thread = ThreadPoolExecutor(1, "memory-embedder")
        self._bulk = ThreadPoolExecutor(1, "embeddings")
        self._loading = threading.Lock()
        self._table: _Table | None = None

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return a unit vector for each text; see `Embedder`. One without words is all zeros."""
        return await self._in_thread(self._thread, self._embed, texts)

    async def counted(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        vectors = await self._in_thread(self._bulk, self._embed, texts)
        return vectors, await self._in_thread(self._bulk, self._count, texts)

    async def _in_thread(
        self, thread: ThreadPoolExecutor, work: Callable[[Sequence[str]], _T], texts: Sequence[str]
    ) -> _T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(thread, work, texts)
        except (ImportError, OSError) as error:
            text = f"The embedder cannot be loaded ({type(error).__name__})."
            raise MemoryUnavailable(text) from error

    def _embed(self, texts: Sequence[str]) -> list[list[float]]:
        table = self._loaded()
        return [unit(table.mean(text[:MAX_CHARS])) for text in texts]

    def _count(self, texts: Sequence[str]) -> int:
        return self._loaded().count([text[:MAX_CHARS] for text in texts])

    def _loaded(self) -> "_Table":
        with self._loading:
            if self._table is None:
                self._table = _Table()
            return self._table

    async def aclose(self) -> None:
        self._thread.shutdown(wait=False)
        self._bulk.shutdown(wait=False)


class _Table:
    """A vector for each token: wordllama's `l2_supercat`, of 256 dimensions.

    Raises `ImportError` or `OSError` where it is not there, or cannot be read.
    """

    def __init__(self) -> None:
        import numpy
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        wheel = find_spec("wordllama")
        if wheel is None or wheel.origin is None:
            raise ImportError("wordllama is not installed")
        folder = Path(wheel.origin).parent
        weights = load_file(folder / "weights" / "l2_supercat_256.safetensors")
        self._rows = weights["embedding.weight"].astype(numpy.float32)
        tokens = folder / "tokenizers" / "l2_supercat_tokenizer_config.json"
        self._tokenizer = Tokenizer.from_file(str(tokens))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def mean(self, text: str) -> list[float]:
        """Return the mean of the vectors of a text's tokens; zeros where it has none."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        known = [each for each in ids if each < len(self._rows)]
        mean: list[float] = (self._rows[known].sum(axis=0) / max(len(known), 1)).tolist()
        return mean

    def count(self, texts: Sequence[str]) -> int:
        """Return how many tokens some texts have, with those that begin them."""
        return sum(len(each.ids) for each in self._tokenizer.encode_batch(list(texts)))


class OpenAIEmbedder:
    """Vectors of OpenAI's API, or of a server at `base_url` that speaks it.

    `model` has to be one that can shorten its vectors.
    """

    dimensions = DIMENSIONS

    def __init__(self, api_key: str, base_url: str | None, model: str) -> None:
        self.name = f"openai-{model}-{DIMENSIONS}"
        self._api_key = api_key
        self._base_url = base_url
        self._model = model
        self._client: Any = None
        self._loading = asyncio.Lock()

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return (await self.counted(texts))[0]

    async def counted(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        client = await self._connected()
        vectors: list[list[float]] = []
        tokens = 0
        for start in range(0, len(texts), _BATCH):
            batch = [text[:MAX_CHARS] or " " for text in texts[start : start + _BATCH]]
            made, used = await self._ask(client, batch)
            vectors += made
            tokens += used
        return vectors, tokens

    async def _ask(self, client: Any, batch: list[str]) -> tuple[list[list[float]], int]:
        from openai import OpenAIError

        try:
            answer = await client.embeddings.create(
                input=batch, model=self._model, dimensions=DIMENSIONS, encoding_format="float"
            )
        except OpenAIError as error:
            text = f"The embedder did not answer ({type(error).__name__})."
            raise MemoryUnavailable(text, retry_after=1) from None
        data = sorted(answer.data, key=lambda item: item.index)
        if [len(item.embedding) for item in data] != [DIMENSIONS] * len(batch):
            raise MemoryUnavailable("The embedder's answer has another form than was asked for.")
        return [unit(item.embedding) for item in data], answer.usage.prompt_tokens

    async def _connected(self) -> Any:
        async with self._loading:
            if self._client is None:
                self._client = await asyncio.to_thread(self._make_client)
        return self._client

    def _make_client(self) -> Any:
        from openai import AsyncOpenAI, OpenAIError

        try:
            return AsyncOpenAI(
                api_key=self._api_key, base_url=self._base_url, timeout=_TIMEOUT, max_retries=1
            )
        except OpenAIError as error:
            text = f"The embedder cannot be used ({type(error).__name__})."
            raise MemoryUnavailable(text) from None

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.close()


def unit(vector: Sequence[float]) -> list[float]:
    """Return a vector of length 1 with the same direction; all zeros where it has none."""
    length = math.sqrt(sum(value * value for value in vector))
    if not length or not math.isfinite(length):
        return [0.0] * len(vector)
    return [value / length for value in vector]
