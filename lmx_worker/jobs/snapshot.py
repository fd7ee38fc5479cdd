"""The download of a model: look, make sure that it fits, take over what is here, fetch the rest, put it in its place.

Blocks until it is done; progress goes into the tally.
"""

import queue
import threading
from collections.abc import Callable
from pathlib import Path

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.jobs import FetchModel, JobDone, JobMessage, JobPlanned
from lmx_worker.jobs.fetch import Fetcher, Patience, StoppedError
from lmx_worker.jobs.hub import Hub, HubTrouble, Listing, RemoteFile
from lmx_worker.jobs.refusal import JobRefusal
from lmx_worker.jobs.staging import Staging
from lmx_worker.jobs.tally import Tally

_GIGABYTE = 1000**3


def fetch_model(work: FetchModel, say: Callable[[JobMessage], None], tally: Tally) -> JobDone:
    """Do it. Says `JobPlanned` on the way, and with `only_look` does no more than that. Raises `JobRefusal`."""
    stopped = threading.Event()
    hub = Hub(work.repo_id, work.revision, work.stall_seconds)
    staging = Staging(Path(work.staging), Path(work.target))
    listing = _look(work, hub, tally, stopped)
    distinct = {file.key: file for file in listing.files}
    missing_bytes = sum(file.size_bytes - staging.present_bytes(file) for file in distinct.values())
    plan = JobPlanned(
        commit=listing.commit,
        total_bytes=sum(file.size_bytes for file in distinct.values()),
        missing_bytes=missing_bytes,
        free_bytes=staging.free_bytes(),
        files=len(distinct),
    )
    say(plan)
    _refuse_if_too_large(work, plan)
    if work.only_look:
        return JobDone(path=work.target, total_bytes=plan.total_bytes)
    with staging.held():
        missing = [file for file in distinct.values() if not _is_here(file, listing, hub, staging, tally)]
        _fetch_all(missing, Fetcher(work, hub, listing.commit, staging, tally, stopped), stopped)
        staging.promote(work.repo_id, listing, selection=bool(work.allow_patterns or work.ignore_patterns))
    return JobDone(path=work.target, total_bytes=plan.total_bytes)


def _look(work: FetchModel, hub: Hub, tally: Tally, stopped: threading.Event) -> Listing:
    patience = Patience(work, stopped)
    while True:
        try:
            listing = hub.listing(work.allow_patterns, work.ignore_patterns)
        except HubTrouble as trouble:
            tally.waiting("", str(trouble))
            patience.endure("The list of files", trouble)
        else:
            tally.moving("")
            return listing


def _refuse_if_too_large(work: FetchModel, plan: JobPlanned) -> None:
    short_bytes = plan.missing_bytes + work.disk_reserve_bytes - plan.free_bytes
    if plan.missing_bytes and short_bytes > 0:
        text = (
            f"{work.repo_id} needs {_gigabytes(plan.missing_bytes)} more and {_gigabytes(work.disk_reserve_bytes)} are to stay"
            f" free, but {Path(work.target)} has {_gigabytes(plan.free_bytes)} free: {_gigabytes(short_bytes)} short."
            " Free space, or choose another models.models_directory."
        )
        raise JobRefusal(ErrorCode.INSUFFICIENT_DISK, text)


def _gigabytes(size_bytes: int) -> str:
    return f"{size_bytes / _GIGABYTE:.3f} GB ({size_bytes} bytes)"


def _is_here(file: RemoteFile, listing: Listing, hub: Hub, staging: Staging, tally: Tally) -> bool:
    is_here = staging.is_whole(file) or staging.take_over(file, hub.cached(listing.commit, file))
    if is_here:
        tally.add_bytes(file.size_bytes)
        tally.file_done()
    return is_here


def _fetch_all(files: list[RemoteFile], fetcher: Fetcher, stopped: threading.Event) -> None:
    """Several at a time. Raises the first failure, once every thread has stopped."""
    waiting: queue.SimpleQueue[RemoteFile] = queue.SimpleQueue()
    for file in sorted(files, key=lambda file: file.size_bytes, reverse=True):
        waiting.put(file)
    failures: list[BaseException] = []

    def work_off() -> None:
        try:
            while not stopped.is_set():
                fetcher.fetch(waiting.get_nowait())
        except queue.Empty:
            return
        except BaseException as error:  # it is raised again where the work was asked for
            failures.append(error)
            stopped.set()

    threads = [threading.Thread(target=work_off, name=f"fetch-{n}") for n in range(limits.DOWNLOAD_CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for failure in failures:
        if not isinstance(failure, StoppedError):
            raise failure
