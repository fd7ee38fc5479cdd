"""POST /admin/models/autotune and GET /admin/models/{id}/autotune: find the settings that suit a model, and what was found.

An autotune ends with the client that asked for it; the model is put back all the same.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw
from starlette.requests import Request
from starlette.responses import Response

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.states import BACKEND_NAMES
from lmx_supervisor.core.autotune import Candidate, TuneOrder
from lmx_supervisor.core.benchmark import DEFAULT_PROMPT
from lmx_supervisor.core.load_profile import LoadProfile, settings_of
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.admin.benchmark import FewRuns, Prompt, Temperature, TokensAsked
from lmx_supervisor.gateway.admin.model_bodies import ModelId, read_overrides, refuse_unsafe_id
from lmx_supervisor.gateway.body import decode_field, read_json
from lmx_supervisor.gateway.disconnect import while_connected
from lmx_supervisor.gateway.edge import note
from lmx_supervisor.gateway.problem import Problem
from lmx_supervisor.gateway.responses import json_response

Profiles = Annotated[list[dict[str, Any]], Meta(max_length=limits.TUNE_CANDIDATES_MAX)]


class AutotuneBody(msgspec.Struct, frozen=True, kw_only=True):
    """Which model, measured how, over which settings; null means absent."""

    model_id: ModelId
    prompt: Prompt | None = None
    max_tokens: TokensAsked | None = None
    temperature: Temperature | None = None
    runs: FewRuns | None = None
    concurrency: Annotated[int, Meta(ge=1, le=64)] | None = None
    """Generations at one time; absent: as many as a model has slots by default."""
    profiles: Raw = Raw(b"null")
    allow_unsupported_runtime: bool | None = None


class AutotuneQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which record is wanted; None fits every one."""

    backend: str | None = None
    backend_version: str | None = None


_body_decoder = msgspec.json.Decoder(AutotuneBody)
_profiles_decoder: msgspec.json.Decoder[list[dict[str, Any]] | None] = msgspec.json.Decoder(Profiles | None)


class AdminAutotune:
    """The routes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def tune(self, request: Request) -> Response:
        """Try the candidates and keep the best. Raises `Problem`, `Refusal`, `ClientGoneError`."""
        body = await read_json(request, _body_decoder, self._service.config.server)
        refuse_unsafe_id(body.model_id)
        note(request.scope, model=body.model_id)
        order = TuneOrder(
            model_id=body.model_id,
            prompt=body.prompt or DEFAULT_PROMPT,
            max_tokens=body.max_tokens or 128,
            temperature=0.7 if body.temperature is None else body.temperature,
            runs=body.runs or 1,
            concurrency=body.concurrency,
            profiles=_profiles(body.profiles),
            allow_unsupported_runtime=bool(body.allow_unsupported_runtime),
        )
        report = await while_connected(self._service.autotune(order), request.receive)
        record = report.record
        return json_response(
            {
                "model_id": record.model_id,
                "backend": record.backend,
                "backend_version": record.backend_version,
                "best_profile": record.profile,
                "best_metrics": record.metrics,
                "best_score": record.score,
                "candidates": [_to_candidate(candidate) for candidate in report.candidates],
            }
        )

    async def show(self, request: Request) -> Response:
        """The newest record of a model. Raises `Problem` (404)."""
        model_id = request.path_params["model_id"]
        backend = request.query_params.get("backend") or None
        if backend is not None and backend in BACKEND_NAMES:
            backend = BACKEND_NAMES[backend].value
        record = self._service.tuned_record(model_id, backend, request.query_params.get("backend_version") or None)
        if record is None:
            message = f"Model '{model_id}' has no such record; make one with POST /admin/models/autotune or `lmx tune`."
            raise Problem(ErrorCode.AUTOTUNE_NOT_FOUND, message, param="model_id")
        return json_response(record)


def _profiles(raw: Raw) -> tuple[LoadProfile, ...]:
    given = decode_field("profiles", raw, _profiles_decoder) or []
    return tuple(read_overrides(settings, f"profiles.{index}") for index, settings in enumerate(given))


def _to_candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "profile": settings_of(candidate.profile),
        "metrics": candidate.metrics,
        "score": candidate.score,
        "error": candidate.error,
    }
