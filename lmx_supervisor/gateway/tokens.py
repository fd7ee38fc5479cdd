"""Signed tokens (JWT) in place of an inference key: who they are for, or that they are no good.

Signature, algorithm, time, issuer and audience are all checked, and each is required to be there. Why a token was refused is in
the log, never in the answer.
"""

from typing import Any

import jwt

from lmx_protocol import limits
from lmx_supervisor.config.schema import SecurityConfig
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.callers import Caller
from lmx_supervisor.gateway.key_set import ALGORITHMS, KeySet

_DOTS = 2
_USER_CHARACTERS_MAX = 256


class TokenRefusedError(Exception):
    """A token that is no good; the text says why."""


class TokenChecker:
    """Checks tokens against the configuration in force."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._address = ""
        self._keys = KeySet(service.read_key_set)

    async def caller(self, token: bytes) -> tuple[Caller | None, str]:
        """Whom a token is for; or None, and why, for the log."""
        try:
            return await self._caller(token, self._service.config.security), ""
        except TokenRefusedError as refused:
            return None, str(refused)

    async def _caller(self, token: bytes, security: SecurityConfig) -> Caller:
        if len(token) > limits.TOKEN_BYTES_MAX or token.count(b".") != _DOTS:
            raise TokenRefusedError("not a token")
        key = await self._key_set(security).find(_key_id(token))
        if key is None:
            raise TokenRefusedError("signed with an unknown key")
        return _caller(_claims(token, key, security), security)

    def _key_set(self, security: SecurityConfig) -> KeySet:
        if security.supabase_jwt_jwks_url != self._address:
            self._address, self._keys = security.supabase_jwt_jwks_url, KeySet(self._service.read_key_set)
        return self._keys


def _key_id(token: bytes) -> str | None:
    """Which key a token says it is signed with. Nothing in its header is believed before the signature is checked."""
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        raise TokenRefusedError("not a token") from None
    if header.get("alg") not in ALGORITHMS:
        raise TokenRefusedError("signed with an algorithm that is not accepted")
    key_id = header.get("kid")
    if not isinstance(key_id, str | None):
        raise TokenRefusedError("not a token")
    return key_id


def _claims(token: bytes, key: jwt.PyJWK, security: SecurityConfig) -> dict[str, Any]:
    try:
        return jwt.decode(
            token,
            key,
            # The key's own: what the token names is the sender's choice.
            algorithms=[key.algorithm_name],
            audience=security.supabase_jwt_audience,
            issuer=security.supabase_jwt_issuer,
            leeway=limits.TOKEN_LEEWAY_SECONDS,
            options={"require": ["exp", "iss", "aud"]},
        )
    except jwt.PyJWTError as error:
        # Only its kind: the words may quote what the token says.
        raise TokenRefusedError(type(error).__name__) from None


def _caller(claims: dict[str, Any], security: SecurityConfig) -> Caller:
    user = claims.get(security.supabase_jwt_claim_user_id)
    if not isinstance(user, str) or not 1 <= len(user) <= _USER_CHARACTERS_MAX:
        raise TokenRefusedError("does not say who its user is")
    return Caller(kind="user", name=user)
