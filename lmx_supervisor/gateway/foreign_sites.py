"""Web pages of other sites may not use a service on the loopback: what a browser says about where a request comes from.

A service that listens on the loopback trusts whoever is on this machine, and a browser is on this machine: any page can send it
requests (which then carry a foreign `Origin`), and a page whose name was re-pointed to 127.0.0.1 can read the answers too
(which then carry a foreign `Host`). Both are refused, but for the sites in `security.cors_allowed_origins`. Does not cover
services that other machines may reach: their names are not known here, and keys protect them. A WebSocket is refused there too
when its page is of none of the configured sites: browsers leave that to the server.
"""

import ipaddress
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from lmx_supervisor.config.schema import Config, ServerConfig
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.problem import CLOSE, EdgeCode, Problem

ANY_ORIGIN = "*"
_OWN_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class RefuseForeignSites:
    """Middleware: on the loopback, requests for or from a site that is not ours get 403."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, then pass on. Raises `Problem`."""
        config = self._service.config
        if scope["type"] in ("http", "websocket"):
            if is_for_this_machine(scope, config.server):
                _check(scope, config)
            elif scope["type"] == "websocket" and config.security.cors_allowed_origins:
                _check_page(scope, config)
        await self._app(scope, receive, send)


def is_for_this_machine(scope: Scope, server: ServerConfig) -> bool:
    """Whether the service is reached on the loopback only."""
    # Under somebody else's ASGI server the configuration does not say where that listens; the connection does.
    return is_loopback(server.host) and bool(scope.get("server")) and is_loopback(scope["server"][0])


def is_own_origin(origin: bytes, server: ServerConfig) -> bool:
    """Whether a page comes from this machine, or from a host that was named as its own."""
    return _is_ours(_host_of(origin), server)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address or name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _check(scope: Scope, config: Config) -> None:
    for name, value in scope["headers"]:
        if name == b"host":
            host = _host_of(b"//" + value)
            if not _is_ours(host, config.server):
                text = f"This service is not '{host or ''}': use localhost, or add the name to server.allowed_hosts."
                raise Problem(EdgeCode.FOREIGN_HOST, text, headers=CLOSE)
        elif name == b"origin" and not is_own_origin(value, config.server):
            _check_origin(value, config)


def _check_page(scope: Scope, config: Config) -> None:
    """Of a service that other machines reach: its own pages, whose origin is the host they ask, and those of named sites."""
    headers = dict(scope["headers"])
    origin = headers.get(b"origin")
    if origin is not None and _host_of(origin) != _host_of(b"//" + headers.get(b"host", b"")):
        _check_origin(origin, config)


def _check_origin(origin: bytes, config: Config) -> None:
    allowed = config.security.cors_allowed_origins
    if ANY_ORIGIN not in allowed and origin.decode("latin-1") not in allowed:
        text = "Pages of other sites may not use this service. To allow one, add it to security.cors_allowed_origins."
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
