"""The import of mem0, without what it does beside.

At its import mem0 decides whether it sends telemetry, and makes a folder, in the user's home
unless `MEM0_DIR` says otherwise, with a file for its telemetry. It gets a folder that is gone
after the import.
"""

import importlib
import os
import tempfile
import threading
from functools import cache
from types import ModuleType

from memory import MemoryUnavailable

_loading = threading.Lock()


@cache
def load(module: str) -> ModuleType:
    """Import a module of mem0; takes about a second, once. Raises `MemoryUnavailable`."""
    with _loading, tempfile.TemporaryDirectory(prefix="parley-") as folder:
        before = os.environ.get("MEM0_DIR")
        os.environ["MEM0_TELEMETRY"] = "False"
        os.environ["MEM0_DIR"] = folder
        try:
            return importlib.import_module(module)
        except ImportError as error:
            raise MemoryUnavailable(f"mem0 cannot be loaded ({type(error).__name__}).") from error
        finally:
            del os.environ["MEM0_DIR"]
            if before is not None:
                os.environ["MEM0_DIR"] = before
