"""Snapshots that other programs keep in the hub client's cache: a model that is whole there needs no second download.

    <cache>/models--OWNER--NAME/refs/main           the commit that `main` was last seen at
    <cache>/models--OWNER--NAME/snapshots/COMMIT/   links to the files of that commit

Only read, never changed: it belongs to those programs. The layout is that of `huggingface_hub`, which the supervisor must not
import.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from lmx_protocol import limits
from lmx_supervisor.catalog.identify import identify
from lmx_supervisor.catalog.scan import Found, scan_snapshot
from lmx_supervisor.core.refusal import Refusal

_PREFIX = "models--"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REF_BYTES_MAX = 64


def hub_cache_directory(environment: Mapping[str, str]) -> Path:
    """Where the client keeps it, by the same variables in the same order."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environment.get(name):
            return Path(os.path.expandvars(environment[name])).expanduser()
    home = environment.get("HF_HOME")
    if not home:
        home = os.path.join(environment.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")  # noqa: PTH118 - expanded below
    return Path(os.path.expandvars(home)).expanduser() / "hub"


def cached_models(cache: Path) -> Iterator[Found]:
    """The models in the cache that are whole; anything else there is none. Blocks on the disk."""
    for repository in _repositories(cache):
        yield from cached_models_of(cache, _repo_id(repository))


def cached_models_of(cache: Path, repo_id: str) -> Iterator[Found]:
    """The same of one repository."""
    snapshot = cached_snapshot(cache, repo_id)
    for found in scan_snapshot(snapshot, repo_id) if snapshot is not None else ():
        with suppress(Refusal):
            identify(found.path)
            yield found


def cached_snapshot(cache: Path, repo_id: str) -> Path | None:
    """What the cache has of a repository, whole or not; None: nothing."""
    repository = cache / f"{_PREFIX}{repo_id.replace('/', '--')}"
    return _snapshot(repository) if _repo_id(repository) == repo_id else None


def _repositories(cache: Path) -> list[Path]:
    try:
        names = sorted(name for name in os.listdir(cache) if name.startswith(_PREFIX))  # noqa: PTH208 - names are all we want
    except OSError:
        return []
    paths = [cache / name for name in names[: limits.CATALOG_ENTRIES_MAX]]
    return [path for path in paths if "/" in _repo_id(path)]


def _repo_id(repository: Path) -> str:
    # No id on the hub has two hyphens in a row.
    return repository.name.removeprefix(_PREFIX).replace("--", "/", 1)


def _snapshot(repository: Path) -> Path | None:
    snapshots = repository / "snapshots"
    with suppress(OSError, UnicodeDecodeError):
        with (repository / "refs" / "main").open("rb") as ref:
            commit = ref.read(_REF_BYTES_MAX).decode().strip()
        if _COMMIT.fullmatch(commit) and (snapshots / commit).is_dir():
            return snapshots / commit
    # Fetched by commit or by another name than main: the latest one.
    with suppress(OSError):
        found = [path for path in snapshots.iterdir() if path.is_dir()]
        return max(found, key=lambda path: path.stat().st_mtime, default=None)
    return None
