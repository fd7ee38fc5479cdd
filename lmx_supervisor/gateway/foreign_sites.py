"""Web pages of other sites may not use a service on the loopback: what a browser says about where a request comes from.

A service that listens on the loopback trusts whoever is on this machine, and a browser is on this machine: any page can send it
requests (which then carry a foreign `Origin`), and a page whose name was re-pointed to 127.0.0.1 can read the answers too
(which then carry a foreign `Host`). Both are refused. Does not cover services that other machines may reach: their names are
not known here, and keys protect them.
"""

import ipaddress
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from lmx_supervisor.config.schema import ServerConfig
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.problem import CLOSE, EdgeCode, Problem

_OWN_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class RefuseForeignSites:
    """Middleware: on the loopback, requests for or from a site that is not ours get 403."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, then pass on. Raises `Problem`."""
        if scope["type"] in ("http", "websocket"):
            server = self._service.config.server
            # Under somebody else's ASGI server the configuration does not say where that listens; the connection does.
            if is_loopback(server.host) and scope.get("server") and is_loopback(scope["server"][0]):
                _check(scope, server)
        await self._app(scope, receive, send)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address or name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _check(scope: Scope, server: ServerConfig) -> None:
    for name, value in scope["headers"]:
        if name == b"host":
            host = _host_of(b"//" + value)
            if not _is_ours(host, server):
                text = f"This service is not '{host or ''}': use localhost, or add the name to server.allowed_hosts."
                raise Problem(EdgeCode.FOREIGN_HOST, text, headers=CLOSE)
        elif name == b"origin" and not _is_ours(_host_of(value), server):
            text = "Pages of other sites may not use this service. To allow one, add its host to server.allowed_hosts."
            raise Problem(EdgeCode.FOREIGN_ORIGIN, text, headers=CLOSE)


def _is_ours(host: str | None, server: ServerConfig) -> bool:
    return host is not None and (host in _OWN_NAMES or host in {name.lower() for name in (server.host, *server.allowed_hosts)})


def _host_of(url: bytes) -> str | None:
    """The host of an origin or of `//host:port`, in lower case and without a port; None when there is none."""
    try:
        host = urlsplit(url.decode("ascii")).hostname
    except ValueError:
        return None
    return host.removesuffix(".") if host else None
