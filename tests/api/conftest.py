"""What a test module may ask for: that no client made the service log a mistake of its own."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def no_mistakes(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail where something was logged as an error during the test."""
    yield
    mistakes = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.levelno >= logging.ERROR
    ]
    assert not mistakes
