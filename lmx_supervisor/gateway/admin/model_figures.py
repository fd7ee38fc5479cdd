"""What one model does right now, in the numbers that `lmx top` shows. Pure."""

from typing import Any

from lmx_supervisor.core.measured import RecentOfModel
from lmx_supervisor.core.views import WorkerView
from lmx_supervisor.gateway.admin.metrics import rounded
from lmx_supervisor.gateway.admin.units import gigabytes


def figures_of(worker: WorkerView, recent: RecentOfModel) -> dict[str, Any]:
    """Speeds are of the last second, times of the last five minutes: null where nothing happened in them."""
    return {
        "state": worker.state,
        "running_requests": worker.requests_active,
        "waiting_requests": worker.requests_waiting,
        "concurrent_limit": worker.concurrent_limit,
        "tokens_per_second": rounded(worker.tokens_per_second),
        "prefill_tokens_per_second": rounded(worker.prefill_tokens_per_second),
        "ttft_p50_sec": rounded(recent.first_token_p50_seconds),
        "ttft_p95_sec": rounded(recent.first_token_p95_seconds),
        "queue_wait_p50_sec": rounded(recent.queue_wait_p50_seconds),
        "queue_wait_p95_sec": rounded(recent.queue_wait_p95_seconds),
        "memory_gb": gigabytes(worker.footprint_bytes),
        "peak_gb": gigabytes(worker.peak_footprint_bytes),
        "reserved_gb": gigabytes(worker.reserved_bytes),
        "restarts": worker.restarts,
    }
