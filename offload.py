"""Work that would stall the event loop: done in a thread, one piece after the other.

A call into C holds the interpreter until it returns, in a thread as well as on the loop, and
several threads that compute hold it in turn. So there is one thread, and each piece has a bound of
its own.

This module imports nothing of the project.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, ParamSpec, TypeVar

LARGE: Final = 65_536
"""From how many bytes or characters of JSON, or text, work on it is done in the thread."""

_P = ParamSpec("_P")
_T = TypeVar("_T")

_thread = ThreadPoolExecutor(1, "offload")


async def offload(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Return what a function returns, which runs in the thread."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_thread, partial(work, *args, **kwargs))
