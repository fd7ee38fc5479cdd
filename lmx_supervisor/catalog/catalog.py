"""The models on this machine, by id: those in the models directory, those the configuration names, those loaded by path,
quantized copies, and whole ones in the hub client's cache.

An id that several of them know means the latest wish: loaded by path, then configured, found in the directory, a copy, cached.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import msgspec

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import ModelSpec
from lmx_protocol.states import ModelFormat
from lmx_supervisor.catalog.digest import model_digest
from lmx_supervisor.catalog.disk_calls import DiskCalls
from lmx_supervisor.catalog.hub_cache import cached_models, cached_models_of, cached_snapshot
from lmx_supervisor.catalog.identify import identify, size_on_disk_bytes
from lmx_supervisor.catalog.model_ids import check_model_id, is_repository_id, unknown_model
from lmx_supervisor.catalog.refusals import is_exhausted, unreadable
from lmx_supervisor.catalog.registered import RegisteredModels
from lmx_supervisor.catalog.removal import delete_directory, delete_files
from lmx_supervisor.catalog.scan import DEPTH_MAX, Found, found_at, scan
from lmx_supervisor.catalog.shape import shape_of
from lmx_supervisor.core.memory_need import ModelShape
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.core.service import ModelOnDisk


class CatalogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A whole model, ready to be given to a worker."""

    model_id: str
    path: str
    format: ModelFormat
    size_bytes: int
    shape: ModelShape
    """What decides how much memory it needs."""


class Catalog:
    """All disk work happens in threads with a deadline.

    Every method may raise `Refusal` OVERLOADED: the disk hangs, or the system has no descriptors, memory or threads to spare.
    """

    def __init__(
        self,
        models_directory: Path,
        configured_paths: Mapping[str, str],
        registered: RegisteredModels,
        hub_cache: Path | None = None,
        copies: Path | None = None,
    ) -> None:
        """`copies`: where quantized copies lie."""
        self._models_directory = models_directory
        self._copies = copies
        self._hub_cache = hub_cache
        self._configured_paths = dict(configured_paths)
        self._registered = registered
        self._disk = DiskCalls(at_once=limits.CATALOG_CALLS_MAX, seconds=limits.CATALOG_SECONDS)
        self._deletions = DiskCalls(at_once=1, seconds=limits.DELETE_SECONDS)

    async def available(self) -> list[ModelOnDisk]:
        """Every model that is there, by id. Names and sizes only: whether a model is whole is checked when it is loaded."""
        return await self._disk.run(self._list)

    async def resolve(self, model_id: str) -> CatalogEntry:
        """The model of this id, checked to be whole. `name.gguf` finds the model called `name`.

        Raises:
            Refusal: INVALID_VALUE (no possible id), MODEL_NOT_FOUND or DOWNLOADS_DISABLED (not here, and what to do), or what
                `identify` finds wrong with its files.
        """
        check_model_id(model_id)
        return await self._disk.run(partial(self._resolve, model_id))

    async def register(self, model_id: str, path: str) -> CatalogEntry:
        """Make a file or directory known under this id, from now on and after a restart.

        Raises:
            Refusal: INVALID_VALUE (no possible id; a path that is not absolute), or what `identify` finds wrong with its files:
                nothing that could not be loaded is registered.
        """
        check_model_id(model_id)
        # A lone surrogate or a NUL is no path on any disk, and could not be written down.
        if not path.startswith("/") or not path.isprintable():
            message = f"Path {path[: limits.MODEL_ID_CHARACTERS_MAX]!r} must be absolute and without control characters."
            raise Refusal(ErrorCode.INVALID_VALUE, message, param="path")
        return await self._disk.run(partial(self._register, model_id, Path(path)))

    async def look_at(self, model_id: str, path: str) -> CatalogEntry:
        """What lies at `path`, checked to be whole, without making it known. Raises `Refusal` like `register`."""
        check_model_id(model_id)
        return await self._disk.run(partial(_entry, model_id, Path(path)))

    async def digest(self, spec: ModelSpec, backend: str) -> str:
        """A text that changes with the model's files, its load configuration or the backend.

        Raises:
            Refusal: MODEL_NOT_FOUND when its files are gone.
        """
        return await self._disk.run(partial(_digest, spec, backend))

    async def delete(self, model_id: str) -> int | None:
        """Delete a model that lies in the models directory, or forget one that was loaded by path; returns the bytes freed.

        None: there is nothing of that id.

        Raises:
            Refusal: INVALID_VALUE (no possible id), NOT_SUPPORTED (it lies elsewhere, and whose business it is), DELETE_FAILED
                when the disk does not let go of it.
        """
        check_model_id(model_id)
        return await self._deletions.run(partial(self._delete, model_id))

    def directories_of(self, model_id: str) -> list[Path]:
        """Where the model lies if it is a directory below one of ours."""
        return [root / model_id for root in self._roots()]

    def id_of_place(self, path: Path) -> str | None:
        """The id that a directory with a model gets by lying where it lies; None where nobody looks."""
        for root in self._roots():
            if root in path.parents:
                place = path.relative_to(root).parts
                is_seen = len(place) <= DEPTH_MAX and not any(part.startswith(".") for part in place)
                return "/".join(place) if is_seen else None
        return None

    def is_named(self, model_id: str) -> bool:
        """Whether the configuration or an operator says where this model lies."""
        return model_id in self._named_paths()

    def _list(self) -> list[ModelOnDisk]:
        found = {model.model_id: model for model in self._cached()}
        found |= {model.model_id: model for model in self._scanned()}
        found |= {model_id: found_at(model_id, path) for model_id, path in self._named_paths().items()}
        models = (_on_disk(found[model_id]) for model_id in sorted(found))
        return [model for model in models if model is not None]

    def _named_paths(self) -> dict[str, Path]:
        configured = {model_id: Path(path).expanduser() for model_id, path in self._configured_paths.items()}
        return configured | {model_id: Path(path) for model_id, path in self._registered.paths().items()}

    def _resolve(self, model_id: str) -> CatalogEntry:
        paths = self._named_paths()
        if model_id in paths:
            return _entry(model_id, paths[model_id])
        models = self._scanned()
        by_name = {name: found for found in models for name in found.also_known_as} | {
            found.model_id: found for found in models
        }
        if model_id in by_name:
            found = by_name[model_id]
            return _entry(found.model_id, found.path)
        for found in self._cached_like(model_id):
            if model_id in (found.model_id, *found.also_known_as):
                return _entry(found.model_id, found.path)
        remains = self._remains_of(model_id)
        if remains is not None:
            return _entry(model_id, remains)
        raise unknown_model(model_id, [*paths, *by_name], str(self._models_directory))

    def _roots(self) -> list[Path]:
        """The directories that are ours, the one that goes before the other first."""
        return [self._models_directory, *([self._copies] if self._copies is not None else [])]

    def _scanned(self) -> list[Found]:
        return list({found.model_id: found for root in reversed(self._roots()) for found in scan(root)}.values())

    def _cached(self) -> Iterator[Found]:
        return cached_models(self._hub_cache) if self._hub_cache is not None else iter(())

    def _cached_like(self, model_id: str) -> Iterator[Found]:
        """What the cache has of the repository that an id begins with."""
        repo_id = "/".join(model_id.split("/")[:2])
        return cached_models_of(self._hub_cache, repo_id) if self._hub_cache is not None else iter(())

    def _remains_of(self, model_id: str) -> Path | None:
        """A directory that should be this repository although no model was found in it: what is wrong with it is to be told."""
        if not is_repository_id(model_id):
            return None
        directory = self._models_directory / model_id
        cached = cached_snapshot(self._hub_cache, model_id) if self._hub_cache is not None else None
        candidates = [path for path in (directory, cached) if path is not None and path.is_dir()]
        return next((path for path in candidates if any(entry.is_file() for entry in path.iterdir())), None)

    def _delete(self, model_id: str) -> int | None:
        if self._registered.remove(model_id):
            return 0
        if model_id in self._configured_paths:
            text = f"Model '{model_id}' is named by models.paths in the configuration: remove it there."
            raise Refusal(ErrorCode.NOT_SUPPORTED, text, param="model_id")
        try:
            return self._delete_files(model_id)
        except OSError as error:
            text = f"'{model_id}' cannot be deleted: {error.strerror or error} ({error.filename})."
            raise Refusal(ErrorCode.DELETE_FAILED, text, param="model_id") from error

    def _delete_files(self, model_id: str) -> int | None:
        for root in self._roots():
            directory = root / model_id
            found = next((found for found in scan(root) if found.model_id == model_id), None)
            is_directory = found is not None and directory in (found.path, found.path.parent)
            if is_directory or (found is None and is_repository_id(model_id) and directory.is_dir()):
                return delete_directory(root, directory)
            if found is not None:
                return delete_files(root, found)
        if any(model_id == cached.model_id for cached in self._cached_like(model_id)):
            text = f"Model '{model_id}' lies in the hub client's cache, which other programs use: delete it with `hf cache rm`."
            raise Refusal(ErrorCode.NOT_SUPPORTED, text, param="model_id")
        return None

    def _register(self, model_id: str, path: Path) -> CatalogEntry:
        entry = _entry(model_id, path)
        self._registered.add(model_id, path)
        return entry


def _entry(model_id: str, path: Path) -> CatalogEntry:
    identified = identify(path)
    return CatalogEntry(
        model_id=model_id,
        path=str(identified.path),
        format=identified.format,
        size_bytes=identified.size_bytes,
        shape=shape_of(identified),
    )


def _digest(spec: ModelSpec, backend: str) -> str:
    try:
        return model_digest(spec, backend)
    except OSError as error:
        raise unreadable(Path(spec.path), error) from error


def _on_disk(found: Found) -> ModelOnDisk | None:
    """The listing of a model, or None when it is not there (any more)."""
    try:
        return ModelOnDisk(
            model_id=found.model_id,
            path=str(found.path),
            format=found.format,
            size_bytes=size_on_disk_bytes(found.path, found.format),
            modified_at_unix_seconds=found.path.stat().st_mtime,
        )
    except OSError as error:
        if is_exhausted(error):
            raise unreadable(found.path, error) from error
        return None
