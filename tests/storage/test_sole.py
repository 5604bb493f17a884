"""A file of SQLite belongs to one process at a time."""

from pathlib import Path

import pytest

from storage import StorageUnavailable
from storage.sole import sole_user


def url(folder: Path) -> str:
    return f"sqlite:///{folder}/p.db"


def test_a_file_is_free_again_after_its_user(tmp_path: Path) -> None:
    held = sole_user(url(tmp_path))
    with held, pytest.raises(StorageUnavailable, match="Another process"), sole_user(url(tmp_path)):
        pass
    with sole_user(url(tmp_path)):
        pass


@pytest.mark.parametrize("folder", ["none", "file"])
def test_a_folder_that_is_none_is_a_trouble_of_the_database(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("")
    wrong = url(tmp_path / folder)
    with pytest.raises(StorageUnavailable, match="cannot be written"), sole_user(wrong):
        pass


@pytest.mark.parametrize("kind", [PermissionError, BlockingIOError])
def test_what_fails_while_the_file_is_held_stays_what_it_is(
    tmp_path: Path, kind: type[OSError]
) -> None:
    with pytest.raises(kind, match="another one's"), sole_user(url(tmp_path)):
        raise kind("another one's")


def test_a_server_of_databases_needs_no_lock(tmp_path: Path) -> None:
    with sole_user("postgresql://localhost/p"), sole_user("postgresql://localhost/p"):
        assert not [*tmp_path.iterdir()]
