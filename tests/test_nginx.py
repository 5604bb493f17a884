"""`deploy/nginx.conf` does what `docs/deploy.md` says, with the real nginx.

Without nginx these tests are skipped; where the environment has REQUIRE_NGINX, they fail.
"""

import asyncio
import io
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.service import DEADLINE, Service, events, running
from tests.upstream import Upstream, paced, text
from tests.wsclient import Client, text_of

pytestmark = pytest.mark.slow

CONFIGURATION = (Path(__file__).parents[1] / "deploy" / "nginx.conf").read_text(encoding="utf-8")
NAME = "chat.example"

# What Debian's own nginx.conf says around the files of conf.d, but in a folder of its own.
AROUND = """
{user}
error_log stderr notice;
pid {folder}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    scgi_temp_path {folder}/scgi;
    uwsgi_temp_path {folder}/uwsgi;
    include {folder}/parley.conf;
}}
"""


@pytest.fixture
def nginx() -> str:
    """The program."""
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        (pytest.fail if os.environ.get("REQUIRE_NGINX") else pytest.skip)("nginx is not installed")
    return found


@dataclass
class Proxied:
    """What a browser knows of the service: an address and an origin, those of the proxy."""

    session: aiohttp.ClientSession
    url: str
    origin: str

    @property
    def host(self) -> dict[str, str]:
        return {"Host": urlsplit(self.origin).netloc}

    @property
    def page(self) -> dict[str, str]:
        """The headers of a request of the page."""
        return self.host | {"Origin": self.origin, "Sec-Fetch-Site": "same-origin"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


@asynccontextmanager
async def proxied(
    nginx: str, folder: Path, service: Service, configuration: str = CONFIGURATION
) -> AsyncIterator[Proxied]:
    """Run nginx in front of a service, with `configuration` but for its two ports."""
    port = free_port()
    for line, other in (
        ("listen 80;", f"listen 127.0.0.1:{port};"),
        ("server 127.0.0.1:8000;", f"server {urlsplit(service.url).netloc};"),
    ):
        assert configuration.count(line) == 1
        configuration = configuration.replace(line, other)
    (folder / "parley.conf").write_text(configuration)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(AROUND.format(folder=folder, user=user))
    child = await asyncio.create_subprocess_exec(
        *(nginx, "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")),
        *("-g", "daemon off;"),
        stderr=asyncio.subprocess.PIPE,
    )
    assert child.stderr is not None
    try:
        said = b""
        async with asyncio.timeout(DEADLINE):
            while b"start worker process " not in said:
                said += (line_said := await child.stderr.readline())
                assert line_said, said
        async with aiohttp.ClientSession() as session:
            yield Proxied(session, f"http://127.0.0.1:{port}", f"http://{NAME}:{port}")
    finally:
        child.terminate()
        await child.communicate()


@asynccontextmanager
async def opened(proxy: Proxied, origin: str) -> AsyncIterator[Client]:
    headers = proxy.host | {"Origin": origin}
    async with proxy.session.ws_connect(proxy.url + "/ws", headers=headers) as connection:
        yield Client(connection)


async def test_the_page_and_its_socket_work(nginx: str, tmp_path: Path) -> None:
    async with (
        running(allowed_hosts=(NAME,), demo_tokens_per_second=0) as service,
        proxied(nginx, tmp_path, service) as proxy,
    ):
        for path, accepts in (("/", "text/html"), ("/web/page/chat.js", "*/*")):
            headers = proxy.host | {"Accept": accepts}
            async with proxy.session.get(proxy.url + path, headers=headers) as response:
                assert response.status == 200
                assert response.headers["content-type"].startswith("text/")
        async with opened(proxy, proxy.origin) as client:
            assert "42" in text_of(await client.chat("What's 15 + 27?"))
        for stranger in ("https://evil.example", f"http://{NAME}", "null"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
                async with opened(proxy, stranger):
                    pass
            assert refusal.value.status == 403


async def test_without_the_host_a_browser_gets_no_socket(nginx: str, tmp_path: Path) -> None:
    needed = "        proxy_set_header Host $http_host;\n"
    assert needed in CONFIGURATION
    async with (
        running(allowed_hosts=(NAME, "parley")) as service,
        proxied(nginx, tmp_path, service, CONFIGURATION.replace(needed, "")) as proxy,
    ):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            async with opened(proxy, proxy.origin):
                pass
        assert refusal.value.status == 403


async def test_a_token_arrives_before_the_next_is_there_and_a_reader_resumes(
    nginx: str, tmp_path: Path
) -> None:
    async with (
        Upstream([paced(text("one", " two", " three"))]) as upstream,
        running(upstream=upstream.base_url, allowed_hosts=(NAME,)) as service,
        proxied(nginx, tmp_path, service) as proxy,
    ):
        asked = proxy.session.post(
            proxy.url + "/chat/stream", json={"message": "hi"}, headers=proxy.page
        )
        seen = []
        async with asked as response:
            assert response.status == 200
            async for event in events(response):
                if event["event_type"] == "chat_start":
                    for _ in range(2):
                        await upstream.gate.pass_one()
                seen.append(event)
                if event["event_type"] == "chat_chunk":
                    break
        assert seen[-1]["content"] == "one"
        upstream.gate.open()
        address = f"{proxy.url}/runs/{seen[0]['run_id']}/events"
        headers = proxy.page | {"Last-Event-ID": seen[-1]["id"]}
        async with proxy.session.get(address, headers=headers) as response:
            rest = [event async for event in events(response)]
    assert rest[0]["content"].startswith(" two")
    assert rest[-1]["final_response"] == "one two three"


async def test_a_body_at_the_limit_is_taken_and_the_service_refuses_a_larger_one(
    nginx: str, tmp_path: Path
) -> None:
    async with (
        running(allowed_hosts=(NAME,)) as service,
        proxied(nginx, tmp_path, service) as proxy,
    ):
        head, tail = b'{"message":"hi","x":"', b'"}'
        for size, status in ((1_048_576, 200), (1_048_577, 413)):
            body = head + b"x" * (size - len(head) - len(tail)) + tail
            headers = proxy.page | {"Content-Type": "application/json"}
            async with proxy.session.post(
                proxy.url + "/chat", data=io.BytesIO(body), headers=headers
            ) as response:
                assert response.status == status
                answer = await response.json(content_type=None)
        assert answer["code"] == "too_large"


async def test_a_strangers_page_changes_nothing_through_the_proxy(
    nginx: str, tmp_path: Path
) -> None:
    async with (
        running(allowed_hosts=(NAME,)) as service,
        proxied(nginx, tmp_path, service) as proxy,
    ):
        for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            async with proxy.session.post(
                proxy.url + "/runs/run_x/cancel", headers=proxy.host | headers
            ) as response:
                assert response.status == 403
        async with proxy.session.post(
            proxy.url + "/runs/run_x/cancel", headers=proxy.page
        ) as response:
            assert response.status == 404
