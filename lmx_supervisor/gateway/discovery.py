"""GET /v1/discovery and /.well-known/opta-lmx: what a client has to know before it has a key. Both say the same.

Whoever reaches the port may read it, so it names models only where the profile is for a network of friends. Announcing the
service by multicast is not done: the library for that is under a licence that this project does not take in.
"""

import ipaddress
import socket
import sys
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from lmx_supervisor.config.schema import inference_needs_key
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.admin.units import gigabytes
from lmx_supervisor.gateway.probes import routable, unready_reason
from lmx_supervisor.gateway.responses import json_response
from lmx_supervisor.gateway.version import VERSION
from lmx_supervisor.observe.hardware import chip_name
from lmx_supervisor.observe.own_addresses import own_addresses

SCHEMA_VERSION = "2026-03-02"
"""Of the document; the predecessor's readers compare it."""

_PROBE_ORDER = ("/.well-known/opta-lmx", "/v1/discovery", "/healthz", "/v1/models")


class Discovery:
    """The two routes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def show(self, request: Request) -> Response:
        """The document at this moment."""
        config, fleet, status = self._service.config, self._service.fleet(), self._service.status()
        server, security = config.server, config.security
        models = [worker.model_id for worker in routable(fleet)]
        port = _port_of(request) or server.port
        return json_response(
            {
                "schema_version": SCHEMA_VERSION,
                "instance_id": f"{socket.gethostname()}:{port}",
                "continuity": {"event_resume_supported": server.sse_events_enabled},
                "service": "opta-lmx",
                "version": VERSION,
                "security_profile": security.profile,
                "ready": unready_reason(fleet) is None,
                "loaded_models": models if security.profile == "lan" else [],
                "loaded_model_count": len(models),
                "in_flight_requests": fleet.requests_in_flight,
                "auth": {
                    "admin_key_required": security.admin_key is not None,
                    "inference_key_required": inference_needs_key(security),
                    "supabase_jwt_enabled": security.supabase_jwt_enabled,
                },
                "endpoints": endpoints(preferred_first(own_addresses(server.host)), port, websocket=server.websocket_enabled),
                "client_probe_order": _PROBE_ORDER,
                "hardware_summary": {
                    "chip": chip_name(),
                    "memory_gb": gigabytes(status.memory.total_bytes),
                    "metal": sys.platform == "darwin",
                },
            }
        )


def preferred_first(hosts: tuple[str, ...]) -> list[str]:
    """Hosts in the order in which another machine should try them: `*.local`, private addresses, others, the loopback. Pure."""
    return sorted(hosts, key=_rank)


def endpoints(hosts: list[str], port: int, *, websocket: bool) -> dict[str, Any]:
    """Where the interfaces are, the best place first. Pure."""
    bases = [f"//{_in_url(host)}:{port}" for host in hosts]
    preferred = f"http:{bases[0]}"
    return {
        "preferred_base_url": preferred,
        "base_urls": [f"http:{base}" for base in bases],
        "openai_base_url": f"{preferred}/v1",
        "admin_base_url": f"{preferred}/admin",
        "websocket_url": f"ws:{bases[0]}/v1/chat/stream" if websocket else None,
    }


def _rank(host: str) -> int:
    if host.endswith(".local"):
        return 0
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return 3 if host == "localhost" else 2
    if address.is_loopback:
        return 3
    return 1 if address.is_private else 2


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _port_of(request: Request) -> int | None:
    """The port that this very connection came in on; the configured one may have been 0."""
    server = request.scope.get("server")
    return server[1] if server else None
