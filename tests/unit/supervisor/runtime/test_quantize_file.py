"""Quantize jobs that outlive the supervisor, as far as anything of them does."""

import json
from pathlib import Path

import pytest

from lmx_supervisor.core.quantization.job import Job, JobState, Task
from lmx_supervisor.runtime.atomic_file import write_document
from lmx_supervisor.runtime.quantize_file import (
    FILE_NAME,
    QuantizeFile,
    left_behind,
    read_quantize_jobs,
    restored,
    saved_job,
)

TASK = Task("org/a", "/models/org/a", "/out/a", "/out/.quantize-j", 4, 64, "affine", "a")


def there_and_back(home: Path, *jobs: Job) -> list[Job]:
    """Written down, read again, restored."""
    write_document(home / FILE_NAME, QuantizeFile(jobs=tuple(map(saved_job, jobs))))
    document = read_quantize_jobs(home).document
    assert document is not None
    return restored(document.jobs, now_unix=9.0)


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING, JobState.CANCELLING, JobState.PROMOTING])
def test_what_was_not_over_was_interrupted(tmp_path: Path, state: JobState) -> None:
    """Nothing goes on by itself: it has failed, its task is remembered, and what it left is known."""
    job = Job("j", TASK, 1.0, state=state, started_at=2.0, pid=7)
    (found,) = there_and_back(tmp_path, job)

    assert (found.task, found.state, found.failure_code) == (TASK, JobState.FAILED, "interrupted_by_restart")
    assert (found.created_at, found.ended_at, found.updated_at, found.pid) == (1.0, 9.0, 9.0, None)
    assert left_behind([saved_job(job)]) == [Path("/out/.quantize-j")]


@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED])
def test_what_was_over_stays_as_it_was(tmp_path: Path, state: JobState) -> None:
    """Its end, its reason and its size; nothing is looked for that it could have left."""
    job = Job(
        "j",
        TASK,
        1.0,
        state=state,
        updated_at=5.0,
        started_at=2.0,
        ended_at=5.0,
        cancel_requested_at=4.0,
        output_bytes=77,
        failure_code="worker_crashed",
        error="it died",
        signal_number=9,
    )
    job.percent = 100.0 if state is JobState.COMPLETED else 0.0
    (found,) = there_and_back(tmp_path, job)

    assert found.view(None) == job.view(None)
    assert left_behind([saved_job(job)]) == []


def test_the_file_has_the_predecessors_names(tmp_path: Path) -> None:
    """Version, time and jobs, and the fields of each, for scripts that read it."""
    there_and_back(tmp_path, Job("j", TASK, 1.0))
    document = json.loads((tmp_path / FILE_NAME).read_text())

    assert document["version"] == 2
    assert {"saved_at", "jobs"} <= set(document)
    assert {"job_id", "source_model", "output_path", "bits", "group_size", "mode", "status"} <= set(document["jobs"][0])
