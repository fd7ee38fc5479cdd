"""GET /admin/metrics and /admin/metrics/json: everything that is measured, for Prometheus and as one document."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from lmx_supervisor.core.measured import Measured, RecentOfModel, RequestTotals
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.responses import json_response

SCHEMA_VERSION = "2026-03-02"
"""Of the document; the predecessor's readers compare it."""

_TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
_DIGITS = 4


class AdminMetrics:
    """The two routes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def scrape(self, _: Request) -> Response:
        """The text format."""
        return Response(self._service.metrics(), headers={"Content-Type": _TEXT_FORMAT})

    async def summary(self, _: Request) -> Response:
        """One JSON document."""
        uptime_seconds = self._service.status().uptime_seconds
        return json_response(summary_of(self._service.records.measured(), uptime_seconds))


def summary_of(measured: Measured, uptime_seconds: float) -> dict[str, Any]:
    """The document under its published names; null where nothing happened lately. Pure."""
    total, recent = measured.total, measured.recent
    return {
        "schema_version": SCHEMA_VERSION,
        "uptime_seconds": round(uptime_seconds, 3),
        "total_requests": total.requests,
        "total_errors": total.errors,
        "total_stream_requests": measured.stream_requests,
        "total_prompt_tokens": measured.prompt_tokens,
        "total_completion_tokens": total.completion_tokens,
        "latency_p95_sec": rounded(recent.latency_p95_seconds),
        "requests": {
            "total": total.requests,
            "errors": total.errors,
            "stream_total": measured.stream_requests,
            "throughput_1m": rounded(recent.ended_per_second),
        },
        "tokens": {"prompt_total": measured.prompt_tokens, "completion_total": total.completion_tokens},
        # No draft model runs here, so none has guessed anything.
        "speculative": {"accepted_tokens": 0, "rejected_tokens": 0, "ignored_tokens": 0, "acceptance_ratio": None},
        "per_model": {
            model: _of_model(totals, measured.recent_of_models.get(model, RecentOfModel()))
            for model, totals in measured.models.items()
        },
        "per_client": {
            client: {"requests": totals.requests, "errors": totals.errors, "tokens": totals.completion_tokens}
            for client, totals in measured.clients.items()
        },
    }


def _of_model(totals: RequestTotals, recent: RecentOfModel) -> dict[str, Any]:
    return {
        "requests": totals.requests,
        "errors": totals.errors,
        "completion_tokens": totals.completion_tokens,
        "queue_wait_sec": rounded(recent.queue_wait_p95_seconds),
        "ttft_sec": rounded(recent.first_token_p95_seconds),
        "error_rate": rounded(recent.error_ratio),
        "tokens_per_second": rounded(recent.tokens_per_second),
    }


def rounded(value: float | None) -> float | None:
    """A measurement with no more digits than it deserves; None stays None."""
    return None if value is None else round(value, _DIGITS)
