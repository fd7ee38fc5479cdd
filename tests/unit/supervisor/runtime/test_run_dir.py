"""The private directory of a boot: trusted only when it is ours alone, and there for every worker."""

import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmx_supervisor.runtime.run_dir import RunDir, RunDirError


@pytest.fixture
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A place whose path is short enough for a socket."""
    path = tmp_path_factory.mktemp("r")
    path.chmod(0o700)
    yield path
    shutil.rmtree(path)


def test_a_deleted_directory_is_private_and_locked_again_before_the_next_worker(base: Path) -> None:
    """The next endpoint finds the same path again, closed to others, and a second boot does not take it for abandoned."""
    run_dir = RunDir(base)
    shutil.rmtree(run_dir.path)
    endpoint = run_dir.endpoint("w")
    other = RunDir(base)

    assert endpoint == f"ipc://{run_dir.path}/w"
    assert stat.S_IMODE(run_dir.path.stat().st_mode) == 0o700
    other.close()
    run_dir.close()
    assert list(base.iterdir()) == []


def test_the_directory_of_a_dead_boot_is_removed(base: Path) -> None:
    """Nobody holds its lock any more."""
    abandoned = base / "0badcafe"
    abandoned.mkdir()
    (abandoned / "owner.lock").touch()
    RunDir(base).close()

    assert list(base.iterdir()) == []


def test_something_else_in_its_place_is_refused_by_name(tmp_path: Path) -> None:
    """A file, and a link to a directory: both are named, neither is followed."""
    file, link = tmp_path / "file", tmp_path / "link"
    file.touch()
    link.symlink_to(tmp_path)
    for wrong in (file, link):
        with pytest.raises(RunDirError, match=f"{wrong} is not a directory"):
            RunDir(wrong)
