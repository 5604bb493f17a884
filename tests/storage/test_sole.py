"""A file of SQLite belongs to one process at a time, under whatever name, and to one user."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage import StorageUnavailable
from storage.sole import sole_user

ROOT = Path(__file__).parent.parent.parent


def url(folder: Path) -> str:
    return f"sqlite:///{folder}/p.db"


@contextmanager
def held_elsewhere(place: str) -> Iterator[None]:
    """Let another process hold a database."""
    program = (
        "import sys; from storage.sole import sole_user\n"
        "with sole_user(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, place],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        yield
        assert other.stdin is not None
        other.stdin.close()
        assert other.wait(10) == 0


def test_a_file_is_free_again_after_its_user(tmp_path: Path) -> None:
    held = sole_user(url(tmp_path))
    with held, pytest.raises(StorageUnavailable, match="Another process"), sole_user(url(tmp_path)):
        pass
    with sole_user(url(tmp_path)):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["the same", "a symbolic link", "a folder's", "a hard link"])
def test_another_process_is_kept_out_under_any_name_of_the_file(tmp_path: Path, kind: str) -> None:
    if kind == "a hard link" and sys.platform != "linux":
        pytest.skip("only Linux can lock the file itself beside SQLite")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    (ours / "p.db").touch()
    match kind:
        case "the same":
            theirs = ours
        case "a symbolic link":
            theirs.mkdir()
            (theirs / "p.db").symlink_to(ours / "p.db")
        case "a folder's":
            theirs.symlink_to(ours)
        case "a hard link":
            theirs.mkdir()
            (theirs / "p.db").hardlink_to(ours / "p.db")
    with (
        held_elsewhere(url(theirs)),
        pytest.raises(StorageUnavailable, match="Another process"),
        sole_user(url(ours)),
    ):
        pass
    with sole_user(url(ours)):
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
