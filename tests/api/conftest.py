"""Nothing that a client does may make the service log a mistake of its own."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _no_mistakes(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    mistakes = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.levelno >= logging.ERROR
    ]
    assert not mistakes
