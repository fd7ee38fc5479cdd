"""Who may call what: the inference key opens `/v1`, the admin key opens `/admin` and `/v1`, the probes are open.

Keys are read from the configuration per request, so that a reload takes effect on the next one. Comparison is constant-time.
"""

import hmac
from collections.abc import Iterable, Sequence

from starlette.datastructures import QueryParams
from starlette.types import ASGIApp, Receive, Scope, Send

from lmx_supervisor.config.schema import SecurityConfig
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.problem import EdgeCode, Problem

Headers = Iterable[tuple[bytes, bytes]]

_BEARER = b"bearer "
_ADMIN_KEY_PARAMETERS = ("admin_key", "x_admin_key")
"""The second is the predecessor's."""


class RequireInferenceKey:
    """Middleware: nothing below it is reached without the inference key or the admin key, where one is configured."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, then pass on. Raises `Problem`."""
        if not may_infer(scope["headers"], self._service.config.security):
            raise Problem(EdgeCode.INVALID_API_KEY, "Invalid or missing API key", headers={"WWW-Authenticate": "Bearer"})
        await self._app(scope, receive, send)


class RequireAdminKey:
    """Middleware: nothing below it is reached without the admin key, where one is configured.

    At `query_path`, and only there, a query parameter may carry the key too: a browser's event source cannot send headers.
    """

    def __init__(self, app: ASGIApp, service: Service, query_path: str) -> None:
        self._app = app
        self._service = service
        self._query_path = query_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, then pass on. Raises `Problem`."""
        if not may_administer(scope["headers"], self._service.config.security, self._keys_in_query(scope)):
            raise Problem(EdgeCode.INVALID_ADMIN_KEY, "Invalid or missing admin key")
        await self._app(scope, receive, send)

    def _keys_in_query(self, scope: Scope) -> list[bytes]:
        if scope["path"] != self._query_path:
            return []
        query = QueryParams(scope["query_string"])
        return [query.get(name, "").encode() for name in _ADMIN_KEY_PARAMETERS]


def may_infer(headers: Headers, security: SecurityConfig) -> bool:
    """Whether these headers open `/v1`. The admin key is accepted in any of the three headers."""
    if security.inference_api_key is None:
        return True
    offered = _offered_keys(headers, (b"authorization", b"x-api-key", b"x-admin-key"))
    inference = _matches(offered[:2], security.inference_api_key)
    admin = _matches(offered, security.admin_key)
    return inference or admin


def may_administer(headers: Headers, security: SecurityConfig, further_keys: Sequence[bytes] = ()) -> bool:
    """Whether these headers, or one of the keys offered elsewhere, open `/admin`."""
    if security.admin_key is None:
        return True
    return _matches([*_offered_keys(headers, (b"x-admin-key",)), *further_keys], security.admin_key)


def _offered_keys(headers: Headers, names: tuple[bytes, ...]) -> list[bytes]:
    """The key in each named header, in the order of `names`; empty where it is absent."""
    first: dict[bytes, bytes] = {}
    for name, value in headers:
        first.setdefault(name, value)
    keys = []
    for name in names:
        value = first.get(name, b"")
        if name == b"authorization":
            value = value[len(_BEARER) :].strip() if value[: len(_BEARER)].lower() == _BEARER else b""
        keys.append(value)
    return keys


def _matches(offered: list[bytes], key: str | None) -> bool:
    if key is None:
        return False
    wanted = key.encode()
    # All of them first: stopping at a match would tell by its time which header held the key.
    verdicts = [hmac.compare_digest(candidate, wanted) for candidate in offered]
    return any(verdicts)
