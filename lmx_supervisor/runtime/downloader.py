"""Performs what `core.downloads` decides: processes, timers, the file that outlives this process. No network here, ever.

Everything runs on one loop. A job is not told to stop, it is killed: what it leaves on the disk is made for that.
"""

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode, ProtocolViolation
from lmx_supervisor.catalog.disk_calls import DiskCalls
from lmx_supervisor.catalog.staging_area import discard
from lmx_supervisor.config.schema import Config
from lmx_supervisor.core.actions import Autopsy, Tell
from lmx_supervisor.core.downloads import actions as a
from lmx_supervisor.core.downloads import events as e
from lmx_supervisor.core.downloads.machine import DownloadPolicy, Downloads
from lmx_supervisor.core.downloads.orders import DownloadOrder, DownloadView
from lmx_supervisor.core.downloads.state import Download
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.core.service import LoadOrder
from lmx_supervisor.runtime.boot_sweep import machine_boot_id
from lmx_supervisor.runtime.downloads_file import FILE_NAME, DownloadsFile, saved_download
from lmx_supervisor.runtime.job_loop import JobLoop, JobProcesses
from lmx_supervisor.runtime.job_specs import JobSpecs
from lmx_supervisor.runtime.run_dir import RunDir, RunDirError
from lmx_supervisor.runtime.write_behind import WriteBehind


class Downloader:
    """The downloads of one service. Create it on a running loop; `resume` what an earlier life left; end it with `close`."""

    def __init__(
        self,
        *,
        home: Path,
        models_directory: Path,
        run_dir: RunDir,
        specs: JobSpecs,
        config: Callable[[], Config],
        tell: Callable[[Tell], None],
        autopsy: Callable[[Autopsy], None],
        known: list[Download],
    ) -> None:
        """`config`: the one in force. `tell`, `autopsy`: take what operators are told, and the deaths of jobs."""
        self._models_directory = models_directory
        self._specs = specs
        self._config = config
        self._tell = tell
        self._downloads = Downloads(DownloadPolicy(), known)
        self._processes = JobProcesses("download", run_dir)
        self._answers: dict[str, str | Refusal] = {}
        self._numbers = itertools.count(1)
        self._over: dict[str, asyncio.Event] = {}
        self._loop: JobLoop[e.DownloadEvent] = JobLoop(
            self._handle, e.TimePassed, next_deadline=self._downloads.next_deadline, after=self._after
        )
        self._post = self._loop.post
        self._disk = DiskCalls(at_once=1, seconds=limits.DELETE_SECONDS)
        self._discards: set[asyncio.Task[None]] = set()
        self._file = WriteBehind(home / FILE_NAME, self._compose, self._complain)
        self.on_arrival: Callable[[LoadOrder], None] = lambda _: None
        """Takes a load whose model has arrived."""
        self.on_progress: Callable[[Tell], None] = lambda _: None
        """Takes what is for subscribers only."""
        self._performers: dict[type[a.DownloadAction], Callable[[Any], None]] = {
            a.Accepted: lambda action: self._answers.update({action.order_id: action.download_id}),
            a.Declined: lambda action: self._answers.update({action.order_id: Refusal(action.code, action.message)}),
            a.StartJob: self._start,
            a.KillJob: lambda action: self._processes.end(action.download_id, by_force=True),
            a.KeepEvidence: lambda action: autopsy(self._processes.autopsy(action.download_id, action.repo_id)),
            a.DiscardParts: self._discard,
            a.LoadArrived: lambda action: self.on_arrival(action.order),
            a.Publish: lambda action: self.on_progress(action.tell),
            Tell: tell,
        }

    # --- what others may ask ------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Go on with the downloads of an earlier life."""
        self._post(e.TimePassed())

    def views(self) -> list[DownloadView]:
        """All downloads that are remembered, the newest last."""
        return self._downloads.views()

    def view(self, download_id: str) -> DownloadView:
        """One of them. Raises `Refusal` DOWNLOAD_NOT_FOUND."""
        view = self._downloads.view(download_id)
        if view is None:
            shown = download_id[: limits.MODEL_ID_CHARACTERS_MAX]
            text = f"There is no download '{shown}'; GET /admin/models/downloads?include_inactive=true lists them."
            raise Refusal(ErrorCode.DOWNLOAD_NOT_FOUND, text, param="download_id")
        return view

    def active(self, repo_id: str) -> DownloadView | None:
        """The download of a repository that is not over."""
        return self._downloads.active(repo_id)

    def want(
        self, order: DownloadOrder, *, estimated_bytes: int | None = None, then_load: LoadOrder | None = None
    ) -> DownloadView:
        """Start a download, or join the one that is the same. Raises `Refusal`."""
        order_id = f"order-{next(self._numbers)}"
        self._post(e.Wanted(order_id, f"dl-{secrets.token_hex(8)}", order, estimated_bytes, then_load))
        answer = self._answers.pop(order_id)
        if isinstance(answer, Refusal):
            raise answer
        return self.view(answer)

    def follow(self, download_id: str, load: LoadOrder) -> None:
        """Have a model loaded when its download, which is not over, has brought it."""
        self._post(e.FollowWanted(download_id, load))

    async def cancel(self, download_id: str) -> DownloadView:
        """End a download and throw away what has come of it; returns when its process is gone. Raises `Refusal`."""
        if self.view(download_id).completed_at is None:
            over = self._over.setdefault(download_id, asyncio.Event())
            self._post(e.CancelWanted(download_id))
            await over.wait()
            await asyncio.gather(*self._discards)
        return self.view(download_id)

    async def discard_parts(self, repo_id: str) -> int:
        """Remove what is left of downloads of a repository that has no active one; returns how many bytes. Raises `Refusal`."""
        try:
            return await self._disk.run(partial(discard, self._models_directory, repo_id))
        except OSError as error:
            text = f"What has come of {repo_id} cannot be removed: {error.strerror or error} ({error.filename})."
            raise Refusal(ErrorCode.DELETE_FAILED, text, param="model_id") from error

    async def close(self) -> None:
        """End every download. Returns when no process of ours is left."""
        self._post(e.StopWanted())
        for download_id in self._processes.ids():
            await self._over.setdefault(download_id, asyncio.Event()).wait()
        await asyncio.gather(*self._discards)
        self._loop.close()
        await self._file.close()

    # --- the loop -----------------------------------------------------------------------------------------------------------

    def _handle(self, event: e.DownloadEvent) -> None:
        self._downloads.policy = _policy(self._config())
        for action in self._downloads.handle(event, e.Moment(time.monotonic(), time.time())):
            self._performers[type(action)](action)

    def _after(self) -> None:
        for download_id, event in list(self._over.items()):
            view = self._downloads.view(download_id)
            if view is None or view.completed_at is not None:
                event.set()
                del self._over[download_id]
        self._file.changed()

    # --- performing actions -------------------------------------------------------------------------------------------------

    def _start(self, action: a.StartJob) -> None:
        download_id = action.download_id
        try:
            self._processes.start(
                download_id,
                self._specs.fetch(f"{download_id}-{next(self._numbers)}", action.order),
                on_message=lambda message: self._post(e.JobSaid(download_id, message)),
                on_violation=lambda detail: self._post(e.JobMisbehaved(download_id, detail)),
                on_exit=lambda _, text: self._post(e.JobExited(download_id, text)),
            )
        except (OSError, RunDirError, ProtocolViolation) as error:
            self._post(e.NotStarted(download_id, f"it could not be started: {error}"))

    def _discard(self, action: a.DiscardParts) -> None:
        async def remove() -> None:
            try:
                await self.discard_parts(action.repo_id)
            except Refusal as refusal:
                self._tell(Tell("download_not_discarded", {"repo_id": action.repo_id, "text": refusal.message}, alarming=True))

        task = asyncio.get_running_loop().create_task(remove())
        self._discards.add(task)
        task.add_done_callback(self._discards.discard)

    # --- the file -----------------------------------------------------------------------------------------------------------

    def _compose(self, written: DownloadsFile | None) -> DownloadsFile | None:
        document = DownloadsFile(
            boot_id=machine_boot_id(),
            downloads=tuple(saved_download(download) for download in self._downloads.records()),
            jobs=self._processes.saved(),
        )
        # Without any download ever there is nothing to write down.
        known = written if written is not None else DownloadsFile(boot_id=document.boot_id)
        return None if document == known else document

    def _complain(self, text: str) -> None:
        self._tell(Tell("state_write_failed", {"text": text}, alarming=True))


def _policy(config: Config) -> DownloadPolicy:
    downloads = config.downloads
    return DownloadPolicy(
        at_once=downloads.at_once,
        retry_initial_seconds=downloads.retry_initial_seconds,
        retry_max_seconds=downloads.retry_max_seconds,
    )
