"""Which pages of other sites may use the service: the headers by which browsers let them (CORS), by Starlette's middleware.

Two layers, because of what lies between them. The outer one adds the headers to every answer, errors included; the inner one,
behind the request's id and the check for foreign sites, answers the question that browsers ask before a request (preflight),
for which there is never a key. Nothing here asks for credentials: a page has to know a key to use one.
"""

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from lmx_supervisor.config.schema import Config
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.foreign_sites import ANY_ORIGIN, is_for_this_machine, is_own_origin
from lmx_supervisor.gateway.problem import EdgeCode, Problem

_METHODS = ("GET", "HEAD", "POST", "DELETE")
_EXPOSED = (
    "X-Request-ID", "Request-ID", "Retry-After", "WWW-Authenticate", "RateLimit", "RateLimit-Policy", "X-RateLimit-Limit",
    "X-RateLimit-Remaining", "X-RateLimit-Reset",
)  # fmt: skip
"""What a page may read of the answer beside its body and type."""

_OK = 200


class TellBrowsers:
    """Middleware: answers to pages that may use the service say so."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on; the headers are added to what comes back."""
        rules = _rules_for(scope, self._app, self._service.config) if scope["type"] == "http" else None
        if rules is None:
            await self._app(scope, receive, send)
        else:
            await rules.simple_response(scope, receive, send, request_headers=Headers(scope=scope))


class AnswerPreflights:
    """Middleware: says which requests pages may send, before anybody is asked for a key."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a preflight, pass on everything else. Raises `Problem` (403)."""
        if not _is_preflight(scope):
            await self._app(scope, receive, send)
            return
        rules = _rules_for(scope, self._app, self._service.config)
        answer = rules.preflight_response(Headers(scope=scope)) if rules is not None else None
        if answer is None or answer.status_code != _OK:
            text = "Pages of this site may not send that request. To allow them, add the site to security.cors_allowed_origins."
            raise Problem(EdgeCode.FOREIGN_ORIGIN, text)
        await answer(scope, receive, send)


def _is_preflight(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] != "OPTIONS":
        return False
    headers = Headers(scope=scope)
    return "origin" in headers and "access-control-request-method" in headers


def _rules_for(scope: Scope, app: ASGIApp, config: Config) -> CORSMiddleware | None:
    """Starlette's middleware for this request; None where no page has to be told anything."""
    origin = Headers(scope=scope).get("origin")
    origins = _allowed_origins(scope, origin, config) if origin is not None else ()
    if not origins:
        return None
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=_METHODS,
        allow_headers=(ANY_ORIGIN,),
        expose_headers=_EXPOSED,
        # Asked when a page from the internet wants to talk to this network: only sites that were named may.
        allow_private_network=bool(config.security.cors_allowed_origins),
    )


def _allowed_origins(scope: Scope, origin: str, config: Config) -> tuple[str, ...]:
    """The sites whose pages may read answers: the configured ones, and on the loopback this machine's own.

    In the lan profile, without any configured, a service that other machines reach is for the pages of all sites, as it was in
    the predecessor.
    """
    configured = config.security.cors_allowed_origins
    if is_for_this_machine(scope, config.server):
        return (*configured, origin) if is_own_origin(origin.encode("latin-1"), config.server) else configured
    return configured or ((ANY_ORIGIN,) if config.security.profile == "lan" else ())
