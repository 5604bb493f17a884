"""A service that can be killed and is there again at once, with a tool that must not be repeated.

This process imports the application, and for each line that it reads it forks a child that is the
service, as `python app.py` is after its imports, which are most of its start. It says the child's
process id, and the child's exit status when it has ended. Only the child is ever killed.

`act` does what a transfer of money does: it happens, it cannot be taken back, and some time passes
before the caller knows. Each execution is a line in the file `ACTED`, with the call's id.
"""

import importlib
import logging
import os
import sys
import time

import server
from app import create_app
from settings import load_settings
from tools.calculate import calculate
from tools.clock import get_time
from tools.tool import ToolContext

ACTED = "ACTED"
"""The variable that names the file."""


def act(amount: int, context: ToolContext) -> str:
    """Act.

    Args:
        amount: how much.
    """
    file = os.open(os.environ[ACTED], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, f"{context.tool_call_id}\n".encode())
    os.fsync(file)
    os.close(file)
    time.sleep(0.01)
    return f"acted {amount}"


def serve() -> None:
    settings = load_settings()
    # Whose line it is: the children share their parent's log.
    logging.basicConfig(level="INFO", format="%(process)d %(levelname)s %(name)s: %(message)s")
    app = create_app(settings, tools=[calculate, get_time, act], owns_process=True)
    server.run(app, settings)


def main() -> None:
    importlib.import_module("openai")  # the service does so when it is up
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            serve()
            return
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
