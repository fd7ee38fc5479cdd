"""Request ids, routing failures, bugs and the log line."""

import logging
import subprocess
import sys

import httpx
import pytest

from lmx_supervisor.config.schema import Config, SecurityConfig
from tests.gateway.service import FedService

CHAT = {"model": "org/model", "messages": [{"role": "user", "content": "my secret prompt"}]}


async def test_a_sane_request_id_is_echoed(client: httpx.AsyncClient) -> None:
    """A client can find its request in our log by its own id."""
    response = await client.get("/healthz", headers={"X-Request-ID": "trace-1"})

    assert "trace-1" == response.headers["x-request-id"]


@pytest.mark.parametrize("offered", ["a b", "x" * 129, ""])
async def test_an_unusable_request_id_is_replaced(client: httpx.AsyncClient, offered: str) -> None:
    """What does not fit a log line is replaced by an id of ours."""
    response = await client.get("/healthz", headers={"X-Request-ID": offered})

    assert response.headers["x-request-id"].startswith("req-")


@pytest.mark.parametrize("path", ["/", "/nope", "/v1/nope", "/admin/nope", "/v1", "/v1/models/"])
async def test_an_unknown_route_is_404_in_the_envelope(client: httpx.AsyncClient, path: str) -> None:
    """No route answers in a framework's own words."""
    response = await client.get(path)

    assert 404 == response.status_code
    assert {"message", "type", "param", "code"} == set(response.json()["error"])
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "allow"), [("GET", "/v1/chat/completions", "POST"), ("PUT", "/healthz", "GET, HEAD")]
)
async def test_a_wrong_method_is_405_with_allow(client: httpx.AsyncClient, method: str, path: str, allow: str) -> None:
    """A wrong method is told which would be right."""
    response = await client.request(method, path)

    assert 405 == response.status_code
    assert set(allow.split(", ")) == set(response.headers["allow"].split(", "))
    assert "method_not_allowed" == response.json()["error"]["code"]


async def test_a_bug_is_a_500_without_internals(
    client: httpx.AsyncClient, service: FedService, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client gets a code and an id, the log gets the traceback."""

    def broken() -> None:
        raise ZeroDivisionError("internal detail")

    monkeypatch.setattr(service, "fleet", broken)

    response = await client.get("/v1/models")

    assert 500 == response.status_code
    assert "internal_error" == response.json()["error"]["code"]
    assert "internal detail" not in response.text
    assert any(record.exc_info for record in caplog.records)


async def test_one_log_line_per_request_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    """The line names model, status and time, and holds neither prompt nor key."""
    from lmx_supervisor.gateway.app import create_app

    service = FedService(Config(security=SecurityConfig(inference_api_key="the-key")))
    caplog.set_level(logging.INFO, logger="lmx.http")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(service)), base_url="http://lmx") as client:
        await client.post("/v1/chat/completions?key=the-key", json=CHAT, headers={"Authorization": "Bearer the-key"})
        await client.get("/healthz")

    (record,) = [record for record in caplog.records if record.name == "lmx.http"]
    assert ("POST", "/v1/chat/completions", 200, "org/model") == (
        record.__dict__["method"],
        record.__dict__["path"],
        record.__dict__["status"],
        record.__dict__["model"],
    )
    assert "the-key" not in str(record.__dict__)
    assert "my secret prompt" not in str(record.__dict__)


def test_the_gateway_does_not_import_zmq() -> None:
    """The gateway knows the service by its port only: sockets to workers are not its business."""
    probe = "import sys, lmx_supervisor.gateway.app, lmx_supervisor.gateway.listener; sys.exit('zmq' in sys.modules)"

    assert 0 == subprocess.run([sys.executable, "-c", probe], check=False, timeout=60).returncode
