"""Where the browser is: the executable that `@sparticuz/chromium` brings, unpacked once.

* It is unpacked beside the packages that brought it, so it goes with them when they are installed
  anew, and no browser of another version is ever taken for it.
* Several processes may ask at the same time: one unpacks, under a lock, into a folder that gets
  its name when it is complete.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

HERE: Final = Path(__file__).parent
PACKAGES: Final = HERE / "node_modules"
LIBRARIES: Final = HERE.parent.parent / "web" / "node_modules"
UNPACKED: Final = PACKAGES / ".chromium"

UNPACK: Final = (
    "import chromium from '@sparticuz/chromium'; console.log(await chromium.executablePath())"
)

ARGUMENTS: Final = (
    "--headless=shell",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
"""Nothing but this machine is ever found."""

FONTS: Final = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <include ignore_missing="yes">/etc/fonts/fonts.conf</include>
  <dir>{folder}/fonts/fonts</dir>
  <cachedir>{folder}/fonts-cache</cachedir>
</fontconfig>
"""


def missing() -> str | None:
    """Say why there is no browser here, or None where there is one."""
    if shutil.which("node") is None:
        return "node is not installed"
    for folder in (PACKAGES, LIBRARIES):
        if not folder.is_dir():
            return f"{folder.parent.name}/node_modules is not installed: needs npm"
    return None


def executable() -> Path:
    """Return the browser's path; unpack it where that has not been done.

    Raises:
        CalledProcessError: it could not be unpacked.
    """
    with (PACKAGES / ".chromium.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not UNPACKED.is_dir():
            _unpack()
    return UNPACKED / "chromium"


def environment() -> Mapping[str, str]:
    """Return the environment in which the browser finds a font, whatever the machine has."""
    return dict(os.environ) | {"FONTCONFIG_FILE": str(UNPACKED / "fonts.conf")}


def _unpack() -> None:
    folder = Path(mkdtemp(dir=PACKAGES, prefix=".unpacking-"))
    try:
        subprocess.run(
            ["node", "--input-type=module", "--eval", UNPACK],
            cwd=HERE,
            env=dict(os.environ) | {"TMPDIR": str(folder)},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (folder / "fonts.conf").write_text(FONTS.format(folder=UNPACKED))
        folder.rename(UNPACKED)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
