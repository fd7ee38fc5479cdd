"""The configured keys, and which of them a request offers.

Keys are compared by their SHA-256, each offered one with each configured one, so that the time it takes tells neither how much
of a key was right, nor how long it is, nor which key it was.
"""

import hashlib
import hmac
from collections.abc import Iterable

from lmx_supervisor.config.named_keys import digest_of, sha256_of
from lmx_supervisor.config.schema import NamedKey, SecurityConfig
from lmx_supervisor.gateway.callers import ADMIN, Caller

Headers = Iterable[tuple[bytes, bytes]]

_BEARER = b"bearer "


class KeyRing:
    """The keys of one configuration."""

    def __init__(self, security: SecurityConfig) -> None:
        self._admin = None if security.admin_key is None else sha256_of(security.admin_key)
        self.shared = Caller(kind="shared", taken_names=frozenset(security.inference_keys))
        self._inference: list[tuple[bytes, Caller]] = [
            (digest_of(key), _caller(name, key)) for name, key in security.inference_keys.items()
        ]
        if security.inference_api_key is not None:
            self._inference.append((sha256_of(security.inference_api_key), self.shared))

    def inference_caller(self, headers: Headers) -> Caller | None:
        """Whose key these headers offer to `/v1`. The admin key is accepted in any of the three headers."""
        offered = offered_keys(headers, b"authorization", b"x-api-key", b"x-admin-key")
        bearer, api_key, admin_key = map(_digest, offered)
        found = None
        # All of them, with all of them: stopping at a match would tell by its time which one it was.
        for digest, caller in self._inference:
            if any([_equal(bearer, digest), _equal(api_key, digest)]):
                found = caller
        return ADMIN if self._is_admin(bearer, api_key, admin_key) else found

    def may_administer(self, headers: Headers, further_keys: Iterable[bytes] = ()) -> bool:
        """Whether these headers, or one of the keys offered elsewhere, open `/admin`."""
        offered = [*offered_keys(headers, b"x-admin-key"), *further_keys]
        return self._admin is None or self._is_admin(*map(_digest, offered))

    def _is_admin(self, *offered: bytes) -> bool:
        if self._admin is None:
            return False
        verdicts = [_equal(digest, self._admin) for digest in offered]
        return any(verdicts)


def offered_keys(headers: Headers, *names: bytes) -> list[bytes]:
    """The key in each named header, in the order of `names`; empty where it is absent."""
    first: dict[bytes, bytes] = {}
    for name, value in headers:
        first.setdefault(name, value)
    return [_bearer(first.get(name, b"")) if name == b"authorization" else first.get(name, b"") for name in names]


def _bearer(value: bytes) -> bytes:
    return value[len(_BEARER) :].strip() if value[: len(_BEARER)].lower() == _BEARER else b""


def _caller(name: str, key: NamedKey) -> Caller:
    return Caller(
        kind="key",
        name=name,
        models=key.models,
        requests_per_minute=key.requests_per_minute,
        concurrent_max=key.concurrent_max,
    )


def _digest(key: bytes) -> bytes:
    """Nothing for no key: that of an empty one could stand in the configuration."""
    return hashlib.sha256(key).digest() if key else b""


def _equal(one: bytes, other: bytes) -> bool:
    return hmac.compare_digest(one, other)
