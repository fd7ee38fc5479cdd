"""`<models>/.downloads`: where downloads gather what is no model yet. The job's side of it is `lmx_worker.jobs.staging`.

All calls block on the disk: keep them off the event loop.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from lmx_protocol.jobs import SET_ASIDE

DIRECTORY_NAME = ".downloads"


def staging_of(models_directory: Path, repo_id: str) -> Path:
    """Of one repository, which is a checked `owner/name`."""
    return models_directory / DIRECTORY_NAME / repo_id.replace("/", "@")


def discard(models_directory: Path, repo_id: str) -> int:
    """Remove what has come of a download; returns how many bytes that were. Raises `OSError`."""
    staging = staging_of(models_directory, repo_id)
    _put_back(staging, models_directory / repo_id)
    freed_bytes = size_of_tree(staging)
    with suppress(FileNotFoundError):
        shutil.rmtree(staging)
    return freed_bytes


def put_back_all(models_directory: Path) -> None:
    """For the start: a model that was taken out of its place, by a job that was killed before it put the new one there."""
    with suppress(OSError):
        for staging in (models_directory / DIRECTORY_NAME).iterdir():
            _put_back(staging, models_directory / staging.name.replace("@", "/"))


def size_of_tree(directory: Path) -> int:
    """Bytes of all files below a directory, each counted once; 0 when it is not there."""
    sizes: dict[tuple[int, int], int] = {}
    for root, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                found = (Path(root) / name).lstat()
                sizes[found.st_dev, found.st_ino] = found.st_size
    return sum(sizes.values())


def _put_back(staging: Path, target: Path) -> None:
    if not target.exists() and (staging / SET_ASIDE).is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        (staging / SET_ASIDE).rename(target)
