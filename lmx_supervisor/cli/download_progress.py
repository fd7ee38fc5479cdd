"""Watching a download until it is over. It belongs to the server, and goes on when nobody watches."""

import time
from typing import Any

import msgspec

from lmx_protocol import limits
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.failures import CommandFailure, NoAnswer
from lmx_supervisor.cli.progress_watch import watch
from lmx_supervisor.cli.quantities import short_duration, short_size
from lmx_supervisor.cli.terminal import remark
from lmx_supervisor.core.downloads.orders import DownloadView

DOWNLOADS_PATH = "/admin/models/downloads"

_OVER = ("completed", "failed", "cancelled")


def progress_path(download_id: str) -> str:
    """Where a download tells how far it is."""
    return f"/admin/models/download/{download_id}/progress"


def parse_download(document: Any) -> DownloadView:
    """What the server says of a download. Raises `NoAnswer` when it has another shape than this version knows."""
    try:
        return msgspec.convert(document, DownloadView)
    except msgspec.ValidationError as error:
        raise NoAnswer(f"the server tells of downloads in a form this version of lmx does not know ({error})") from error


def follow_download(client: Client, download_id: str) -> DownloadView:
    """Show the progress on stderr until the model has arrived. Raises `CommandFailure` when it does not."""
    view = parse_download(client.get(progress_path(download_id)))
    try:
        with watch(view.repo_id) as shown:
            while view.status not in _OVER:
                shown.show(view.progress_percent, progress_text(view), (view.status, view.trouble))
                time.sleep(limits.CLI_POLL_SECONDS)
                view = parse_download(client.get(progress_path(download_id)))
    except KeyboardInterrupt:
        remark(f"{view.repo_id} goes on downloading; watch it with: lmx pull {view.repo_id}")
        remark(f"to cancel it: lmx pull --cancel {view.repo_id}")
        raise
    if view.status != "completed":
        why = f"{view.error} ({view.error_code})" if view.error else f"the download of {view.repo_id} was {view.status}"
        raise CommandFailure(why)
    return view


def progress_text(view: DownloadView) -> str:
    """How far it is, in one line."""
    size = f"{short_size(view.downloaded_bytes)} of {short_size(view.total_bytes)}"
    speed = "" if view.bytes_per_second is None else f", {short_size(view.bytes_per_second)}/s"
    left = "" if view.eta_seconds is None else f", {short_duration(view.eta_seconds)} left"
    trouble = f", waiting: {view.trouble}" if view.trouble else ""
    waiting = " (waits for its turn)" if view.status == "pending" else ""
    return f"{view.progress_percent:.0f}% {size}{speed}{left}{trouble}{waiting}"
