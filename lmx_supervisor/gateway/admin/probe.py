"""POST /admin/models/probe: which backends can open a model, without loading it.

A probe belongs to the service: a client that leaves stops waiting, and what is learned is recorded all the same.
"""

from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from lmx_protocol import limits
from lmx_supervisor.core.probes import ProbeOrder
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.admin.model_bodies import ModelId, refuse_unsafe_id
from lmx_supervisor.gateway.body import read_json
from lmx_supervisor.gateway.disconnect import DetachedWork
from lmx_supervisor.gateway.edge import note
from lmx_supervisor.gateway.responses import json_response


class ProbeBody(msgspec.Struct, frozen=True, kw_only=True):
    """What to probe; null means absent, unknown fields are ignored."""

    model_id: ModelId
    timeout_sec: Annotated[float, Meta(ge=1, le=limits.PROBE_SECONDS_MAX)] | None = None
    """Of each backend's process."""
    allow_unsupported_runtime: bool | None = None
    """Probe even with a backend that failed the last time."""


_decoder = msgspec.json.Decoder(ProbeBody)


class AdminProbe:
    """The route."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._detached = DetachedWork()

    async def probe(self, request: Request) -> Response:
        """Answers when every candidate was tried. Raises `Problem`, `Refusal`, `ClientGoneError`."""
        body = await read_json(request, _decoder, self._service.config.server)
        refuse_unsafe_id(body.model_id)
        note(request.scope, model=body.model_id)
        order = ProbeOrder(
            model_id=body.model_id,
            timeout_seconds=limits.PROBE_SECONDS if body.timeout_sec is None else body.timeout_sec,
            allow_failed=bool(body.allow_unsupported_runtime),
        )
        return json_response(await self._detached.wait(self._service.jobs.probe(order), request.receive))
