"""The routes under /admin/quantize: have a quantized copy of a model made, look how far it is, cancel it."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.quantization.orders import COMBINATIONS, Mode, QuantizeJob, QuantizeOrder
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.admin.model_bodies import FilePath, ModelId, refuse_unsafe_id
from lmx_supervisor.gateway.body import read_json
from lmx_supervisor.gateway.disconnect import DetachedWork
from lmx_supervisor.gateway.edge import note
from lmx_supervisor.gateway.problem import Problem
from lmx_supervisor.gateway.responses import json_response

_ACCEPTED = 202
_DEFAULT_MODE: Mode = "affine"


class QuantizeBody(msgspec.Struct, frozen=True, kw_only=True):
    """What to quantize and how; null means absent, unknown fields are ignored.

    `affine`: bits 2, 3, 4, 5, 6, 8 in groups of 32, 64, 128; `mxfp4`: 4 in 32; `mxfp8`: 8 in 32; `nvfp4`: 4 in 16. What is left
    out is what the mode has, for `affine` 4 bits in groups of 64.
    """

    source_model: ModelId
    output_path: FilePath | None = None
    """A directory that does not exist yet; absent: one named after the model, in the home."""
    bits: Annotated[int, Meta(ge=1, le=16)] | None = None
    group_size: Annotated[int, Meta(ge=1, le=1024)] | None = None
    mode: Mode | None = None


_decoder = msgspec.json.Decoder(QuantizeBody)


class AdminQuantize:
    """The routes."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._detached = DetachedWork()

    async def start(self, request: Request) -> Response:
        """Queue a job. Raises `Problem`, `Refusal`, `ClientGoneError`."""
        body = await read_json(request, _decoder, self._service.config.server)
        refuse_unsafe_id(body.source_model, param="source_model")
        note(request.scope, model=body.source_model)
        job = await self._detached.wait(self._service.jobs.quantize(to_order(body)), request.receive)
        return json_response(job)

    async def index(self, _: Request) -> Response:
        """Every job that is remembered, the newest first."""
        jobs = self._service.jobs.quantize_jobs()
        return json_response({"jobs": jobs, "count": len(jobs)})

    async def show(self, request: Request) -> Response:
        """One of them. Raises `Refusal` (404)."""
        return json_response(self._service.jobs.find_quantize_job(request.path_params["job_id"]))

    async def cancel(self, request: Request) -> Response:
        """Have one ended: 202 while its process is being ended. Raises `Refusal` (404)."""
        job_id = request.path_params["job_id"]
        before = self._service.jobs.find_quantize_job(job_id)
        after = self._service.jobs.cancel_quantize_job(job_id)
        if before.completed_at is not None:
            return json_response(_cancelled(after, "already_terminal"))
        if after.completed_at is not None:
            return json_response(_cancelled(after, "cancelled"))
        return json_response(_cancelled(after, "cancelling"), status=_ACCEPTED)


def to_order(body: QuantizeBody) -> QuantizeOrder:
    """The order that `body` means. Raises `Problem` (400) for a combination that does not exist."""
    if body.output_path is not None and "\0" in body.output_path:
        raise Problem(ErrorCode.INVALID_VALUE, "output_path: it contains a NUL character.", param="output_path")
    mode = body.mode or _DEFAULT_MODE
    by_bits = COMBINATIONS[mode]
    bits = next(iter(by_bits)) if body.bits is None else body.bits
    if bits not in by_bits:
        raise _not_in(f"bits: {mode} has {_listed(sorted(by_bits))} bits, not {bits}.", "bits")
    groups = by_bits[bits]
    group_size = groups[0] if body.group_size is None else body.group_size
    if group_size not in groups:
        raise _not_in(f"group_size: {mode} has groups of {_listed(sorted(groups))}, not {group_size}.", "group_size")
    return QuantizeOrder(
        source_model=body.source_model, output_path=body.output_path, bits=bits, group_size=group_size, mode=mode
    )


def _not_in(text: str, param: str) -> Problem:
    return Problem(ErrorCode.INVALID_REQUEST, text, param=param)


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _cancelled(job: QuantizeJob, reason: str) -> dict[str, Any]:
    return {
        "job_id": job.job_id,
        "status": job.status,
        "reason": reason,
        "cancelled": job.status == "cancelled",
        "cancel_requested": job.cancel_requested,
        "cancel_requested_at": job.cancel_requested_at,
        "failure_code": job.failure_code,
        "exit_code": job.exit_code,
        "signal": job.signal,
    }
