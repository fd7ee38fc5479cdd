"""Where quantized copies lie: `<home>/quantized`, or where an operator says. All calls block on the disk.

A copy is gathered in a directory beside its place whose name starts with a dot, which is no model to the catalog, and gets its
name in one step.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.refusal import Refusal

DIRECTORY_NAME = "quantized"
_STAGING_PREFIX = ".quantize-"


def check_output(output: str, source: Path) -> Path:
    """The place for a copy, as a plain absolute path. Raises `Refusal` for one where it cannot or should not be."""
    path = Path(output)
    is_plain = output.isprintable() and len(output) <= limits.FILE_PATH_CHARACTERS_MAX
    if not is_plain or not path.is_absolute() or ".." in path.parts:
        raise _unusable("must be an absolute path without '..' and control characters")
    if path.name.startswith(".") or not path.name:
        raise _unusable("must not begin its last part with a dot, which would hide the copy")
    if source == path or source in path.parents or path in source.parents:
        raise _unusable(f"lies within the source ({source}) or around it; choose a place beside it")
    refuse_existing(path)
    if not path.parent.is_dir():
        raise _unusable(f"needs a directory to lie in, and {path.parent} is none; make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise _unusable(f"cannot be made: LMX may not write to {path.parent}")
    return path


def refuse_existing(path: Path) -> None:
    """Raise `Refusal` OUTPUT_PATH_EXISTS when there is anything at `path`."""
    if os.path.lexists(path):
        text = f"{path} exists already: delete it (`lmx rm` for a model), or choose another output_path."
        raise Refusal(ErrorCode.OUTPUT_PATH_EXISTS, text, param="output_path")


def staging_for(output: Path, job_id: str) -> Path:
    """Where the copy is gathered: on the same file system, seen by no catalog."""
    return output.with_name(f"{_STAGING_PREFIX}{job_id}")


def check_room(output: Path, needed_bytes: int, reserve_bytes: int) -> None:
    """Raise `Refusal` INSUFFICIENT_DISK when the disk has not even room for the least that a copy takes."""
    free_bytes = shutil.disk_usage(output.parent).free
    short_bytes = needed_bytes + reserve_bytes - free_bytes
    if short_bytes > 0:
        text = (
            f"The copy takes at least {_gb(needed_bytes)} and {_gb(reserve_bytes)} are to stay free"
            f" (downloads.disk_reserve_bytes), but {output.parent} has {_gb(free_bytes)} free: {_gb(short_bytes)} short."
            " Free space, or choose another output_path."
        )
        raise Refusal(ErrorCode.INSUFFICIENT_DISK, text, param="output_path")


def promote(staging: Path, output: Path) -> None:
    """Give a whole copy its name. Raises `Refusal` OUTPUT_PATH_EXISTS, `OSError`."""
    refuse_existing(output)
    staging.rename(output)
    descriptor = os.open(output.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def discard_staging(staging: Path) -> None:
    """Remove what there is of a copy, and nothing that is not one. Raises `OSError`."""
    if staging.name.startswith(_STAGING_PREFIX):
        with suppress(FileNotFoundError):
            shutil.rmtree(staging)


def _unusable(why: str) -> Refusal:
    return Refusal(ErrorCode.INVALID_VALUE, f"output_path {why}.", param="output_path")


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1000**3:.3f} GB"
