"""Deleting a model from the models directory, and never anything outside of it. Blocks on the disk."""

import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from lmx_protocol.errors import ErrorCode
from lmx_protocol.states import ModelFormat
from lmx_supervisor.catalog.scan import Found, parts_of
from lmx_supervisor.catalog.staging_area import DIRECTORY_NAME, size_of_tree
from lmx_supervisor.core.refusal import Refusal


def delete_directory(models_directory: Path, directory: Path) -> int:
    """Delete a directory below the models directory; returns the bytes freed. Raises `Refusal` NOT_SUPPORTED, `OSError`."""
    _check_inside(models_directory, directory)
    if directory.is_symlink():
        directory.unlink()
        _remove_empty_parents(models_directory, directory)
        return 0
    freed_bytes = size_of_tree(directory)
    # Out of sight in one step: a half-deleted directory must not be mistaken for a model.
    trash = models_directory / DIRECTORY_NAME / f"deleted-{secrets.token_hex(4)}"
    trash.parent.mkdir(mode=0o700, exist_ok=True)
    directory.rename(trash)
    shutil.rmtree(trash)
    _remove_empty_parents(models_directory, directory)
    return freed_bytes


def delete_files(models_directory: Path, found: Found) -> int:
    """Delete the files of a model that shares its directory with others; returns the bytes freed. Raises like the other."""
    files = parts_of(found.path) if found.format is ModelFormat.GGUF else [found.path]
    for file in files:
        _check_inside(models_directory, file)
    freed_bytes = 0
    # The first part last: without the others it is no model, and it is the one that is looked for.
    for file in reversed(files):
        with suppress(FileNotFoundError):
            freed_bytes += 0 if file.is_symlink() else file.stat().st_size
            file.unlink()
    _remove_empty_parents(models_directory, found.path)
    return freed_bytes


def empty_trash(models_directory: Path) -> None:
    """For the start: what a kill left of deleted models."""
    for trash in (models_directory / DIRECTORY_NAME).glob("deleted-*"):
        shutil.rmtree(trash, ignore_errors=True)


def _check_inside(models_directory: Path, path: Path) -> None:
    """The parent must really be there; the last step may be a link, of which only the link is deleted."""
    root, parent = models_directory.resolve(), path.parent.resolve()
    if parent != root and root not in parent.parents:
        text = f"{path} does not lie in {models_directory}, and LMX deletes nothing outside of it."
        raise Refusal(ErrorCode.NOT_SUPPORTED, text, param="model_id")


def _remove_empty_parents(models_directory: Path, path: Path) -> None:
    for parent in path.parents:
        if parent == models_directory or models_directory not in parent.parents:
            return
        try:
            parent.rmdir()
        except OSError:
            return
