"""All downloads of this machine. `handle` is the one way to change them.

One download at a time per repository, because all of a repository's end in one directory; a bounded number at a time in all.
A process that dies is started again after a growing wait, and goes on where it was; one that says that it cannot be done is
believed. Only the kernel's word that a process is gone ends what it did.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.jobs import JobDone, JobFailed, JobMessage, JobPlanned, JobProgress
from lmx_supervisor.core.actions import Tell
from lmx_supervisor.core.downloads import actions as a
from lmx_supervisor.core.downloads import events as e
from lmx_supervisor.core.downloads.orders import DownloadOrder, DownloadView
from lmx_supervisor.core.downloads.state import HAS_PROCESS, Download, DownloadState
from lmx_supervisor.core.service import LoadOrder

_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class DownloadPolicy:
    """The numbers."""

    at_once: int = limits.DOWNLOADS_AT_ONCE
    deaths_max: int = limits.JOB_DEATHS_MAX
    retry_initial_seconds: float = limits.DOWNLOAD_RETRY_INITIAL_SECONDS
    retry_max_seconds: float = limits.DOWNLOAD_RETRY_MAX_SECONDS
    silence_seconds: float = limits.JOB_SILENCE_SECONDS


class Downloads:
    """The one mutator."""

    def __init__(self, policy: DownloadPolicy, known: Iterable[Download] = ()) -> None:
        """`known`: of an earlier life; those that were not over go on with the first `TimePassed`."""
        self.policy = policy
        self._all = {download.download_id: download for download in known}
        self._stopping = False
        self._out: list[a.DownloadAction] = []
        self._handlers: dict[type[e.DownloadEvent], Callable[[Any, e.Moment], None]] = {
            e.Wanted: self._wanted,
            e.FollowWanted: lambda event, _: _add_load(self._all[event.download_id], event.then_load),
            e.CancelWanted: self._cancel,
            e.StopWanted: self._stop,
            e.NotStarted: lambda event, now: self._died(self._all[event.download_id], event.detail, now),
            e.JobSaid: self._said,
            e.JobMisbehaved: self._misbehaved,
            e.JobExited: self._exited,
            e.TimePassed: self._time_passed,
        }

    def handle(self, event: e.DownloadEvent, now: e.Moment) -> list[a.DownloadAction]:
        """Take one event; what is to be done about it."""
        self._handlers[type(event)](event, now)
        self._start_due(now)
        self._forget_oldest()
        out, self._out = self._out, []
        return out

    # --- for readers --------------------------------------------------------------------------------------------------------

    def views(self) -> list[DownloadView]:
        """Every download that is remembered, the newest last."""
        return [download.view() for download in self._all.values()]

    def view(self, download_id: str) -> DownloadView | None:
        """One of them."""
        download = self._all.get(download_id)
        return download.view() if download is not None else None

    def active(self, repo_id: str) -> DownloadView | None:
        """The download of a repository that is not over."""
        return next(
            (found.view() for found in self._all.values() if found.order.repo_id == repo_id and not found.is_over), None
        )

    def records(self) -> tuple[Download, ...]:
        """For the disk."""
        return tuple(self._all.values())

    def next_deadline(self) -> float:
        """When `TimePassed` is due, by the monotonic clock; infinity while nothing waits for it."""
        return min((self._deadline(download) for download in self._all.values()), default=_NEVER)

    def _deadline(self, download: Download) -> float:
        match download.state:
            case DownloadState.WAITING:
                return download.retry_at
            case DownloadState.RUNNING if download.killed_for is None:
                return download.heard_at + self.policy.silence_seconds
            case _:
                return _NEVER

    # --- orders -------------------------------------------------------------------------------------------------------------

    def _wanted(self, event: e.Wanted, now: e.Moment) -> None:
        if self._stopping:
            self._out.append(a.Declined(event.order_id, ErrorCode.SHUTTING_DOWN, "The service is stopping."))
            return
        active = [download for download in self._all.values() if not download.is_over]
        download = next((download for download in active if _can_join(download, event.order)), None)
        if download is None:
            if len(active) >= limits.DOWNLOADS_ACTIVE_MAX:
                text = f"{len(active)} downloads are under way or waiting, which is all there may be; cancel one first."
                self._out.append(a.Declined(event.order_id, ErrorCode.RATE_LIMIT_EXCEEDED, text))
                return
            download = Download(event.download_id, event.order, now.unix, estimated_bytes=event.estimated_bytes)
            self._all[download.download_id] = download
            self._tell("download_started", download, total_bytes=event.estimated_bytes, revision=event.order.revision)
        if event.then_load is not None:
            _add_load(download, event.then_load)
        self._out.append(a.Accepted(event.order_id, download.download_id))

    def _cancel(self, event: e.CancelWanted, now: e.Moment) -> None:
        download = self._all[event.download_id]
        if not download.is_over:
            download.loads.clear()
            self._end(download, now, discard=True)

    def _stop(self, _: e.StopWanted, now: e.Moment) -> None:
        self._stopping = True
        text = "The service was stopped. What has come is kept; ask again to go on."
        for download in self._all.values():
            if not download.is_over and download.state is not DownloadState.ENDING:
                download.error, download.error_code = text, ErrorCode.SHUTTING_DOWN
                self._end(download, now, discard=False)

    def _end(self, download: Download, now: e.Moment, *, discard: bool) -> None:
        download.discard = download.discard or discard
        if download.state is DownloadState.RUNNING:
            download.move(DownloadState.ENDING)
            self._out.append(a.KillJob(download.download_id))
        elif download.state is not DownloadState.ENDING:
            self._cancelled(download, now)

    # --- processes ----------------------------------------------------------------------------------------------------------

    def _start_due(self, now: e.Moment) -> None:
        running = [download for download in self._all.values() if download.state in HAS_PROCESS]
        busy = {download.order.repo_id for download in running}
        places = self.policy.at_once - len(running)
        for download in self._all.values():
            if places <= 0 or self._stopping:
                return
            if download.state is not DownloadState.QUEUED or download.order.repo_id in busy:
                continue
            download.move(DownloadState.RUNNING)
            download.attempts += 1
            download.outcome, download.killed_for, download.trouble = None, None, None
            download.heard_at = now.monotonic
            download.samples.clear()
            busy.add(download.order.repo_id)
            places -= 1
            self._out.append(a.StartJob(download.download_id, download.order))

    def _said(self, event: e.JobSaid, now: e.Moment) -> None:
        download = self._all[event.download_id]
        download.heard_at = now.monotonic
        self._note(download, event.message, now)

    def _note(self, download: Download, message: JobMessage, now: e.Moment) -> None:
        match message:
            case JobPlanned():
                download.total_bytes, download.files_total = message.total_bytes, message.files
            case JobProgress():
                download.done_bytes, download.files_done = message.done_bytes, message.files_done
                download.trouble = message.trouble
                download.sample(now.monotonic)
                self._tell_progress(download, now)
            case JobDone() | JobFailed():
                download.outcome = download.outcome or message

    def _misbehaved(self, event: e.JobMisbehaved, _: e.Moment) -> None:
        self._kill_for(self._all[event.download_id], event.detail)

    def _kill_for(self, download: Download, reason: str) -> None:
        if download.state is DownloadState.RUNNING and download.killed_for is None:
            download.killed_for = reason
            self._out.append(a.KillJob(download.download_id))

    def _exited(self, event: e.JobExited, now: e.Moment) -> None:
        download = self._all[event.download_id]
        if isinstance(download.outcome, JobDone):
            self._completed(download, download.outcome, now)
        elif download.state is DownloadState.ENDING:
            self._cancelled(download, now)
        elif isinstance(download.outcome, JobFailed):
            self._failed(download, download.outcome.code, download.outcome.message, now)
        else:
            self._out.append(a.KeepEvidence(download.download_id, download.order.repo_id))
            self._died(download, download.killed_for or event.detail, now)

    def _died(self, download: Download, detail: str, now: e.Moment) -> None:
        """Its process is gone without an outcome."""
        download.deaths += 1
        if download.state is DownloadState.ENDING:
            self._cancelled(download, now)
            return
        if download.deaths > self.policy.deaths_max:
            text = f"Its process died {download.deaths} times, the last time so: {detail}. What has come is kept."
            self._failed(download, ErrorCode.DOWNLOAD_FAILED, text, now)
            return
        delay = min(self.policy.retry_initial_seconds * 2 ** (download.deaths - 1), self.policy.retry_max_seconds)
        download.move(DownloadState.WAITING)
        download.trouble = f"its process died ({detail}) and is started again"
        download.retry_at = now.monotonic + delay
        self._tell("download_interrupted", download, alarming=True, reason=detail, retry_in_seconds=delay)

    def _time_passed(self, event: e.TimePassed, now: e.Moment) -> None:
        for download in self._all.values():
            if download.state is DownloadState.WAITING and now.monotonic >= download.retry_at:
                download.move(DownloadState.QUEUED)
            elif download.state is DownloadState.RUNNING:
                download.heard_at += event.lost_seconds
                silent_seconds = now.monotonic - download.heard_at
                if silent_seconds >= self.policy.silence_seconds:
                    self._kill_for(download, f"it said nothing for {silent_seconds:.0f} s")

    # --- ends ---------------------------------------------------------------------------------------------------------------

    def _completed(self, download: Download, done: JobDone, now: e.Moment) -> None:
        download.move(DownloadState.COMPLETED)
        download.local_path = done.path
        download.total_bytes = download.done_bytes = done.total_bytes
        download.files_done = download.files_total or download.files_done
        download.error = download.error_code = None
        self._over(download, now)
        duration = now.unix - download.started_at_unix
        self._tell("download_completed", download, local_path=done.path, duration_seconds=max(0.0, duration))
        self._out += [a.LoadArrived(order) for order in download.loads]

    def _failed(self, download: Download, code: ErrorCode, text: str, now: e.Moment) -> None:
        download.move(DownloadState.FAILED)
        download.error, download.error_code = text, code
        self._over(download, now)
        self._tell("download_failed", download, alarming=True, error=text, error_code=code)

    def _cancelled(self, download: Download, now: e.Moment) -> None:
        download.move(DownloadState.CANCELLED)
        self._over(download, now)
        if download.discard:
            self._out.append(a.DiscardParts(download.order.repo_id))
        self._tell("download_cancelled", download, error=download.error)

    def _over(self, download: Download, now: e.Moment) -> None:
        download.ended_at_unix = now.unix
        download.trouble = None

    def _forget_oldest(self) -> None:
        over = [download.download_id for download in self._all.values() if download.is_over]
        for download_id in over[: max(0, len(over) - limits.DOWNLOADS_KEPT_MAX)]:
            del self._all[download_id]

    # --- telling ------------------------------------------------------------------------------------------------------------

    def _tell(self, kind: str, download: Download, *, alarming: bool = False, **fields: object) -> None:
        identity = {"download_id": download.download_id, "repo_id": download.order.repo_id}
        self._out.append(Tell(kind, {**identity, **fields}, alarming))

    def _tell_progress(self, download: Download, now: e.Moment) -> None:
        """Often enough to watch, seldom enough not to push everything else out of the events that are kept."""
        since = _NEVER if download.told_at is None else now.monotonic - download.told_at
        moved = abs(download.percent - download.told_percent) >= limits.DOWNLOAD_TELL_PERCENT
        due = limits.DOWNLOAD_TELL_SECONDS if moved else limits.DOWNLOAD_TELL_AT_LEAST_SECONDS
        if since < due:
            return
        download.told_at, download.told_percent = now.monotonic, download.percent
        view = download.view()
        fields: dict[str, object] = {
            "download_id": view.download_id,
            "repo_id": view.repo_id,
            "progress_percent": view.progress_percent,
            "downloaded_bytes": view.downloaded_bytes,
            "total_bytes": view.total_bytes,
            "files_completed": view.files_completed,
            "files_total": view.files_total,
            "bytes_per_second": view.bytes_per_second,
            "eta_seconds": view.eta_seconds,
            "trouble": view.trouble,
        }
        self._out.append(a.Publish(Tell("download_progress", fields)))


def _can_join(download: Download, order: DownloadOrder) -> bool:
    return download.order == order and download.state is not DownloadState.ENDING


def _add_load(download: Download, order: LoadOrder) -> None:
    """The last wish for a model counts; a bound, because every client may have one."""
    download.loads[:] = [load for load in download.loads if load.model_id != order.model_id]
    if len(download.loads) < limits.DOWNLOAD_FOLLOWERS_MAX:
        download.loads.append(order)
