"""Load shedding: what is refused while the host's memory is nearly used up, and what is not."""

import httpx
import pytest

from tests.gateway.service import FedService

CHAT = {"model": "org/model", "messages": [{"role": "user", "content": "hi"}]}


async def test_requests_are_refused_while_the_host_is_too_full(client: httpx.AsyncClient, service: FedService) -> None:
    """In the runbook's words, with the time to wait; counted; and served again when the pressure is gone."""
    service.is_shedding = True
    refused = await client.post("/v1/chat/completions", json=CHAT)
    service.is_shedding = False
    served = await client.post("/v1/chat/completions", json=CHAT)

    error = {"message": "Server under memory pressure", "type": "server_error", "param": None, "code": "overloaded"}
    assert (503, "30", {"error": error}) == (refused.status_code, refused.headers["Retry-After"], refused.json())
    assert refused.headers["X-Request-ID"]
    assert (200, 1) == (served.status_code, service.shed)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/healthz", None),
        ("GET", "/readyz", None),
        ("GET", "/admin/health", None),
        ("POST", "/admin/models/unload", {"model_id": "org/model"}),
        ("GET", "/admin/memory", None),
        ("GET", "/admin/models", None),
        ("POST", "/admin/config/reload", None),
        ("GET", "/admin/metrics", None),
    ],
)
async def test_what_relieves_or_explains_the_pressure_is_let_in(
    client: httpx.AsyncClient, service: FedService, method: str, path: str, body: dict[str, str] | None
) -> None:
    """The probes, and the calls with which an operator gets out of it."""
    service.is_shedding = True

    assert 200 == (await client.request(method, path, json=body)).status_code
    assert 0 == service.shed


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/admin/models/load"),
        ("POST", "/admin/models"),
        ("GET", "/admin/models/available"),
        ("GET", "/admin/status"),
        ("GET", "/v1/models"),
        ("GET", "/admin/memory/"),
        ("GET", "/nowhere"),
    ],
)
async def test_everything_else_is_refused(client: httpx.AsyncClient, service: FedService, method: str, path: str) -> None:
    """Unknown routes too: nothing is looked up for them."""
    service.is_shedding = True

    assert 503 == (await client.request(method, path, json={})).status_code


async def test_health_says_that_requests_are_shed(client: httpx.AsyncClient, service: FedService) -> None:
    """The one place an operator may ask meanwhile names the reason."""
    service.is_shedding, service.memory_percent = True, 96.5

    assert "memory usage is 96.5 %, requests are shed" == (await client.get("/admin/health")).json()["reason"]
