"""`<home>/downloads.json`: the downloads that outlive the supervisor, and the processes that must not.

Progress is not in it: what has come of a download is on the disk itself, and the next process looks there.
"""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.downloads.orders import DownloadOrder
from lmx_supervisor.core.downloads.state import OVER, Download, DownloadState
from lmx_supervisor.core.service import LoadOrder
from lmx_supervisor.runtime.atomic_file import Document, ReadDocument, read_document
from lmx_supervisor.runtime.state_file import SavedWorker

FILE_NAME = "downloads.json"


class SavedDownload(msgspec.Struct, frozen=True, kw_only=True):
    """One download. Times in unix seconds."""

    download_id: str
    order: DownloadOrder
    state: str
    loads: tuple[LoadOrder, ...] = ()
    started_at: float
    ended_at: float | None = None
    total_bytes: int | None = None
    files_total: int | None = None
    error: str | None = None
    error_code: str | None = None
    local_path: str | None = None


class DownloadsFile(Document, frozen=True, kw_only=True):
    """The whole file, the newest download last."""

    schema: int = 1
    boot_id: str = ""
    """Of the machine, for `jobs`."""
    downloads: tuple[SavedDownload, ...] = ()
    jobs: tuple[SavedWorker, ...] = ()


def read_downloads(home: Path) -> ReadDocument[DownloadsFile]:
    """What the home knows; an unusable file is set aside. Blocks on the disk."""
    return read_document(home / FILE_NAME, DownloadsFile)


def saved_download(download: Download) -> SavedDownload:
    """For the file."""
    is_over = download.is_over
    return SavedDownload(
        download_id=download.download_id,
        order=download.order,
        # Which of the states in between it is in says nothing to another process.
        state=download.state if is_over else DownloadState.QUEUED,
        loads=tuple(download.loads),
        started_at=download.started_at_unix,
        ended_at=download.ended_at_unix,
        total_bytes=download.total_bytes,
        files_total=download.files_total,
        error=download.error if is_over else None,
        error_code=download.error_code if is_over else None,
        local_path=download.local_path,
    )


def restored(saved: Iterable[SavedDownload], *, may_resume: bool, now_unix: float) -> list[Download]:
    """From the file. A download that was not over goes on, or is given up when nothing may be downloaded by itself now."""
    downloads = []
    for item in saved:
        state = DownloadState(item.state) if item.state in DownloadState._value2member_map_ else DownloadState.QUEUED
        download = Download(
            item.download_id,
            item.order,
            item.started_at,
            loads=list(item.loads),
            state=state if state in OVER else DownloadState.QUEUED,
            total_bytes=item.total_bytes,
            files_total=item.files_total,
            error=item.error,
            error_code=_code(item.error_code),
            ended_at_unix=item.ended_at,
            local_path=item.local_path,
        )
        if download.state is DownloadState.COMPLETED:
            download.done_bytes, download.files_done = item.total_bytes or 0, item.files_total or 0
        elif not download.is_over and not may_resume:
            download.move(DownloadState.FAILED)
            download.error = "It was interrupted by a restart of the service. What has come is kept; ask again to go on."
            download.error_code = ErrorCode.DOWNLOAD_FAILED
            download.ended_at_unix = now_unix
        downloads.append(download)
    return downloads


def _code(saved: str | None) -> ErrorCode | None:
    # A code of another version is not known here; the text still says it all.
    return ErrorCode(saved) if saved is not None and saved in ErrorCode._value2member_map_ else None
