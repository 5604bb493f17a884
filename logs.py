"""What the service logs, which at no level is what people say.

* `LOG_LEVEL` is the level of the service's own loggers (`parley`), which name runs, conversations
  and tools. Libraries log from WARNING on: at DEBUG they write requests, frames and SQL parameters.
* The text of an exception may quote a message, an argument or a row. So of an exception its type
  and where it was raised are logged, of asyncio's reports and of tracebacks as texts the first
  line, and of a request's address no query string.

This module imports nothing of the project.
"""

import logging
import traceback
from collections.abc import Iterator

FORMAT = "%(levelname)s %(name)s: %(message)s"

_UVICORN = ("uvicorn", "uvicorn.access", "uvicorn.error")


class Discreet(logging.Filter):
    """Takes out of a record what may quote somebody; for handlers."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = "".join(_course(record.exc_info[1])).rstrip()
        if record.name == "asyncio" or _is_traceback(record):
            record.msg, record.args = record.getMessage().partition("\n")[0], ()
        elif record.name == "uvicorn.access" and isinstance(record.args, tuple):
            record.args = tuple(
                value.partition("?")[0] if isinstance(value, str) else value
                for value in record.args
            )
        return True


def _is_traceback(record: logging.LogRecord) -> bool:
    """Tell whether this is how a lifespan failed, which uvicorn gets and logs as text."""
    return record.name == "uvicorn.error" and "Traceback (most recent call last)" in str(record.msg)


def set_up(level: str, *, requests: bool) -> None:
    """Log to standard error.

    Args:
        level: that of the service's own loggers.
        requests: whether each request is a line.
    """
    logging.basicConfig(level=logging.WARNING, format=FORMAT)
    logging.root.setLevel(max(logging.WARNING, logging.getLevelName(level)))
    logging.getLogger("parley").setLevel(level)
    # Its warnings are about clients' mistakes, each of which `server` tells at INFO.
    logging.getLogger("uvicorn.error").setLevel(max(logging.ERROR, logging.root.level))
    if requests:
        logging.getLogger("uvicorn.access").setLevel(logging.INFO)
    keep_discreet()


def keep_discreet() -> None:
    """Let the handlers that there are write nothing that people said; where another set them up."""
    loggers = [logging.getLogger(name) for name in _UVICORN]
    handlers = [handler for logger in (logging.root, *loggers) for handler in logger.handlers]
    for handler in filter(None, (*handlers, logging.lastResort)):
        if not any(isinstance(there, Discreet) for there in handler.filters):
            handler.addFilter(Discreet())
    for logger in loggers:
        if logger.level < logging.INFO and logger.isEnabledFor(logging.DEBUG):
            logger.setLevel(logging.INFO)


def _course(error: BaseException) -> Iterator[str]:
    """Yield where an exception was raised, and what it came of, without its text."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        yield from _course(before)
        yield "\nwhich led to\n\n"
    yield "Traceback (most recent call last):\n"
    yield from traceback.format_tb(error.__traceback__)
    yield f"{type(error).__module__}.{type(error).__qualname__}\n"
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield "\nwith\n\n"
            yield from _course(each)
