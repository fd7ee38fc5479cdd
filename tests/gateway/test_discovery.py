"""GET /v1/discovery and /.well-known/opta-lmx: true, the same, and open to those who have no key yet."""

import sys
from typing import Any

import httpx
import msgspec
import pytest

from lmx_protocol.states import WorkerState
from lmx_supervisor.config.schema import Config, SecurityConfig, ServerConfig
from lmx_supervisor.gateway.app import create_app
from lmx_supervisor.gateway.discovery import endpoints, preferred_first
from lmx_supervisor.gateway.openapi.record_answers import DiscoveryOut
from lmx_supervisor.observe.own_addresses import own_addresses, reachable_names
from tests.gateway.asgi import Exchange
from tests.gateway.service import MODEL, FedService, worker_view

PATHS = ("/v1/discovery", "/.well-known/opta-lmx")


async def document(service: FedService, path: str = PATHS[0]) -> dict[str, Any]:
    """The document, asked for without a key."""
    exchange = Exchange(create_app(service), "GET", path)
    assert (await exchange.message())["status"] == 200
    body = await exchange.rest()
    await exchange.done()
    msgspec.json.decode(body, type=DiscoveryOut)
    return msgspec.json.decode(body)


async def test_both_places_say_the_same(service: FedService) -> None:
    """A client may look at either, and every documented field has its type."""
    first, second = [await document(service, path) for path in PATHS]

    assert first == second
    assert ("opta-lmx", "2026-03-02", True, [MODEL], 1, 1) == (
        first["service"],
        first["schema_version"],
        first["ready"],
        first["loaded_models"],
        first["loaded_model_count"],
        first["in_flight_requests"],
    )
    assert first["client_probe_order"] == ["/.well-known/opta-lmx", "/v1/discovery", "/healthz", "/v1/models"]
    assert first["hardware_summary"]["metal"] is (sys.platform == "darwin")


async def test_addresses_are_those_of_the_listener(service: FedService) -> None:
    """The port is the one the question came in on, whatever the configuration says."""
    said = await document(service)

    assert said["instance_id"].endswith(":2")
    assert said["endpoints"] == {
        "preferred_base_url": "http://127.0.0.1:2",
        "base_urls": ["http://127.0.0.1:2"],
        "openai_base_url": "http://127.0.0.1:2/v1",
        "admin_base_url": "http://127.0.0.1:2/admin",
        "websocket_url": "ws://127.0.0.1:2/v1/chat/stream",
    }


async def test_what_is_switched_off_is_not_promised() -> None:
    """No address of a WebSocket that would refuse, and no resuming of events that are not sent."""
    service = FedService(Config(server=ServerConfig(websocket_enabled=False, sse_events_enabled=False)))
    said = await document(service)

    assert (None, False) == (said["endpoints"]["websocket_url"], said["continuity"]["event_resume_supported"])


async def test_keys_are_asked_for_and_never_told() -> None:
    """A service with keys says which it wants; a cloud one does not say what it serves."""
    security = SecurityConfig(admin_key="hush-admin", inference_api_key="hush-key", profile="cloud")
    service = FedService(Config(security=security))
    said = await document(service)

    assert (True, True) == (said["auth"]["admin_key_required"], said["auth"]["inference_key_required"])
    assert ("cloud", [], 1) == (said["security_profile"], said["loaded_models"], said["loaded_model_count"])
    assert "hush" not in str(said)


async def test_a_service_that_cannot_answer_is_not_ready(service: FedService) -> None:
    """A model that is being loaded is not offered."""
    service.workers = [worker_view(state=WorkerState.LOADING)]
    said = await document(service)

    assert (False, []) == (said["ready"], said["loaded_models"])


@pytest.mark.parametrize("path", PATHS)
async def test_the_wrong_method_is_told_so_without_a_key(path: str) -> None:
    """405 with what it takes, although the rest of /v1 wants a key."""
    service = FedService(Config(security=SecurityConfig(inference_api_key="hush")))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(service)), base_url="http://localhost") as client:
        wrong = await client.post(path)
        neighbour = await client.get("/v1/discovery/more")

    assert (405, 401) == (wrong.status_code, neighbour.status_code)


def test_the_best_address_comes_first() -> None:
    """`*.local`, then private addresses, then any other, and the loopback last; IPv6 is written as a URL wants it."""
    hosts = ("127.0.0.1", "8.8.8.8", "lmx.example", "192.168.1.7", "studio.local", "fd00::1")
    ordered = preferred_first(hosts)

    assert ["studio.local", "192.168.1.7", "fd00::1", "8.8.8.8", "lmx.example", "127.0.0.1"] == ordered
    assert "ws://[fd00::1]:80/v1/chat/stream" == endpoints(["fd00::1"], 80, websocket=True)["websocket_url"]


def test_names_that_nobody_could_use_are_left_out() -> None:
    """Hardware and link-local addresses, a plain host name, and IPv6 where it is not listened on."""
    interfaces = ["127.0.0.1", "10.0.0.2", "02:42:ac:11:00:02", "fe80::1%eth0", "169.254.1.1", "fd00::1", "10.0.0.2"]

    assert ("127.0.0.1", "10.0.0.2") == reachable_names("box", interfaces, with_ipv6=False)
    assert ("box.local", "127.0.0.1", "10.0.0.2", "fd00::1") == reachable_names("box.local", interfaces, with_ipv6=True)
    assert ("10.1.2.3",) == own_addresses("10.1.2.3")
    assert "127.0.0.1" in own_addresses("0.0.0.0")
