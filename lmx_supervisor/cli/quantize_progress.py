"""Watching a quantize job until it is over. It belongs to the server, and goes on when nobody watches."""

import time
from typing import Any

import msgspec

from lmx_protocol import limits
from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.failures import CommandFailure, NoAnswer
from lmx_supervisor.cli.progress_watch import watch
from lmx_supervisor.cli.terminal import remark
from lmx_supervisor.core.quantization.orders import QuantizeJob

QUANTIZE_PATH = "/admin/quantize"


def parse_job(document: Any) -> QuantizeJob:
    """What the server says of a job. Raises `NoAnswer` when it has another shape than this version knows."""
    try:
        return msgspec.convert(document, QuantizeJob)
    except msgspec.ValidationError as error:
        raise NoAnswer(f"the server tells of quantize jobs in a form this version of lmx does not know ({error})") from error


def follow_job(client: Client, job: QuantizeJob) -> QuantizeJob:
    """Show the progress on stderr until the copy is whole. Raises `CommandFailure` when it will not be."""
    try:
        with watch(job.source_model) as shown:
            while job.completed_at is None:
                shown.show(job.progress_percent, progress_text(job), (job.status, job.phase, job.queue_position))
                time.sleep(limits.CLI_POLL_SECONDS)
                job = parse_job(client.get(f"{QUANTIZE_PATH}/{job.job_id}"))
    except KeyboardInterrupt:
        remark(f"{job.source_model} goes on being quantized; watch it with: lmx quantize list")
        remark(f"to cancel it: lmx quantize --cancel {job.job_id}")
        raise
    if job.status != "completed":
        raise CommandFailure(f"{job.error} ({job.failure_code})")
    return job


def progress_text(job: QuantizeJob) -> str:
    """How far it is, in one line."""
    if job.status == "queued":
        return job.phase or f"number {job.queue_position} in the queue"
    return f"{job.progress_percent:.0f}% {job.phase or job.status}"
