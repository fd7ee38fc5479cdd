"""GET /admin/stack and /admin/device: aliases and where they lead, backends, and the machine."""

import os
import platform

import httpx
import pytest

from lmx_protocol.states import WorkerState
from lmx_supervisor.config.schema import Config, DeviceConfig, RoutingConfig
from lmx_supervisor.observe.metal import metal_family
from tests.gateway.service import FedService, worker_view


async def test_the_stack_shows_where_every_alias_leads(client: httpx.AsyncClient, service: FedService) -> None:
    """The same decision as for a request: what answers now before what is coming; `loaded` says which it is."""
    aliases = {"code": ("gone", "loading", "ready"), "slow": ("loading",), "chat": (), "lost": ("gone",)}
    service.config = Config(routing=RoutingConfig(aliases=aliases, default_model="ready"))
    service.workers = [worker_view("loading", WorkerState.LOADING), worker_view("ready")]

    stack = (await client.get("/admin/stack")).json()

    assert {
        "code": {"preferences": ["gone", "loading", "ready"], "resolved_model": "ready", "loaded": True},
        "slow": {"preferences": ["loading"], "resolved_model": "loading", "loaded": False},
        "chat": {"preferences": [], "resolved_model": None, "loaded": False},
        "lost": {"preferences": ["gone"], "resolved_model": None, "loaded": False},
    } == stack["roles"]
    assert (["ready"], "ready", {}, {}) == (
        stack["loaded_models"],
        stack["default_model"],
        stack["helper_nodes"],
        stack["stack_presets"],
    )
    assert {"scripted": {"models": ["loading", "ready"], "warm_spares": 0}} == stack["backends"]


async def test_the_device_is_this_machine_with_the_name_it_was_given(client: httpx.AsyncClient, service: FedService) -> None:
    """Facts from the system, identity from the configuration in force; without a name the host's own."""
    unnamed = (await client.get("/admin/device")).json()
    service.config = Config(device=DeviceConfig(name="studio", purpose="code", role="spare"))
    named = (await client.get("/admin/device")).json()

    hardware = unnamed["hardware"]
    assert (8.0, os.cpu_count(), platform.machine()) == tuple(
        hardware[name] for name in ("memory_gb", "cpu_cores", "architecture")
    )
    assert {"name": hardware["hostname"], "purpose": "", "role": "inference_server"} == unnamed["identity"]
    assert {"name": "studio", "purpose": "code", "role": "spare"} == named["identity"]


@pytest.mark.parametrize(
    ("chip", "family"),
    [
        ("Apple M1", "apple7"),
        ("Apple M2 Ultra", "apple8"),
        ("Apple M3 Max", "apple9"),
        ("Apple M99", None),
        ("Xeon", None),
        (None, None),
    ],
)
def test_the_family_of_a_gpu(chip: str | None, family: str | None) -> None:
    """By the generation in the chip's name; a newer chip than the table is not guessed."""
    assert family == metal_family(chip)
