"""Several providers behind one: names of models, fall-backs, and providers that are down.

A model is named `<provider>:<model>`, where the provider is one that this server has; by a
provider's name alone, for that provider's own default; or by anything else, for a model of the
default provider, so that `llama3:8b` stays whole. A provider that the service knows and this
server does not have is a failure that says which setting is missing.

A request is put to its model and then to each of its fall-backs, while nothing was streamed yet
and the failure is one that another model may not have. What is wrong with the request itself
would be wrong with every model. After the first batch there is no way back: the client has
seen text.

Each provider has a circuit (`llm.circuit`); while it is open the provider is not asked, and the
fall-back gets its turn at once. Where there is none, the provider is tried now and then.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from types import MappingProxyType

import msgspec

from errors import UpstreamError
from llm import Provider
from llm.circuit import Attempt, Circuit
from llm.dialects import Dialect
from messages import ModelRequest, ReplyPart, UserMessage

logger = logging.getLogger("parley.llm")

_ANOTHER_MAY_ANSWER = frozenset(
    {
        "upstream_unauthorized",
        "upstream_quota",
        "upstream_model_not_found",
        "upstream_unsupported",
        "upstream_not_configured",
    }
)
"""Failures that last, but are not the request's."""
_BEGINNING = 500
"""How many characters of a conversation's first message tell it from others."""


class Router:
    """A provider that asks others.

    Args:
        providers: by the name that stands before the colon.
        default: the name of the one that answers where none is named.
        remedies: what to do to have a provider, by the names of those that are not there.
        circuit: makes the circuit of a provider.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        default: str,
        *,
        remedies: Mapping[str, str] = MappingProxyType({}),
        circuit: Callable[[], Circuit] = Circuit,
    ) -> None:
        self._providers = dict(providers)
        self._default = default
        self._remedies = remedies
        self._circuit = circuit
        self._circuits = {name: circuit() for name in providers}
        self.name = providers[default].name
        self.default_model = self.answering(None)

    @property
    def is_available(self) -> bool:
        """Whether the default provider answers, as far as its latest failures tell."""
        return not self._circuits[self._default].is_failing

    def apart(self) -> "Router":
        """Return one that asks the same providers and has circuits of its own.

        For work in the background, whose failures are no reason to leave a user without an answer.
        """
        return Router(
            self._providers, self._default, remedies=self._remedies, circuit=self._circuit
        )

    async def stream(self, request: ModelRequest) -> AsyncGenerator[list[ReplyPart], None]:
        """Ask the model, or else its fall-backs; raises the last one's failure."""
        models = (request.model, *request.fallbacks)
        for number, model in enumerate(models, 1):
            has_begun, is_last = False, number == len(models)
            try:
                provider, attempt, asked = self._admitted(model, request, is_last)
                with attempt:
                    async with aclosing(provider.stream(asked)) as batches:
                        async for batch in batches:
                            if not has_begun:
                                has_begun = True
                                attempt.answered()
                            yield batch
                return
            except UpstreamError as error:
                if has_begun:
                    raise
                if is_last or not _may_help(error):
                    raise _counted(error, number) from None
                logger.warning("%s did not answer (%s); a fall-back is asked", model, error.code)

    def answering(self, wanted: str | None) -> str:
        """Return the model that answers, by a name that may be asked for again."""
        try:
            name, model = self._resolved(wanted) if wanted else (self._default, None)
        except UpstreamError:
            return str(wanted)  # asking it says what is missing
        answers = self._providers[name].answering(model)
        if name == self._default and self._is_its_own(answers):
            return answers
        return f"{name}:{answers}"

    def dialect_for(self, model: str) -> Dialect | None:
        try:
            name, bare = self._resolved(model)
        except UpstreamError:
            return None
        return self._providers[name].dialect_for(bare)

    async def warm(self) -> None:
        """Prepare all providers at the same time; only the default one's failure is raised."""
        ends = await asyncio.gather(
            *(provider.warm() for provider in self._providers.values()), return_exceptions=True
        )
        failed = None
        for name, end in zip(self._providers, ends, strict=True):
            if name == self._default or not isinstance(end, UpstreamError | None):
                failed = failed or end
            elif end is not None:
                logger.warning("The provider %s could not be prepared: %s", name, end.message)
        if failed is not None:
            raise failed

    async def aclose(self) -> None:
        async with AsyncExitStack() as stack:
            for provider in self._providers.values():
                stack.push_async_callback(provider.aclose)

    def _resolved(self, wanted: str) -> tuple[str, str]:
        """Return the provider's name, and the model by the name that the provider knows.

        Raises `UpstreamError` where the provider is known, but this server does not have it.
        """
        name, _, model = wanted.partition(":")
        if name in self._providers:
            return name, model or self._providers[name].default_model
        if name in self._remedies:
            raise UpstreamError(
                f"This server has no provider {name!r} to ask; {self._remedies[name]}.",
                code="upstream_not_configured",
            )
        return self._default, wanted

    def _is_its_own(self, model: str) -> bool:
        """Tell whether the default provider is asked for a model without its prefix."""
        try:
            return self._resolved(model) == (self._default, model)
        except UpstreamError:
            return False

    def _admitted(
        self, model: str, request: ModelRequest, is_last: bool
    ) -> tuple[Provider, Attempt, ModelRequest]:
        """Return whom to ask, and what; raises `UpstreamError` where the circuit is open."""
        name, bare = self._resolved(model)
        circuit = self._circuits[name]
        attempt = circuit.enter(_marks(request), is_last=is_last)
        if attempt is None:
            raise UpstreamError(
                f"The model provider {name!r} has failed again and again and is left alone for "
                "a moment; try again later.",
                code="upstream_circuit_open",
                retryable=True,
                retry_after=circuit.rest(is_last=is_last),
            )
        # What is set of a dialect is the one of the request's own model.
        dialect = request.dialect if model == request.model else {}
        asked = msgspec.structs.replace(request, model=bare, fallbacks=(), dialect=dialect)
        return self._providers[name], attempt, asked


def _marks(request: ModelRequest) -> frozenset[str]:
    """Return what requests have in common that one user repeats.

    The conversation; and its beginning, as a client that keeps its history itself has a new
    conversation here each time.
    """
    said = (each.content for each in request.messages if isinstance(each, UserMessage))
    beginning = next(said, "")[:_BEGINNING]
    return frozenset(filter(None, (request.conversation, beginning)))


def _may_help(error: UpstreamError) -> bool:
    return error.retryable or error.code in _ANOTHER_MAY_ANSWER


def _counted(error: UpstreamError, models: int) -> UpstreamError:
    """Return the error, which says how many models failed where it was more than one."""
    if models == 1:
        return error
    return UpstreamError(
        f"{error.message} (None of {models} models answered; this is the last one's failure.)",
        code=error.code,
        retryable=error.retryable,
        retry_after=error.retry_after,
    )
