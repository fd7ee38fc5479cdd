"""The client's address behind reverse proxies: the last hop nobody vouches for, and nothing a client can make up."""

import logging

import pytest

from lmx_supervisor.config.schema import Config, SecurityConfig
from lmx_supervisor.gateway.app import create_app
from lmx_supervisor.gateway.client_address import client_address
from tests.gateway.asgi import Exchange
from tests.gateway.service import FedService

TRUSTING = SecurityConfig(honor_x_forwarded_for=True, trusted_proxies=("10.0.0.0/8", "127.0.0.1", "fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["1.1.1.1", "198.51.100.7, 10.9.9.9"], "198.51.100.7"),
        ("10.0.0.1", ["10.2.2.2, 10.9.9.9"], "10.2.2.2"),
        ("10.0.0.1", ["198.51.100.7, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7, nonsense, 10.1.1.1"], "10.1.1.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7:4711"], "198.51.100.7"),
        ("10.0.0.1", ["[2001:db8::7]:4711"], "2001:db8::7"),
        ("fd00::1", ["2001:db8::7"], "2001:db8::7"),
        ("::ffff:10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["1.1.1.1," * 5000 + "198.51.100.7"], "198.51.100.7"),
    ],
)
def test_the_last_hop_that_is_no_trusted_proxy(peer: str, forwarded: list[str], address: str) -> None:
    """Read from the right, and only as far as trusted proxies vouch for it."""
    headers = [(b"x-forwarded-for", line.encode()) for line in forwarded]

    assert client_address({"client": (peer, 1), "headers": headers}, TRUSTING) == address


def test_nothing_is_believed_unless_configured() -> None:
    """The header alone, and a proxy that is only named, change nothing; a Unix socket has no address."""
    headers = [(b"x-forwarded-for", b"198.51.100.7")]
    for security in (SecurityConfig(), SecurityConfig(trusted_proxies=("10.0.0.1",))):
        assert client_address({"client": ("10.0.0.1", 1), "headers": headers}, security) == "10.0.0.1"
    assert client_address({"client": None, "headers": headers}, TRUSTING) is None


@pytest.mark.live_keys("security.honor_x_forwarded_for", "security.trusted_proxies")
@pytest.mark.parametrize(
    "before",
    [
        SecurityConfig(trusted_proxies=TRUSTING.trusted_proxies),
        SecurityConfig(honor_x_forwarded_for=True, trusted_proxies=("192.0.2.1",)),
    ],
)
async def test_the_log_has_the_address_and_follows_a_reload(caplog: pytest.LogCaptureFixture, before: SecurityConfig) -> None:
    """Each request's line says where it came from, by the proxies that are trusted then, if any is."""
    caplog.set_level(logging.INFO, logger="lmx.http")
    service = FedService()
    app = create_app(service)
    for security in (before, TRUSTING):
        service.config = Config(security=security)
        request = Exchange(app, "GET", "/v1/models", headers={"X-Forwarded-For": "198.51.100.7"}, peer="10.0.0.1")
        await request.message()
        await request.rest()
        await request.done()

    assert [record.client_address for record in caplog.records] == ["10.0.0.1", "198.51.100.7"]  # type: ignore[attr-defined]  # an extra field
