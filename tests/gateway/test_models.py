"""GET /v1/models: what can be routed to, and nothing else."""

import httpx
import pytest

from lmx_protocol.states import WorkerState
from tests.gateway.service import MODEL, FedService, worker_view


async def test_only_routable_models_are_listed(client: httpx.AsyncClient, service: FedService) -> None:
    """A model that is still warming is not offered to clients."""
    service.workers.append(worker_view("warming", WorkerState.WARMING))

    listing = (await client.get("/v1/models")).json()

    assert {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 11, "owned_by": "local"}]} == listing


@pytest.mark.parametrize("path", ["/v1/models/org/model", "/v1/models/org%2Fmodel"])
async def test_an_id_with_a_slash_works_raw_and_encoded(client: httpx.AsyncClient, path: str) -> None:
    """Clients send slashes either way."""
    assert MODEL == (await client.get(path)).json()["id"]


async def test_an_unknown_model_is_404(client: httpx.AsyncClient) -> None:
    """The message says how to load it."""
    response = await client.get("/v1/models/other")

    assert (404, "model_not_found") == (response.status_code, response.json()["error"]["code"])
    assert "/admin/models/load" in response.json()["error"]["message"]
