"""Who may call what: an inference key or a token opens `/v1`, the admin key opens `/admin` and `/v1`, the probes are open.

Keys are read from the configuration per request, so that a reload takes effect on the next one.
"""

from collections.abc import Awaitable, Callable

from starlette.datastructures import QueryParams
from starlette.types import ASGIApp, Receive, Scope, Send

from lmx_supervisor.config.schema import inference_needs_key
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.callers import Caller
from lmx_supervisor.gateway.edge import note
from lmx_supervisor.gateway.key_ring import KeyRing, offered_keys
from lmx_supervisor.gateway.problem import EdgeCode, Problem

TokenCheck = Callable[[bytes], Awaitable[tuple[Caller | None, str]]]

_ADMIN_KEY_PARAMETERS = ("admin_key", "x_admin_key")
"""The second is the predecessor's."""


class Doorkeeper:
    """Knows callers by the keys of the configuration in force."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._security = service.config.security
        self._ring = KeyRing(self._security)
        self._check_token = self._token_check() if self._security.supabase_jwt_enabled else None

    @property
    def ring(self) -> KeyRing:
        """The keys in force."""
        security = self._service.config.security
        if security is not self._security:
            self._security, self._ring = security, KeyRing(security)
        return self._ring

    async def inference_caller(self, scope: Scope) -> Caller:
        """Who sends this request to `/v1`. Raises `Problem` (401).

        Keys come first, so that nobody who has one waits for the host of the keys of tokens.
        """
        security = self._service.config.security
        headers = scope["headers"]
        caller = self.ring.inference_caller(headers)
        if caller is not None and (caller.kind == "admin" or not security.supabase_jwt_require):
            return caller
        if security.supabase_jwt_enabled:
            user = await self._user(scope, offered_keys(headers, b"authorization")[0])
            if user is not None:
                return user
        if inference_needs_key(security):
            wanted = "Supabase JWT" if security.supabase_jwt_require else "API key"
            raise Problem(EdgeCode.INVALID_API_KEY, f"Invalid or missing {wanted}", headers={"WWW-Authenticate": "Bearer"})
        return self.ring.shared

    async def _user(self, scope: Scope, token: bytes) -> Caller | None:
        """Whom a token is for, if it is a good one."""
        if not token:
            return None
        if self._check_token is None:
            self._check_token = self._token_check()
        caller, reason = await self._check_token(token)
        if caller is None:
            note(scope, token=reason)
        return caller

    def _token_check(self) -> TokenCheck:
        # Here, because its libraries take 11 MiB that only those who configured tokens should spend.
        from lmx_supervisor.gateway.tokens import TokenChecker

        return TokenChecker(self._service).caller


class RequireInferenceKey:
    """Middleware: nothing below it is reached without an inference key or the admin key, where one is configured."""

    def __init__(self, app: ASGIApp, doorkeeper: Doorkeeper) -> None:
        self._app = app
        self._doorkeeper = doorkeeper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, then pass on. Raises `Problem`."""
        caller = await self._doorkeeper.inference_caller(scope)
        scope["state"]["caller"] = caller
        if caller.name is not None:
            note(scope, caller=caller.name)
        await self._app(scope, receive, send)


class RequireAdminKey:
    """Middleware: nothing below it is reached without the admin key, where one is configured.

    At `query_path`, and only there, a query parameter may carry the key too: a browser's event source cannot send headers.
    """

    def __init__(self, app: ASGIApp, doorkeeper: Doorkeeper, query_path: str) -> None:
        self._app = app
        self._doorkeeper = doorkeeper
        self._query_path = query_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, then pass on. Raises `Problem`."""
        if not self._doorkeeper.ring.may_administer(scope["headers"], self._keys_in_query(scope)):
            raise Problem(EdgeCode.INVALID_ADMIN_KEY, "Invalid or missing admin key")
        await self._app(scope, receive, send)

    def _keys_in_query(self, scope: Scope) -> list[bytes]:
        if scope["path"] != self._query_path:
            return []
        query = QueryParams(scope["query_string"])
        return [query.get(name, "").encode() for name in _ADMIN_KEY_PARAMETERS]
