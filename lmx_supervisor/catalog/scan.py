"""Which models lie in a models directory, by name and layout alone; whether they are whole is `identify`'s business.

foo.gguf                                foo
foo-00001-of-00003.gguf (and 2, 3)      foo
foo.script.yaml                         foo
name/ or org/name/ with config.json     name, org/name
org/name/only.gguf                      org/name (and org/name/only)
org/name/a.gguf, org/name/b.gguf        org/name/a, org/name/b
"""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from lmx_protocol import limits
from lmx_protocol.states import ModelFormat
from lmx_supervisor.catalog.mlx_directory import CONFIG_FILE
from lmx_supervisor.catalog.refusals import is_exhausted, unreadable

_log = logging.getLogger(__name__)

GGUF_SUFFIX = ".gguf"
SCRIPT_SUFFIX = ".script.yaml"

_PART_NAME = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf")
_PARTS_MAX = 999
DEPTH_MAX = 2
"""Directories below the models directory that are looked into."""
_PROJECTOR_PREFIX = "mmproj"
"""Files of this name add images to the model beside them; they are no models."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One model in the directory."""

    model_id: str
    path: Path
    """The file (the first part of several), or the directory of an MLX model."""
    format: ModelFormat
    also_known_as: tuple[str, ...] = ()


def scan(models_directory: Path) -> list[Found]:
    """Every model under the directory, by id; an id that is there twice goes to the first in the order of paths.

    A directory that is missing or cannot be read has no models. Hidden files are skipped. Bounded by `CATALOG_ENTRIES_MAX`.
    Raises `Refusal` OVERLOADED when the system has no descriptors or memory to look.
    """
    found: dict[str, Found] = {}
    for model in _scan_directory(models_directory, (), _Budget(limits.CATALOG_ENTRIES_MAX)):
        found.setdefault(model.model_id, model)
    return sorted(found.values(), key=lambda model: model.model_id)


def found_at(model_id: str, path: Path) -> Found:
    """What `path` looks like under an id of the operator's choice; a file of unknown name is taken for a GGUF."""
    if path.name.endswith(SCRIPT_SUFFIX):
        return Found(model_id=model_id, path=path, format=ModelFormat.SCRIPT)
    inside = _scan_directory(path, (model_id,), _Budget(limits.CATALOG_ENTRIES_MAX))
    as_file = Found(model_id=model_id, path=path, format=ModelFormat.GGUF)
    return next((found for found in inside if found.model_id == model_id), as_file)


def scan_snapshot(directory: Path, repo_id: str) -> list[Found]:
    """The models in a directory that is a snapshot of a repository, wherever it lies."""
    return list(_scan_directory(directory, tuple(repo_id.split("/")), _Budget(limits.CATALOG_ENTRIES_MAX)))


def is_gguf_model(name: str) -> bool:
    """Whether a file of this name is a model, or the first part of one."""
    match = _PART_NAME.fullmatch(name)
    is_later_part = match is not None and int(match["part"]) != 1
    return name.endswith(GGUF_SUFFIX) and not is_later_part and not name.startswith(_PROJECTOR_PREFIX)


def parts_of(path: Path) -> list[Path]:
    """All files of a GGUF model, given any of them, whether they exist or not."""
    match = _PART_NAME.fullmatch(path.name)
    if not match:
        return [path]
    parts = min(int(match["parts"]), _PARTS_MAX)
    return [path.with_name(f"{match['stem']}-{part:05d}-of-{match['parts']}{GGUF_SUFFIX}") for part in range(1, parts + 1)]


class _Budget:
    """How many directory entries may still be looked at."""

    def __init__(self, entries: int) -> None:
        self._entries = entries

    def entries_of(self, directory: Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(directory) as entries:
                names = []
                for entry in entries:
                    if self._entries == 0:
                        _log.warning(
                            "more than %d files in the models directory; the rest is ignored", limits.CATALOG_ENTRIES_MAX
                        )
                        break
                    self._entries -= 1
                    if not entry.name.startswith("."):
                        names.append(entry)
        except OSError as error:
            # Half a list would tell clients that the rest of the models is not there.
            if is_exhausted(error):
                raise unreadable(directory, error) from error
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                _log.warning("models in %s are ignored: %s", directory, error.strerror)
            return []
        return sorted(names, key=lambda entry: entry.name)


def _scan_directory(directory: Path, place: tuple[str, ...], budget: _Budget) -> Iterator[Found]:
    entries = budget.entries_of(directory)
    names = {entry.name for entry in entries if _is_file(entry)}
    if place and CONFIG_FILE in names and any(name.endswith(".safetensors") for name in names):
        yield Found(model_id="/".join(place), path=directory, format=ModelFormat.MLX)
        return
    ggufs = sorted(filter(is_gguf_model, names))
    for name in ggufs:
        own_id, directory_id = "/".join((*place, id_of_name(name))), "/".join(place)
        model_id = directory_id if place and len(ggufs) == 1 else own_id
        aliases = {own_id, "/".join((*place, name))} - {model_id}
        path = directory / name
        yield Found(model_id=model_id, path=path, format=ModelFormat.GGUF, also_known_as=tuple(sorted(aliases)))
    for name in sorted(names):
        if name.endswith(SCRIPT_SUFFIX):
            model_id = "/".join((*place, name.removesuffix(SCRIPT_SUFFIX)))
            yield Found(model_id=model_id, path=directory / name, format=ModelFormat.SCRIPT)
    if len(place) < DEPTH_MAX:
        for entry in entries:
            if _is_directory(entry):
                yield from _scan_directory(directory / entry.name, (*place, entry.name), budget)


def _is_file(entry: os.DirEntry[str]) -> bool:
    # A link that leads in a circle raises instead of being neither.
    with suppress(OSError):
        return entry.is_file()
    return False


def _is_directory(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):
        return entry.is_dir()
    return False


def id_of_name(name: str) -> str:
    """The id that a model's file name gives it."""
    match = _PART_NAME.fullmatch(name)
    return match["stem"] if match else name.removesuffix(GGUF_SUFFIX).removesuffix(SCRIPT_SUFFIX)
