"""What the tests share: one service and one model, no telemetry, and no way to the network."""

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from client_tests.service import MODEL, Model, Service, running

# Read by the clients when they are imported, which is after this module.
os.environ |= {
    "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_REGION": "us-west-2",
    "AWS_SECRET_ACCESS_KEY": "example",
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AUTOGEN_DISABLE_RUNTIME_TRACING": "true",
    "LANGCHAIN_TRACING_V2": "false",
    "LANGSMITH_TRACING": "false",
    "NO_PROXY": "*",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "OTEL_SDK_DISABLED": "true",
}
for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
    os.environ.pop(name, None)


@pytest.fixture(scope="session", autouse=True)
def _loopback_alone() -> Iterator[None]:
    """Refuse to look up any other host, and fail if somebody tried."""
    look_up, tried = socket.getaddrinfo, []

    def of_this_machine(host: Any, *args: Any, **options: Any) -> Any:
        if host not in ("127.0.0.1", b"127.0.0.1", "localhost", None):
            tried.append(host)
            raise socket.gaierror(f"{host} is not this machine")
        return look_up(host, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", of_this_machine)
        yield
    assert tried == []


@pytest.fixture(scope="session")
def the_model() -> Iterator[Model]:
    """The model of all tests."""
    with Model().serving() as model:
        yield model


@pytest.fixture(scope="session")
def service(the_model: Model) -> Iterator[Service]:
    """The service of all tests, which asks `model`."""
    with running(
        OPENAI_BASE_URL=the_model.base_url,
        OPENAI_API_KEY="sk-test",
        OPENAI_MODEL=MODEL,
        OPENAI_MAX_RETRIES="0",
        ALLOWED_MODELS=MODEL,
    ) as service:
        yield service


@pytest.fixture
def model(the_model: Model) -> Iterator[Model]:
    """The model, which says nothing yet; all that it was told to say must be asked for."""
    the_model.says()
    yield the_model
    assert the_model.unsaid == 0
