"""When the host's memory is nearly used up, nothing is let in but what relieves or explains the pressure.

Whether it is that full is the core's decision, made with every reading of the host's memory; here it is only obeyed.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.problem import Problem

_ANY_METHOD = frozenset(
    {
        "/healthz",
        "/readyz",
        "/admin/health",
        "/admin/models/unload",
        "/admin/memory",
        "/admin/config/reload",
        "/admin/metrics",
        "/admin/events",
    }
)
_ONLY_READ = frozenset({"/admin/models"})
_RETRY_AFTER_SECONDS = 30


class ShedLoad:
    """Middleware: 503 `overloaded` for everything that is not exempt, while the service says that the host is too full."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, then pass on. Raises `Problem`."""
        if scope["type"] in ("http", "websocket") and self._service.is_shedding and not _is_exempt(scope):
            self._service.note_shed()
            raise Problem(ErrorCode.OVERLOADED, "Server under memory pressure", retry_after_seconds=_RETRY_AFTER_SECONDS)
        await self._app(scope, receive, send)


def _is_exempt(scope: Scope) -> bool:
    path = scope["path"]
    return path in _ANY_METHOD or (path in _ONLY_READ and scope.get("method") in ("GET", "HEAD"))
