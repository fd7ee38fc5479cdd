"""The routes that measure and tune: shapes, defaults, bounds, and what becomes of work when its client leaves."""

from typing import Any

import httpx
import pytest

from lmx_supervisor.core.autotune import TuneOrder
from lmx_supervisor.core.benchmark import DEFAULT_PROMPT, BenchmarkOrder
from lmx_supervisor.core.load_profile import GenerationDefaults, LoadProfile
from lmx_supervisor.gateway.app import create_app
from tests.gateway.asgi import Exchange
from tests.gateway.service import MODEL, FedService

BENCHMARK, RUN, RESULTS, TUNE = "/admin/benchmark", "/admin/benchmark/run", "/admin/benchmark/results", "/admin/models/autotune"


async def test_a_benchmark_has_the_contracts_shape(client: httpx.AsyncClient, service: FedService) -> None:
    """Per run and on average; what LMX has no draft model for is null; absent fields have the contract's defaults."""
    answer = (await client.post(BENCHMARK, json={"model_id": MODEL, "runs": 2})).json()

    assert [BenchmarkOrder(model_id=MODEL, prompt=DEFAULT_PROMPT, max_tokens=128, temperature=0.7, runs=2)] == (
        service.benchmark_orders
    )
    assert (MODEL, "scripted", 2, 128) == tuple(answer[name] for name in ("model_id", "backend_type", "runs", "max_tokens"))
    assert (5.0, 500.0, 2000.0) == tuple(
        answer[f"avg_{name}"] for name in ("tokens_per_second", "time_to_first_token_ms", "total_time_ms")
    )
    first, second = answer["results"]
    assert (1, 2, 10, 500.0, 2000.0, 5.0, 10.0) == (
        first["run"],
        second["run"],
        *(first[name] for name in ("tokens_generated", "time_to_first_token_ms", "total_time_ms", "tokens_per_second")),
        first["decode_tokens_per_second"],
    )
    assert answer["speculative"]["requested"] is False
    assert answer["speculative"]["acceptance_ratio"] is None


async def test_a_kept_benchmark_is_listed(client: httpx.AsyncClient, service: FedService) -> None:
    """The document itself, with the contract's defaults; the list is bare, and of one model where one is named."""
    kept = (await client.post(RUN, json={"model_id": MODEL})).json()

    assert [BenchmarkOrder(model_id=MODEL, max_tokens=200, temperature=0.0, runs=5, warmup_runs=1)] == service.benchmark_orders
    assert ("ok", 2, "ok") == (kept["status"], kept["stats"]["runs_completed"], kept["stats"]["coherence_flag"])
    assert [kept] == (await client.get(RESULTS)).json() == (await client.get(RESULTS, params={"model_id": MODEL})).json()
    assert [] == (await client.get(RESULTS, params={"model_id": "other"})).json()


async def test_an_autotune_answers_with_every_candidate(client: httpx.AsyncClient, service: FedService) -> None:
    """Candidates are tables like a load's overrides; the record is found by the predecessor's backend names, too."""
    profiles = [{"scheduler": {"max_num_seqs": 8}, "temperature": 0}, {}]
    answer = (await client.post(TUNE, json={"model_id": MODEL, "profiles": profiles, "runs": 2, "concurrency": 3})).json()

    wanted = (LoadProfile(slots=8, generation=GenerationDefaults(temperature=0)), LoadProfile())
    assert [TuneOrder(model_id=MODEL, runs=2, concurrency=3, profiles=wanted)] == service.tune_orders
    best = {"slots": 8, "temperature": 0}
    assert (best, 10.0) == (answer["best_profile"], answer["best_score"])
    metrics = {"avg_tokens_per_second", "avg_ttft_ms", "avg_total_ms", "error_rate", "queue_wait_ms"}
    assert metrics == set(answer["best_metrics"])
    (candidate,) = answer["candidates"]
    assert {"profile": best, "metrics": answer["best_metrics"], "score": 10.0, "error": None} == candidate

    record = f"/admin/models/{MODEL}/autotune"
    for query in ({}, {"backend": "gguf"}, {"backend": "llamacpp", "backend_version": "1"}):
        assert best == (await client.get(record, params=query)).json()["profile"]
    absent = await client.get(record, params={"backend_version": "2"})
    assert (404, "autotune_not_found") == (absent.status_code, absent.json()["error"]["code"])


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (BENCHMARK, {"runs": 6}, "runs"),
        (BENCHMARK, {"max_tokens": 4097}, "max_tokens"),
        (BENCHMARK, {"temperature": 3}, "temperature"),
        (BENCHMARK, {"model_id": "../x"}, "model_id"),
        (RUN, {"num_output_tokens": 49}, "num_output_tokens"),
        (RUN, {"runs": 21}, "runs"),
        (RUN, {"warmup_runs": 4}, "warmup_runs"),
        (RUN, {"prompt": ""}, "prompt"),
        (TUNE, {"concurrency": 0}, "concurrency"),
        (TUNE, {"profiles": {}}, "profiles"),
        (TUNE, {"profiles": [{}] * 17}, "profiles"),
        (TUNE, {"profiles": [{}, {"slotz": 1}]}, "profiles.1.slotz"),
        (TUNE, {"profiles": [{"slots": 0}]}, "profiles.0.slots"),
    ],
)
async def test_what_cannot_be_meant_is_refused(
    client: httpx.AsyncClient, service: FedService, path: str, fields: dict[str, Any], param: str
) -> None:
    """400 with the field's name, before anything is measured."""
    answer = await client.post(path, json={"model_id": MODEL, **fields})

    assert (400, param) == (answer.status_code, answer.json()["error"]["param"])
    assert [] == service.benchmark_orders == service.tune_orders


async def test_a_measurement_ends_with_the_client_that_asked_for_it(service: FedService) -> None:
    """Nobody else wants it, and it costs the other clients a place."""
    service.benchmark_gate.clear()
    request = Exchange(create_app(service), "POST", BENCHMARK, body=b'{"model_id":"m"}')
    request.disconnect()
    await request.done()

    assert service.benchmark_cancelled.is_set()
