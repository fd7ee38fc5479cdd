"""Downloads that outlive the supervisor."""

import json
from pathlib import Path

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.downloads.orders import DownloadOrder
from lmx_supervisor.core.downloads.state import Download, DownloadState
from lmx_supervisor.core.load_profile import LoadProfile
from lmx_supervisor.core.service import LoadOrder
from lmx_supervisor.runtime.atomic_file import write_document
from lmx_supervisor.runtime.downloads_file import (
    FILE_NAME,
    DownloadsFile,
    SavedDownload,
    read_downloads,
    restored,
    saved_download,
)

ORDER = DownloadOrder(repo_id="org/a", allow_patterns=("*.gguf",))


def there_and_back(home: Path, *downloads: Download, may_resume: bool = True) -> list[Download]:
    """Written down, read again, restored."""
    write_document(home / FILE_NAME, DownloadsFile(downloads=tuple(map(saved_download, downloads))))
    document = read_downloads(home).document
    assert document is not None
    return restored(document.downloads, may_resume=may_resume, now_unix=9.0)


def over(state: DownloadState, code: ErrorCode | None = None) -> Download:
    """A download that ended so."""
    return Download("dl-1", ORDER, 1.0, state=state, total_bytes=100, files_total=2, error_code=code, ended_at_unix=5.0)


@pytest.mark.parametrize("state", [DownloadState.QUEUED, DownloadState.RUNNING, DownloadState.WAITING, DownloadState.ENDING])
def test_what_was_not_over_goes_on(tmp_path: Path, state: DownloadState) -> None:
    """Order, waiting loads and start time are kept; it begins anew, whatever it was doing."""
    load = LoadOrder(model_id="org/a", profile=LoadProfile(slots=2))
    (found,) = there_and_back(tmp_path, Download("dl-1", ORDER, 1.0, loads=[load], state=state, deaths=4, error="old"))

    assert (found.download_id, found.order, found.loads, found.started_at_unix) == ("dl-1", ORDER, [load], 1.0)
    assert (found.state, found.deaths, found.error) == (DownloadState.QUEUED, 0, None)


def test_what_may_not_go_on(tmp_path: Path) -> None:
    """Where nothing may be downloaded by itself it has failed, and says how to go on."""
    (found,) = there_and_back(tmp_path, Download("dl-1", ORDER, 1.0), may_resume=False)

    assert (found.state, found.ended_at_unix) == (DownloadState.FAILED, 9.0)
    assert "ask again" in (found.error or "")


def test_what_is_over_stays_as_it_was(tmp_path: Path) -> None:
    """Its end, its reason and its size are remembered, also where nothing may go on."""
    done, failed = over(DownloadState.COMPLETED), over(DownloadState.FAILED, ErrorCode.DOWNLOAD_CORRUPT)
    found = there_and_back(tmp_path, done, failed, may_resume=False)

    assert [(item.state, item.error_code, item.ended_at_unix) for item in found] == [
        (DownloadState.COMPLETED, None, 5.0),
        (DownloadState.FAILED, ErrorCode.DOWNLOAD_CORRUPT, 5.0),
    ]
    assert found[0].view().downloaded_bytes == 100
    assert found[0].view().files_completed == 2


def test_words_of_another_version(tmp_path: Path) -> None:
    """A state and a code that are not known here are not a reason to fail."""
    saved = SavedDownload(download_id="dl-1", order=ORDER, state="paused", error_code="brand_new", started_at=1.0)
    (found,) = restored([saved], may_resume=True, now_unix=9.0)

    assert (found.state, found.error_code) == (DownloadState.QUEUED, None)


def test_a_file_that_is_damaged(tmp_path: Path) -> None:
    """It is set aside, and nothing is remembered."""
    (tmp_path / FILE_NAME).write_text(json.dumps({"schema": 1, "downloads": [{}]}))
    found = read_downloads(tmp_path)

    assert found.document is None
    assert found.set_aside is not None
