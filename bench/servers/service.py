"""This service as `python app.py` starts it, with one tool, `wait`, instead of the built-in ones.

A tool of known duration is what the tool figures need; everything else is the application's.
"""

import asyncio

import server
from app import create_app
from settings import load_settings
from tools.tool import idempotent


@idempotent
async def wait(step: int) -> dict[str, int]:
    """Wait for 100 ms.

    Args:
        step: which of the calls this is.
    """
    await asyncio.sleep(0.1)
    return {"step": step}


if __name__ == "__main__":
    settings = load_settings()
    server.run(create_app(settings, tools=[wait], owns_process=True), settings)
