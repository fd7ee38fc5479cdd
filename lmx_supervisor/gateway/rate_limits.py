"""How often a caller may ask below `/v1`: which limits are for a request, whose they are, and how they are told.

A key with a name has limits of its own, or those of the configuration for itself; everybody else has those of the
configuration, together where they share a key, by their address where none is needed. The admin key has none.
"""

import ipaddress
from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmx_protocol.errors import ErrorCode
from lmx_supervisor.config.rate_limits import RateLimit, parsed_limits
from lmx_supervisor.config.schema import SecurityConfig, inference_needs_key
from lmx_supervisor.core.service import Service, TurnedAway
from lmx_supervisor.gateway.callers import Caller, caller_of
from lmx_supervisor.gateway.moving_windows import Count, MovingWindows
from lmx_supervisor.gateway.problem import Problem

_CONVERSATIONS = frozenset({"/v1/chat/completions", "/v1/chat/stream", "/v1/messages", "/v1/responses"})
_EMBEDDINGS = "/v1/embeddings"
_MINUTE_SECONDS = 60
_IPV6_SITE_BITS = 64
"""What one customer of a provider has: who has one address of it has all."""


class RateLimits:
    """The limits of one application."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._windows = MovingWindows()

    def take(self, scope: Scope) -> Mapping[str, str]:
        """Count one request of a known caller; what its answer should tell of it. Raises `Problem` (429)."""
        security, caller = self._service.config.security, caller_of(scope)
        name, limits = _limits_for(caller, scope["path"], security)
        if not limits:
            return {}
        within, counts = self._windows.take(f"{name} {_whose(caller, scope, security)}", limits)
        scarcest = min(counts, key=lambda count: (count.remaining, -count.next_free_seconds))
        headers = _headers(name, scarcest)
        if not within:
            seconds = max(count.next_free_seconds for count in counts if count.remaining == 0)
            allowed = " and ".join(f"{limit.amount} requests in {limit.seconds} seconds" for limit in limits)
            self._service.note_turned_away(TurnedAway.RATE_LIMIT)
            message = f"Rate limit exceeded: {allowed}. Try again in {seconds} seconds."
            raise Problem(ErrorCode.RATE_LIMIT_EXCEEDED, message, retry_after_seconds=seconds, headers=headers)
        return headers


class LimitRates:
    """Middleware: requests over a limit get 429; all others are told how much is left. Chats on a socket count one by one."""

    def __init__(self, app: ASGIApp, rate_limits: RateLimits) -> None:
        self._app = app
        self._rate_limits = rate_limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count, then pass on. Raises `Problem`."""
        told = self._rate_limits.take(scope) if scope["type"] == "http" else {}
        if not told:
            await self._app(scope, receive, send)
            return

        async def send_told(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(told)
            await send(message)

        await self._app(scope, receive, send_told)


def _limits_for(caller: Caller, path: str, security: SecurityConfig) -> tuple[str, tuple[RateLimit, ...]]:
    """The limits of a request, and their name; none for some."""
    if caller.kind == "admin":
        return "", ()
    if caller.requests_per_minute is not None:
        return "key", (RateLimit(caller.requests_per_minute, _MINUTE_SECONDS),)
    configured = security.rate_limit
    if not configured.enabled:
        return "", ()
    if path in _CONVERSATIONS and configured.chat_completions_limit is not None:
        return "chat", parsed_limits(configured.chat_completions_limit)
    if path == _EMBEDDINGS and configured.embeddings_limit is not None:
        return "embeddings", parsed_limits(configured.embeddings_limit)
    return "default", parsed_limits(configured.default_limit)


def _whose(caller: Caller, scope: Scope, security: SecurityConfig) -> str:
    if caller.name is not None:
        return f"{caller.kind} {caller.name}"
    return "key" if inference_needs_key(security) else f"address {_site(scope['state']['client_address'])}"


def _site(address: str | None) -> str:
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return str(address)
    return str(ipaddress.ip_network((parsed, _IPV6_SITE_BITS), strict=False)) if parsed.version == 6 else str(parsed)


def _headers(name: str, count: Count) -> dict[str, str]:
    """As most clients know them, and as the IETF's draft has them; times are in seconds from now."""
    return {
        "X-RateLimit-Limit": str(count.limit),
        "X-RateLimit-Remaining": str(count.remaining),
        "X-RateLimit-Reset": str(count.next_free_seconds),
        "RateLimit-Policy": f'"{name}";q={count.limit};w={count.window_seconds}',
        "RateLimit": f'"{name}";r={count.remaining};t={count.next_free_seconds}',
    }
