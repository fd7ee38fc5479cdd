"""`<home>/prefix-cache`: what stopped workers left of their computed prompts. Who may have how much of it, and clearing it.

Each model has a directory of its own, named after its id, which only its worker writes to; the worker decides which of the
files in it are good. Here they are only counted and deleted, the least recently used first, so that all keep to one bound.
"""

import asyncio
import hashlib
import logging
import os
import re
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_supervisor.catalog.disk_calls import DiskCalls
from lmx_supervisor.config.schema import Config
from lmx_supervisor.core.actions import Tell
from lmx_supervisor.core.prefixes import PREFIXES_SAVED
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.core.service import PrefixCacheUse

log = logging.getLogger("lmx.prefixes")

DIRECTORY_NAME = "prefix-cache"
UNFINISHED_SUFFIX = ".lmx-tmp"
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_ID_DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    bytes: int
    used_at: float


class PrefixDisk:
    """Create it on a running loop; end it with `close`, after the last worker has left."""

    def __init__(self, home: Path, config: Callable[[], Config]) -> None:
        """`config` gives the configuration in force."""
        self._root = home / DIRECTORY_NAME
        self._config = config
        self._disk = DiskCalls(at_once=1, seconds=limits.PREFIX_DISK_CALL_SECONDS)
        self._trims: set[asyncio.Task[None]] = set()

    def directory_of(self, model_id: str) -> str:
        """Where a worker of this model finds and leaves its prefixes; empty: it is to have none."""
        if not self._bytes_max:
            return ""
        return str(self._directory(model_id))

    def take(self, tell: Tell) -> None:
        """Listens to the supervisor: after each worker that left something, all together keep to the bound again."""
        if tell.kind == PREFIXES_SAVED:
            self.trim_soon()

    def trim_soon(self) -> None:
        """There may be more than the configuration allows (now)."""
        trim = asyncio.get_running_loop().create_task(self.trim())
        self._trims.add(trim)
        trim.add_done_callback(self._trims.discard)

    async def trim(self, *, tidy: bool = False) -> None:
        """Keep to the bound. A disk that does not let us is logged: the next stop tries again. `tidy`: no worker lives."""
        try:
            await self._disk.run(partial(self._trim, tidy=tidy))
        except (OSError, Refusal) as error:
            log.warning("prefix_cache_not_trimmed", extra={"text": str(error)})

    async def clear(self, model_id: str | None = None) -> int:
        """Delete the prefixes of one model, or all; returns the bytes freed.

        Raises:
            Refusal: DELETE_FAILED when the disk does not let go of them, OVERLOADED when it does not answer.
        """
        try:
            return await self._disk.run(partial(self._clear, self._root if model_id is None else self._directory(model_id)))
        except OSError as error:
            text = f"Saved prefixes cannot be deleted: {error.strerror or error} ({error.filename})."
            raise Refusal(ErrorCode.DELETE_FAILED, text, param="model_id") from error

    async def use(self) -> PrefixCacheUse:
        """What there is now. Raises `Refusal` when the disk does not answer."""
        files = await self._disk.run(self._files)
        return PrefixCacheUse(
            enabled=bool(self._bytes_max), files=len(files), bytes=sum(file.bytes for file in files), bytes_max=self._bytes_max
        )

    async def close(self) -> None:
        """No worker is left: delete what one did not finish, and keep to the bound for the last time."""
        for trim in self._trims:
            trim.cancel()
        # Nobody waits for a dead disk: the next start tidies up too.
        with suppress(TimeoutError):
            async with asyncio.timeout(limits.PREFIX_CLOSE_SECONDS):
                await self.trim(tidy=True)

    @property
    def _bytes_max(self) -> int:
        models = self._config().models
        return models.prefix_cache_disk_bytes_max if models.prefix_cache_enabled else 0

    def _directory(self, model_id: str) -> Path:
        digest = hashlib.blake2b(model_id.encode("utf-8", "surrogatepass"), digest_size=_ID_DIGEST_BYTES).hexdigest()
        readable = _UNSAFE.sub("_", model_id).strip("._")[: limits.PREFIX_NAME_CHARACTERS_MAX]
        return self._root / f"{readable or 'model'}-{digest}"

    def _trim(self, *, tidy: bool) -> None:
        files = sorted(self._files(), key=lambda file: file.used_at, reverse=True)
        bytes_max, kept_bytes = self._bytes_max, 0
        for file in files:
            is_unfinished = tidy and file.path.suffix == UNFINISHED_SUFFIX
            if is_unfinished or kept_bytes + file.bytes > bytes_max:
                file.path.unlink(missing_ok=True)
            else:
                kept_bytes += file.bytes
        if tidy:
            self._remove_empty_directories()

    def _clear(self, directory: Path) -> int:
        freed_bytes = sum(file.bytes for file in self._files() if directory in file.path.parents)
        with suppress(FileNotFoundError):
            shutil.rmtree(directory)
        return freed_bytes

    def _files(self) -> list[_File]:
        found: list[_File] = []
        for root, _, names in os.walk(self._root):
            for name in names:
                path = Path(root) / name
                with suppress(FileNotFoundError):
                    seen = path.lstat()
                    if stat.S_ISREG(seen.st_mode):
                        found.append(_File(path, seen.st_size, seen.st_mtime))
        return found

    def _remove_empty_directories(self) -> None:
        with suppress(FileNotFoundError):
            for directory in self._root.iterdir():
                with suppress(OSError):
                    directory.rmdir()
