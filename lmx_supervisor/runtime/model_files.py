"""How large a model's files are, to tell a file that was cut short under its worker from a crash of native code.

Mapped weights end in SIGBUS when the file they are in shrinks. The calls block on the disk: keep them off the event loop.
"""

from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path

from lmx_protocol import limits
from lmx_supervisor.catalog.scan import parts_of


def file_sizes(path: Path) -> dict[Path, int]:
    """The size in bytes of every file of the model at `path`: a file, all parts of a split one, or the files of a directory.

    What cannot be looked at is left out.
    """
    sizes: dict[Path, int] = {}
    with suppress(OSError):
        files = path.iterdir() if path.is_dir() else parts_of(path)
        for file in islice(files, limits.MODEL_FILES_MAX):
            with suppress(OSError):
                sizes[file] = file.stat().st_size
    return sizes


def has_shrunk(sizes: Mapping[Path, int]) -> bool:
    """Whether a file is shorter now than it was. One that is gone is not: what was mapped of it stays."""
    for file, size_bytes in sizes.items():
        with suppress(OSError):
            if file.stat().st_size < size_bytes:
                return True
    return False
