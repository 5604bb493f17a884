"""What the service keeps belongs to its user alone."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.private import own_folder
from tests.api.support import add
from tests.database import empty_database
from tests.service import Service, running

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_mistakes")]


@pytest.fixture(autouse=True)
def _generous() -> Iterator[None]:
    """Let the system give whatever mode a file is made with."""
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(folder: Path) -> dict[str, str]:
    """Return what others may do something with, with its mode."""
    modes = {path: path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*"))}
    assert {"parley.db", "parley.db-wal", "memories.db"} <= {path.name for path in modes}
    return {str(path): oct(mode) for path, mode in modes.items() if mode & 0o077}


async def use(service: Service) -> None:
    """Do what makes a file."""
    await service.json("POST", "/agents/a", expect=201, json={"memory": True})
    body = {"message": "My name is Ada and I like tea.", "agent": "a", "user_id": "ada"}
    await service.json("POST", "/chat", json=body)
    await service.json("POST", "/memories", expect=201, json={"memory": "tea", "user_id": "ada"})
    await service.json("GET", "/memories?user_id=ada")


async def test_everything_in_the_folder_of_data_is_its_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    async with running(data_dir=folder, tools=[add]) as service:
        await use(service)
        assert open_to_others(folder) == {}


def leave_open(folder: Path) -> None:
    """Let everybody do everything with files as earlier versions left them."""
    (folder / "memory").mkdir()
    for name in ("parley.db-wal", "parley.db-shm", "parley.db.lock", "memory/memories.db"):
        (folder / name).touch()
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)


async def test_what_earlier_versions_left_open_is_shut(tmp_path: Path) -> None:
    await empty_database(tmp_path / "parley.db")
    leave_open(tmp_path)
    async with running(data_dir=tmp_path, tools=[add]) as service:
        await use(service)
        assert open_to_others(tmp_path) == {}


def test_a_folder_that_is_meant_for_all_stays_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    own_folder(tmp_path)
    assert tmp_path.stat().st_mode & 0o7777 == 0o1777
