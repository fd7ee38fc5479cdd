"""Keys: which opens what."""

import hashlib

import httpx
import pytest

from lmx_supervisor.config.schema import Config, NamedKey, SecurityConfig
from lmx_supervisor.gateway.app import create_app
from lmx_supervisor.gateway.key_ring import KeyRing
from tests.gateway.service import FedService

BOTH = SecurityConfig(admin_key="admin", inference_api_key="kéy")
NOTHING = hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], False),
        ([(b"authorization", "Bearer kéy".encode())], True),
        ([(b"authorization", "bearer   kéy ".encode())], True),
        ([(b"authorization", "Basic kéy".encode())], False),
        ([(b"authorization", b"Bearer ")], False),
        ([(b"authorization", b"Bearer k\xff")], False),
        ([(b"x-api-key", "kéy".encode())], True),
        ([(b"x-api-key", b"admin")], True),
        ([(b"x-admin-key", b"admin")], True),
        ([(b"authorization", b"Bearer admin")], True),
        ([(b"x-admin-key", "kéy".encode())], False),
    ],
)
def test_who_may_infer(headers: list[tuple[bytes, bytes]], expected: bool) -> None:
    """The inference key opens `/v1` in its two headers, the admin key in all three; nothing else does."""
    assert expected == (KeyRing(BOTH).inference_caller(headers) is not None)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], False),
        ([(b"x-admin-key", b"admin")], True),
        ([(b"x-api-key", b"admin")], False),
        ([(b"x-admin-key", "kéy".encode())], False),
        ([(b"x-admin-key", b"")], False),
    ],
)
def test_who_may_administer(headers: list[tuple[bytes, bytes]], expected: bool) -> None:
    """Only the admin key in its own header opens `/admin`."""
    assert expected == KeyRing(BOTH).may_administer(headers)


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ([(b"authorization", b"Bearer k-alice")], "alice"),
        ([(b"x-api-key", b"k-alice")], "alice"),
        ([(b"x-api-key", b"k-bob")], "bob"),
        ([(b"x-api-key", b"k-bob"), (b"authorization", b"Bearer nonsense")], "bob"),
        ([(b"x-admin-key", b"k-bob")], None),
        ([(b"x-api-key", hashlib.sha256(b"k-bob").hexdigest().encode())], None),
        ([(b"x-api-key", b"")], None),
        ([], None),
    ],
)
def test_a_named_key_is_known_by_its_name(headers: list[tuple[bytes, bytes]], name: str | None) -> None:
    """Written as itself or as its hash; the hash is no key, and the hash of nothing lets nobody in."""
    keys = {
        "alice": NamedKey(key="k-alice"),
        "bob": NamedKey(key_sha256=hashlib.sha256(b"k-bob").hexdigest()),
        "nobody": NamedKey(key_sha256=NOTHING),
    }
    caller = KeyRing(SecurityConfig(inference_keys=keys)).inference_caller(headers)

    assert name == (caller.name if caller is not None else None)


async def test_a_half_without_a_key_is_open() -> None:
    """Each half is locked by its own keys only."""
    assert 200 == await status_of(SecurityConfig(admin_key="admin"), "/v1/models")
    assert 200 == await status_of(SecurityConfig(inference_api_key="key"), "/admin/status")
    assert 401 == await status_of(SecurityConfig(inference_keys={"alice": NamedKey(key="k")}), "/v1/models")


async def status_of(security: SecurityConfig, path: str) -> int:
    """The answer to a request without a key."""
    transport = httpx.ASGITransport(create_app(FedService(Config(security=security))))
    async with httpx.AsyncClient(transport=transport, base_url="http://lmx") as client:
        return (await client.get(path)).status_code


@pytest.mark.live_keys("security.inference_api_key")
async def test_keys_are_read_per_request() -> None:
    """A key that was changed by a reload counts from the next request on."""
    service = FedService(Config(security=SecurityConfig(inference_api_key="old")))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(service)), base_url="http://lmx") as client:
        before = await client.get("/v1/models", headers={"X-Api-Key": "old"})
        service.config = Config(security=SecurityConfig(inference_api_key="new"))
        after = await client.get("/v1/models", headers={"X-Api-Key": "old"})

    assert (200, 401) == (before.status_code, after.status_code)
