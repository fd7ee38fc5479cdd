"""The probes tell the truth at each moment."""

import httpx
import pytest

from lmx_protocol.states import WorkerState
from lmx_supervisor.core.views import LoadProgressView, WorkerView
from lmx_supervisor.gateway.version import VERSION
from tests.gateway.service import FedService, worker_view

HALFWAY = LoadProgressView(phase="weights", done=43, total=100, unit="bytes")


async def test_healthz_is_ok_whatever_the_models_do(client: httpx.AsyncClient, service: FedService) -> None:
    """Liveness does not depend on any model."""
    service.workers = []

    assert {"status": "ok", "version": VERSION} == (await client.get("/healthz")).json()


async def test_readyz_is_ready_with_one_routable_model(client: httpx.AsyncClient, service: FedService) -> None:
    """One model that serves is enough, whatever another one does."""
    service.workers.append(worker_view("other", WorkerState.BACKOFF))

    response = await client.get("/readyz")

    assert (200, {"status": "ready", "version": VERSION, "models_loaded": 1}) == (response.status_code, response.json())


@pytest.mark.parametrize(
    ("workers", "reason"),
    [
        ([], "no models loaded"),
        ([worker_view("m", WorkerState.STOPPED)], "no models loaded"),
        ([worker_view("m", WorkerState.LOADING, progress=HALFWAY)], "loading m 43 %"),
        ([worker_view("m", WorkerState.SPAWNING)], "loading m"),
        ([worker_view("m", WorkerState.BACKOFF, restarts=1)], "restarting m"),
        ([worker_view("m", WorkerState.LOADING, restarts=1)], "restarting m"),
        ([worker_view("m", WorkerState.QUARANTINED)], "m is quarantined"),
        ([worker_view("m", WorkerState.FAILED), worker_view("n", WorkerState.WARMING)], "m failed; loading n"),
    ],
)
async def test_readyz_says_why_not(
    client: httpx.AsyncClient, service: FedService, workers: list[WorkerView], reason: str
) -> None:
    """503 with the reason that an operator would give."""
    service.workers = workers

    response = await client.get("/readyz")

    assert (503, {"status": "unavailable", "reason": reason}) == (response.status_code, response.json())


async def test_readyz_says_draining(client: httpx.AsyncClient, service: FedService) -> None:
    """A service that is stopping takes itself out of rotation though its models still serve."""
    service.draining = True

    assert "draining" == (await client.get("/readyz")).json()["reason"]
