"""Probes and quantize jobs in memory, for the gateway's tests."""

from collections.abc import Sequence

import msgspec

from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.probes import ProbeCandidate, ProbeOrder, ProbeReport
from lmx_supervisor.core.quantization.orders import QuantizeJob, QuantizeOrder
from lmx_supervisor.core.refusal import Refusal


class FedJobs:
    """Probes that pass, and quantize jobs that run for ever."""

    def __init__(self) -> None:
        self.probes: list[ProbeOrder] = []
        self.orders: list[QuantizeOrder] = []
        self.known: dict[str, QuantizeJob] = {}
        self.refusal: Refusal | None = None

    async def probe(self, order: ProbeOrder) -> ProbeReport:
        self.probes.append(order)
        if self.refusal is not None:
            raise self.refusal
        passed = ProbeCandidate(backend="llamacpp", outcome="pass", backend_version="1", architecture="llama", duration_sec=0.5)
        return ProbeReport(model_id=order.model_id, recommended_backend="llamacpp", candidates=(passed,))

    async def quantize(self, order: QuantizeOrder) -> QuantizeJob:
        self.orders.append(order)
        if self.refusal is not None:
            raise self.refusal
        return quantize_job(source_model=order.source_model, bits=order.bits, group_size=order.group_size, mode=order.mode)

    def quantize_jobs(self) -> Sequence[QuantizeJob]:
        return list(self.known.values())

    def find_quantize_job(self, job_id: str) -> QuantizeJob:
        if job_id not in self.known:
            raise Refusal(ErrorCode.JOB_NOT_FOUND, "no such job", param="job_id")
        return self.known[job_id]

    def cancel_quantize_job(self, job_id: str) -> QuantizeJob:
        job = self.find_quantize_job(job_id)
        after = {"queued": ("cancelled", 9.0), "running": ("cancelling", None)}.get(job.status)
        if after is not None:
            status, ended = after
            changes: dict[str, object] = {"cancel_requested": True, "cancel_requested_at": 8.0, "completed_at": ended}
            self.known[job_id] = msgspec.structs.replace(job, status=status, **changes)
        return self.known[job_id]


def quantize_job(job_id: str = "0a1b2c3d4e5f", **changes: object) -> QuantizeJob:
    """A job that waits, but for the changes."""
    waiting = QuantizeJob(
        job_id=job_id,
        source_model="org/a",
        output_path="/home/quantized/a-4bit",
        bits=4,
        group_size=64,
        mode="affine",
        status="queued",
        queue_position=1,
        progress_percent=0.0,
        phase=None,
        model_id="a-4bit",
        created_at=1.0,
        started_at=None,
        updated_at=1.0,
        completed_at=None,
        cancelled_at=None,
        duration_sec=None,
        output_size_bytes=None,
        output_size_gb=None,
        cancel_requested=False,
        cancel_requested_at=None,
        failure_code=None,
        error=None,
        exit_code=None,
        signal=None,
        worker_pid=None,
    )
    return msgspec.structs.replace(waiting, **changes)
