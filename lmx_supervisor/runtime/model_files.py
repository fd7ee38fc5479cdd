"""What a model's files look like from outside, to tell one that was cut short or replaced under its worker.

Mapped weights end in SIGBUS when the file they are in shrinks, and are of two models when it is written anew while it is read.
The calls block on the disk: keep them off the event loop.
"""

from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from lmx_protocol import limits
from lmx_supervisor.catalog.scan import parts_of


class FileLook(NamedTuple):
    """One file at one moment."""

    size_bytes: int
    modified_nanoseconds: int
    device: int
    inode: int


Looks = Mapping[Path, FileLook]


def look_at_files(path: Path) -> dict[Path, FileLook]:
    """Every file of the model at `path`: a file, all parts of a split one, or the files of a directory.

    What cannot be looked at is left out.
    """
    looks: dict[Path, FileLook] = {}
    with suppress(OSError):
        files = path.iterdir() if path.is_dir() else parts_of(path)
        for file in islice(files, limits.MODEL_FILES_MAX):
            with suppress(OSError):
                looks[file] = _look_at(file)
    return looks


def has_shrunk(looks: Looks) -> bool:
    """Whether a file is shorter now than it was. One that is gone is not: what was mapped of it stays."""
    for file, look in looks.items():
        with suppress(OSError):
            if file.stat().st_size < look.size_bytes:
                return True
    return False


def changed_file(looks: Looks) -> str | None:
    """Which file is not what it was, and what is there instead; None when all are. Files that are new do not count."""
    for file, before in looks.items():
        try:
            now = _look_at(file)
        except FileNotFoundError:
            return f"{file} was deleted"
        except OSError:
            continue
        if now != before:
            what = "written anew" if now.inode == before.inode else "replaced by another file"
            return f"{file} was {what} ({before.size_bytes} bytes before, {now.size_bytes} now)"
    return None


def _look_at(file: Path) -> FileLook:
    found = file.stat()
    return FileLook(found.st_size, found.st_mtime_ns, found.st_dev, found.st_ino)
