"""Keys: which opens what."""

import httpx
import pytest

from lmx_supervisor.config.schema import Config, SecurityConfig
from lmx_supervisor.gateway.app import create_app
from lmx_supervisor.gateway.auth import may_administer, may_infer
from tests.gateway.service import FedService

BOTH = SecurityConfig(admin_key="admin", inference_api_key="kéy")


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
    assert expected == may_infer(headers, BOTH)


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
    assert expected == may_administer(headers, BOTH)


def test_a_half_without_a_key_is_open() -> None:
    """Each half is locked by its own key only."""
    assert may_infer([], SecurityConfig(admin_key="admin"))
    assert may_administer([], SecurityConfig(inference_api_key="key"))


async def test_refusals_keep_the_runbooks_words() -> None:
    """401 and 403 say what operators' scripts look for, on unknown routes too, and the probes stay open."""
    transport = httpx.ASGITransport(create_app(FedService(Config(security=BOTH))))
    async with httpx.AsyncClient(transport=transport, base_url="http://lmx") as client:
        inference = await client.get("/v1/models")
        unknown = await client.get("/v1/unknown")
        admin = await client.get("/admin/status", headers={"X-Api-Key": "kéy".encode()})
        probe = await client.get("/readyz")

    assert (401, "Invalid or missing API key", "invalid_api_key") == (inference.status_code, *_words(inference))
    assert 401 == unknown.status_code
    assert (403, "Invalid or missing admin key", "invalid_admin_key") == (admin.status_code, *_words(admin))
    assert 200 == probe.status_code


async def test_keys_are_read_per_request() -> None:
    """A key that was changed by a reload counts from the next request on."""
    service = FedService(Config(security=SecurityConfig(inference_api_key="old")))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(service)), base_url="http://lmx") as client:
        before = await client.get("/v1/models", headers={"X-Api-Key": "old"})
        service.config = Config(security=SecurityConfig(inference_api_key="new"))
        after = await client.get("/v1/models", headers={"X-Api-Key": "old"})

    assert (200, 401) == (before.status_code, after.status_code)


def _words(response: httpx.Response) -> tuple[str, str]:
    error = response.json()["error"]
    return error["message"], error["code"]
