"""`<home>/quantize-jobs.json`: the jobs that operators may still ask about, and the processes that must not outlive us.

`version` and `saved_at` are the predecessor's names, which its readers know. Progress is not in it.
"""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from lmx_supervisor.core.quantization.job import OVER, Job, JobState, Task
from lmx_supervisor.core.quantization.machine import INTERRUPTED
from lmx_supervisor.core.quantization.orders import FailureCode, Mode
from lmx_supervisor.runtime.atomic_file import Document, ReadDocument, read_document
from lmx_supervisor.runtime.state_file import SavedWorker

FILE_NAME = "quantize-jobs.json"


class SavedJob(msgspec.Struct, frozen=True, kw_only=True):
    """One job. Times in unix seconds."""

    job_id: str
    source_model: str
    output_path: str
    bits: int
    group_size: int
    mode: Mode
    status: str
    created_at: float
    updated_at: float
    started_at: float | None = None
    completed_at: float | None = None
    cancel_requested_at: float | None = None
    output_size_bytes: int | None = None
    failure_code: FailureCode | None = None
    error: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    model_id: str | None = None
    source_path: str
    staging_path: str


class QuantizeFile(Document, frozen=True, kw_only=True):
    """The whole file, the newest job last."""

    schema: int = 1
    version: int = 2
    saved_at: float = 0.0
    jobs: tuple[SavedJob, ...] = ()
    boot_id: str = ""
    """Of the machine, for `processes`."""
    processes: tuple[SavedWorker, ...] = ()


def read_quantize_jobs(home: Path) -> ReadDocument[QuantizeFile]:
    """What the home knows; an unusable file is set aside. Blocks on the disk."""
    return read_document(home / FILE_NAME, QuantizeFile)


def saved_job(job: Job) -> SavedJob:
    """For the file."""
    task = job.task
    return SavedJob(
        job_id=job.job_id,
        source_model=task.source_model,
        output_path=task.output_path,
        bits=task.bits,
        group_size=task.group_size,
        mode=task.mode,
        status=job.state,
        created_at=job.created_at,
        updated_at=job.updated_at,
        started_at=job.started_at,
        completed_at=job.ended_at,
        cancel_requested_at=job.cancel_requested_at,
        output_size_bytes=job.output_bytes,
        failure_code=job.failure_code,
        error=job.error,
        exit_code=job.exit_code,
        signal=job.signal_number,
        model_id=task.model_id,
        source_path=task.source_path,
        staging_path=task.staging_path,
    )


def restored(saved: Iterable[SavedJob], now_unix: float) -> list[Job]:
    """From the file. A job that was not over is now: nothing goes on by itself."""
    jobs = []
    for item in saved:
        task = Task(
            source_model=item.source_model,
            source_path=item.source_path,
            output_path=item.output_path,
            staging_path=item.staging_path,
            bits=item.bits,
            group_size=item.group_size,
            mode=item.mode,
            model_id=item.model_id,
        )
        known = item.status in JobState._value2member_map_ and JobState(item.status) in OVER
        job = Job(
            item.job_id,
            task,
            item.created_at,
            state=JobState(item.status) if known else JobState.FAILED,
            updated_at=item.updated_at if known else now_unix,
            started_at=item.started_at,
            ended_at=item.completed_at if known else now_unix,
            cancel_requested_at=item.cancel_requested_at,
            output_bytes=item.output_size_bytes if known else None,
            failure_code=item.failure_code,
            error=item.error,
            exit_code=item.exit_code,
            signal_number=item.signal,
        )
        if job.state is JobState.COMPLETED:
            job.percent = 100.0
        if not known:
            job.failure_code, job.error = INTERRUPTED
        jobs.append(job)
    return jobs


def left_behind(saved: Iterable[SavedJob]) -> list[Path]:
    """Where jobs that were not over may have left a part of a copy."""
    over = {state.value for state in OVER}
    return [Path(item.staging_path) for item in saved if item.status not in over]
