"""The HTTP client of the SDKs: proxies and credentials of the environment."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from llm.transport import AiohttpTransport, client

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Heard:
    """A server that answers every request, and the heads that it has read."""

    def __init__(self) -> None:
        self.heads: list[list[str]] = []
        self.address = ""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head.decode().strip().split("\r\n"))
                writer.write(ANSWER)
        except asyncio.IncompleteReadError:
            writer.close()


@asynccontextmanager
async def listening() -> AsyncIterator[Heard]:
    heard = Heard()
    server = await asyncio.start_server(heard.talk, "127.0.0.1", 0)
    async with server:
        heard.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield heard


async def get(http: httpx2.AsyncClient, url: str, **headers: str) -> str:
    async with asyncio.timeout(15):
        return (await http.get(url, headers=headers)).text


async def test_a_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening() as proxy:
        monkeypatch.setenv("http_proxy", f"http://user:secret@{proxy.address}")
        async with client(AiohttpTransport(), 5.0) as http:
            assert await get(http, "http://model.test/v1") == "ok"
            assert await get(http, "http://model.test/v1") == "ok"
    for head in proxy.heads:
        assert head[0] == "GET http://model.test/v1 HTTP/1.1"
        assert "Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=" in head
    assert len(proxy.heads) == 2


async def test_no_proxy_is_asked_for_a_host_that_is_excepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with listening() as server, listening() as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy.address}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        async with client(AiohttpTransport(), 5.0) as http:
            assert await get(http, f"http://{server.address}/v1") == "ok"
            assert await get(http, "http://model.test/v1") == "ok"
    assert [head[0] for head in server.heads] == ["GET /v1 HTTP/1.1"]
    assert [head[0] for head in proxy.heads] == ["GET http://model.test/v1 HTTP/1.1"]


async def test_a_netrc_does_not_meddle_with_the_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with listening() as server, client(AiohttpTransport(), 5.0) as http:
        assert await get(http, f"http://{server.address}/", authorization="Bearer key") == "ok"
    assert "authorization: Bearer key" in server.heads[0]
