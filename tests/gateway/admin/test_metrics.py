"""GET /admin/metrics, and where requests say that they come from."""

import httpx
import msgspec
import pytest

from lmx_supervisor.core.service import Origin
from tests.gateway.service import MODEL, FedService


async def test_the_scrape_is_prometheus_text(service: FedService, client: httpx.AsyncClient) -> None:
    """The service's text goes out as it is, with the content type of format 0.0.4."""
    service.metrics_text = b"lmx_up 1\n"
    answer = await client.get("/admin/metrics")
    assert (answer.status_code, answer.content) == (200, b"lmx_up 1\n")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(
    ("headers", "stream", "origin"),
    [
        ({}, False, Origin()),
        ({"X-Client-ID": "me"}, True, Origin(client_id="me", stream=True)),
        ({"X-OpenClaw-Agent-ID": "agent"}, False, Origin(client_id="agent")),
        ({"X-OpenClaw-Agent-ID": "agent", "X-Client-ID": "me"}, False, Origin(client_id="me")),
    ],
)
async def test_a_request_says_who_asks(
    service: FedService, client: httpx.AsyncClient, headers: dict[str, str], stream: bool, origin: Origin
) -> None:
    """What the client calls itself, and whether it wants a stream, reach the service with the request."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "stream": stream}
    answer = await client.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200
    assert service.origins == [msgspec.structs.replace(origin, address="127.0.0.1")]
