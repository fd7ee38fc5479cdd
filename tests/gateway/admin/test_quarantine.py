"""POST /admin/quarantine/clear."""

from typing import Any

import httpx
import pytest

from lmx_protocol.states import WorkerState
from tests.gateway.service import MODEL, FedService, worker_view

CLEAR = "/admin/quarantine/clear"


@pytest.mark.parametrize(("model_id", "released"), [("bad", ["bad"]), (None, ["bad", "worse"])])
async def test_one_or_all_are_released(
    client: httpx.AsyncClient, service: FedService, model_id: str | None, released: list[str]
) -> None:
    """The answer names what was released; null means everything."""
    service.workers += [worker_view("bad", WorkerState.QUARANTINED), worker_view("worse", WorkerState.QUARANTINED)]

    response = await client.post(CLEAR, json={"model_id": model_id})

    assert {"success": True, "released": released} == response.json()


async def test_what_is_not_quarantined_is_not_found(client: httpx.AsyncClient) -> None:
    """A healthy model cannot be released."""
    response = await client.post(CLEAR, json={"model_id": MODEL})

    assert (404, "model_not_found") == (response.status_code, response.json()["error"]["code"])


@pytest.mark.parametrize("body", [{}, {"model": "bad"}, {"model_id": 7}, {"model_id": "../x"}])
async def test_what_cannot_be_meant_releases_nothing(
    client: httpx.AsyncClient, service: FedService, body: dict[str, Any]
) -> None:
    """A misspelt field must not be taken for "all of them"."""
    response = await client.post(CLEAR, json=body)

    assert (400, "model_id") == (response.status_code, response.json()["error"]["param"])
    assert [] == service.cleared
