"""Requests as an SDK makes them, without its making each of them anew.

What an SDK makes of a call is the same for all calls with the same path and options: address, key,
headers, time-outs. So it is asked once, by a rehearsal whose request is not sent, and the service
sends the others like it: that costs a third of what the SDK does for a request.

Retries, Retry-After, redirects and errors stay the SDK's: whatever is not a plain answer to a
request becomes the outcome of the first attempt of the same call through the SDK.
"""

from typing import Any, Protocol

from httpx2 import Response, TransportError

from llm.transport import AiohttpTransport, Pattern, Readable, body_of, first_attempt


class Client(Protocol):
    async def post(self, *args: Any, **kwargs: Any) -> Any: ...

    async def close(self) -> None: ...


class Requests:
    """Posts through an SDK's client, whose HTTP client uses `transport`.

    The client's key, address and headers are those that it was made with.
    """

    def __init__(self, client: Client, transport: AiohttpTransport) -> None:
        self._client = client
        self._transport = transport
        self._patterns: dict[tuple[object, ...], Pattern] = {}

    async def post(self, path: str, content: bytes, options: dict[str, Any]) -> Readable:
        """Return the body of the answer once its head has come; raises what the SDK raises.

        `options`: the SDK's; apart from `headers` the same for all calls of a path.
        """
        outcome: Response | TransportError
        try:
            body = await self._transport.send(await self._pattern(path, options), content)
        except TransportError as error:
            outcome = error
        else:
            if body.is_plain:
                return body
            outcome = body.response()
        with first_attempt(outcome) as attempt:
            try:
                return body_of(await self._through_the_sdk(path, content, options))
            finally:
                if attempt.request is None and isinstance(outcome, Response):
                    await outcome.aclose()  # the SDK did not come to take it

    async def aclose(self) -> None:
        await self._client.close()

    async def _pattern(self, path: str, options: dict[str, Any]) -> Pattern:
        key = path, *options["headers"].items()
        if key not in self._patterns:
            with first_attempt(Response(200)) as rehearsal:
                await self._through_the_sdk(path, b"{}", options)
            if rehearsal.request is None:
                raise RuntimeError("the SDK made no request")
            self._patterns[key] = Pattern(rehearsal.request)
        return self._patterns[key]

    async def _through_the_sdk(
        self, path: str, content: bytes, options: dict[str, Any]
    ) -> Response:
        response: Response = await self._client.post(
            path, cast_to=Response, content=content, options=options, stream=True
        )
        return response
