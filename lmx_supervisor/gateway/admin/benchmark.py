"""The routes under /admin/benchmark: measure a served model, and the results that were kept.

A measurement ends with the client that asked for it.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from lmx_protocol import limits
from lmx_supervisor.core.benchmark import DEFAULT_PROMPT, BenchmarkOrder, Sample, mean
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.admin.model_bodies import ModelId, refuse_unsafe_id
from lmx_supervisor.gateway.admin.performance import SPECULATIVE
from lmx_supervisor.gateway.admin.units import milliseconds
from lmx_supervisor.gateway.body import read_json
from lmx_supervisor.gateway.disconnect import while_connected
from lmx_supervisor.gateway.edge import note
from lmx_supervisor.gateway.responses import json_response

Prompt = Annotated[str, Meta(min_length=1, max_length=limits.BENCHMARK_PROMPT_CHARACTERS_MAX)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
TokensAsked = Annotated[int, Meta(ge=1, le=4096)]
FewRuns = Annotated[int, Meta(ge=1, le=5)]

_NO_TELEMETRY: dict[str, Any] = {
    **SPECULATIVE,
    "accepted_tokens": None,
    "rejected_tokens": None,
    "ignored_tokens": None,
    "acceptance_ratio": None,
}


class BenchmarkBody(msgspec.Struct, frozen=True, kw_only=True):
    """A short measurement; null means absent."""

    model_id: ModelId
    prompt: Prompt | None = None
    max_tokens: TokensAsked | None = None
    temperature: Temperature | None = None
    runs: FewRuns | None = None


class BenchmarkRunBody(msgspec.Struct, frozen=True, kw_only=True):
    """A measurement whose result is kept; null means absent."""

    model_id: ModelId
    prompt: Prompt | None = None
    num_output_tokens: Annotated[int, Meta(ge=50, le=2000)] | None = None
    runs: Annotated[int, Meta(ge=1, le=20)] | None = None
    temperature: Temperature | None = None
    warmup_runs: Annotated[int, Meta(ge=0, le=3)] | None = None


class BenchmarkQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Whose results are wanted; None: everybody's."""

    model_id: str | None = None


_body_decoder = msgspec.json.Decoder(BenchmarkBody)
_run_decoder = msgspec.json.Decoder(BenchmarkRunBody)


class AdminBenchmark:
    """The routes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def measure(self, request: Request) -> Response:
        """Some generations and their averages. Raises `Problem`, `Refusal`, `ClientGoneError`."""
        body = await read_json(request, _body_decoder, self._service.config.server)
        refuse_unsafe_id(body.model_id)
        note(request.scope, model=body.model_id)
        order = BenchmarkOrder(
            model_id=body.model_id,
            prompt=body.prompt or DEFAULT_PROMPT,
            max_tokens=body.max_tokens or 128,
            temperature=0.7 if body.temperature is None else body.temperature,
            runs=body.runs or 1,
        )
        measured = await while_connected(self._service.benchmark(order), request.receive)
        samples = measured.samples
        return json_response(
            {
                "model_id": order.model_id,
                "backend_type": measured.backend,
                "prompt": order.prompt,
                "max_tokens": order.max_tokens,
                "runs": order.runs,
                "results": [_to_run(number, sample) for number, sample in enumerate(samples, start=1)],
                "avg_tokens_per_second": mean([sample.tokens_per_second for sample in samples]),
                "avg_time_to_first_token_ms": milliseconds(mean([sample.first_token_seconds for sample in samples])),
                "avg_total_time_ms": milliseconds(mean([sample.total_seconds for sample in samples])),
                "speculative": _NO_TELEMETRY,
            }
        )

    async def run(self, request: Request) -> Response:
        """Generations whose figures are kept. Raises `Problem`, `Refusal`, `ClientGoneError`."""
        body = await read_json(request, _run_decoder, self._service.config.server)
        refuse_unsafe_id(body.model_id)
        note(request.scope, model=body.model_id)
        order = BenchmarkOrder(
            model_id=body.model_id,
            prompt=body.prompt or DEFAULT_PROMPT,
            max_tokens=body.num_output_tokens or 200,
            temperature=body.temperature or 0.0,
            runs=body.runs or 5,
            warmup_runs=1 if body.warmup_runs is None else body.warmup_runs,
        )
        return json_response(await while_connected(self._service.benchmark_and_keep(order), request.receive))

    async def results(self, request: Request) -> Response:
        """What was kept, the newest first. Raises `Refusal`."""
        return json_response(await self._service.benchmark_results(request.query_params.get("model_id") or None))


def _to_run(number: int, sample: Sample) -> dict[str, Any]:
    return {
        "run": number,
        "tokens_generated": sample.tokens,
        "prompt_tokens": sample.prompt_tokens,
        "time_to_first_token_ms": milliseconds(sample.first_token_seconds),
        "total_time_ms": milliseconds(sample.total_seconds),
        "tokens_per_second": sample.tokens_per_second,
        "decode_tokens_per_second": sample.decode_tokens_per_second,
        "speculative": _NO_TELEMETRY,
    }
