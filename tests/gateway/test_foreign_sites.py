"""Host and Origin on a loopback service: what a browser sends for somebody else's page is refused, everything else passes."""

import httpx
import pytest

from lmx_supervisor.config.schema import Config, ServerConfig
from lmx_supervisor.gateway.app import create_app
from lmx_supervisor.gateway.foreign_sites import is_loopback
from tests.gateway.asgi import Exchange
from tests.gateway.service import FedService

LOOPBACK = Config()
NAMED = Config(server=ServerConfig(allowed_hosts=("lmx.home.arpa", "Studio.local")))
OPEN = Config(server=ServerConfig(host="0.0.0.0"))


async def status_of(config: Config, **headers: str) -> tuple[int, str | None]:
    """The answer to GET /v1/models with these headers: status and error code."""
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(FedService(config))), base_url="http://127.0.0.1"
    ) as client:
        response = await client.get("/v1/models", headers=headers)
    return response.status_code, response.json().get("error", {}).get("code")


@pytest.mark.parametrize(
    ("config", "host"),
    [
        (LOOPBACK, "localhost"),
        (LOOPBACK, "LocalHost:1234"),
        (LOOPBACK, "localhost."),
        (LOOPBACK, "127.0.0.1:1234"),
        (LOOPBACK, "[::1]:1234"),
        (Config(server=ServerConfig(host="127.0.0.2")), "127.0.0.2:1234"),
        (NAMED, "lmx.home.arpa"),
        (NAMED, "studio.local:80"),
        (OPEN, "anything.example"),
    ],
)
async def test_own_names_are_served(config: Config, host: str) -> None:
    """Every way to name this machine, the configured names, and any name at all where other machines may connect."""
    assert await status_of(config, Host=host) == (200, None)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:1234", "localhost.evil.example", "127.0.0.1.evil.example", "[bad", "", ":1", "ümlaut"],
)
async def test_a_name_pointed_here_by_somebody_else_is_refused(host: str) -> None:
    """DNS rebinding: the page's own host name arrives with the request, and gives it away."""
    assert await status_of(LOOPBACK, Host=host.encode()) == (403, "foreign_host")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "origin"),
    [
        (LOOPBACK, "http://localhost:3000"),
        (LOOPBACK, "http://127.0.0.1:1234"),
        (LOOPBACK, "tauri://localhost"),
        (NAMED, "https://lmx.home.arpa"),
        (OPEN, "https://evil.example"),
    ],
)
async def test_own_pages_may_call(config: Config, origin: str) -> None:
    """Pages served from this machine or from a configured name."""
    assert await status_of(config, Origin=origin) == (200, None)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example", "http://[", "https://"])
async def test_pages_of_other_sites_may_not_call(origin: str) -> None:
    """A page anywhere on the web cannot make its reader's browser use the models, nor load or unload them."""
    assert await status_of(LOOPBACK, Origin=origin) == (403, "foreign_origin")


async def test_a_client_that_names_no_host_is_no_browser() -> None:
    """HTTP/1.0 health checks send no Host, and no page can do that."""
    exchange = Exchange(create_app(FedService()), "GET", "/healthz")

    assert (await exchange.message())["status"] == 200
    await exchange.done()


async def test_another_server_that_listens_elsewhere_is_not_judged_by_our_default() -> None:
    """Under an ASGI server of the operator's choice, the address of the connection tells that it is no loopback service."""
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(FedService())), base_url="http://192.0.2.7"
    ) as client:
        assert (await client.get("/v1/models")).status_code == 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("192.168.1.2", False), ("studio.local", False)],
)  # fmt: skip
def test_what_the_loopback_is(host: str, expected: bool) -> None:
    """All of 127/8, ::1 and the name; a wildcard is not."""
    assert is_loopback(host) is expected
