"""GET /admin/stack and /admin/device: which model answers to which name, and what it all runs on."""

import os
import platform
import socket
import sys
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from lmx_supervisor.core.routing import route, served_models
from lmx_supervisor.core.service import Service
from lmx_supervisor.core.views import FleetView
from lmx_supervisor.gateway.admin.units import gigabytes
from lmx_supervisor.gateway.model_choice import aliases_of
from lmx_supervisor.gateway.probes import routable
from lmx_supervisor.gateway.responses import json_response
from lmx_supervisor.observe.hardware import chip_name
from lmx_supervisor.observe.metal import metal_family


class AdminStack:
    """The two routes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def stack(self, _: Request) -> Response:
        """Every alias with the models it stands for and the one it leads to now."""
        config, fleet = self._service.config, self._service.fleet()
        return json_response(
            {
                "roles": self._roles(fleet),
                "helper_nodes": {},
                "loaded_models": [worker.model_id for worker in routable(fleet)],
                "default_model": config.routing.default_model,
                "backends": _backends(fleet),
                "stack_presets": {},
            }
        )

    def _roles(self, fleet: FleetView) -> dict[str, dict[str, Any]]:
        config, aliases = self._service.config, aliases_of(self._service)
        served = served_models(fleet, wait_seconds=config.models.semaphore_timeout_sec)
        loaded = {worker.model_id for worker in routable(fleet)}
        roles = {}
        for alias, preferences in aliases.items():
            # Where a request for the alias would go, whatever a model may be called by the same name.
            found = route(alias, aliases, config.routing.default_model, served)
            resolved = found.model_id if found.unserved is None else None
            roles[alias] = {"preferences": preferences, "resolved_model": resolved, "loaded": resolved in loaded}
        return roles

    async def device(self, _: Request) -> Response:
        """This machine, and what it is for. What the system does not tell is null."""
        device, chip, machine = self._service.config.device, chip_name(), platform.machine()
        is_metal = sys.platform == "darwin" and machine == "arm64"
        hostname = socket.gethostname()
        return json_response(
            {
                "hardware": {
                    "hostname": hostname,
                    "chip_name": chip,
                    "architecture": machine,
                    "memory_gb": gigabytes(self._service.status().memory.total_bytes),
                    # Only Metal itself knows, and the supervisor never loads it.
                    "max_working_set_gb": None,
                    "cpu_cores": os.cpu_count(),
                    "metal_available": is_metal,
                    "gpu_family": metal_family(chip) if is_metal else None,
                },
                "identity": {"name": device.name or hostname, "purpose": device.purpose, "role": device.role},
            }
        )


def _backends(fleet: FleetView) -> dict[str, dict[str, Any]]:
    """The backends in use: the models on each, and how many workers wait for the next."""
    names = sorted({worker.backend for worker in fleet.workers} | {spare.backend for spare in fleet.spares})
    return {
        name: {
            "models": [worker.model_id for worker in fleet.workers if worker.backend == name],
            "warm_spares": sum(spare.backend == name and spare.warm for spare in fleet.spares),
        }
        for name in names
    }
