from collections.abc import AsyncIterator

import httpx
import pytest

from lmx_supervisor.gateway.app import create_app
from tests.gateway.service import FedService


@pytest.fixture
async def service() -> FedService:
    """A service in memory with one routable model that says Hello."""
    return FedService()


@pytest.fixture
async def client(service: FedService) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the gateway, without a socket."""
    transport = httpx.ASGITransport(create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://lmx") as connected:
        yield connected
