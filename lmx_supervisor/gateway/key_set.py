"""The public keys that tokens are signed with (a JWKS), as somebody else publishes them: remembered, and read again in time.

What is known is used while it is read again, and for a day when its host does not answer. A token that names a key nobody knows
has the set read once more, but not more often than every `KEY_SET_RETRY_SECONDS`, whoever sends how many of them; it waits for
that, for at most the time one reading may take, and then it is refused. Nothing is ever accepted for want of a key.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

import jwt
import msgspec

from lmx_protocol import limits
from lmx_supervisor.core.service import KeySetUnavailable

logger = logging.getLogger("lmx.security")

ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})
"""With a private and a public half only: with a shared secret, whoever can check a token could make one."""


class KeySet:
    """The keys of one address, by their id."""

    def __init__(self, read: Callable[[], Awaitable[bytes]], now: Callable[[], float] = time.monotonic) -> None:
        """`read` brings the JSON document; it ends within a bound and raises `KeySetUnavailable`."""
        self._read = read
        self._now = now
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._read_at: float | None = None
        self._tried_at: float | None = None
        self._reading: asyncio.Task[None] | None = None

    async def find(self, key_id: str | None) -> jwt.PyJWK | None:
        """The key of that id (without one: the only key there is), or None."""
        if self._age_seconds() > limits.KEY_SET_FRESH_SECONDS:
            self._begin_reading()
        found = self._known(key_id)
        if found is None and (reading := self._begin_reading()) is not None:
            await asyncio.wait({reading})
            found = self._known(key_id)
        return found

    def _age_seconds(self) -> float:
        return self._now() - self._read_at if self._read_at is not None else float("inf")

    def _known(self, key_id: str | None) -> jwt.PyJWK | None:
        if self._age_seconds() > limits.KEY_SET_STALE_SECONDS_MAX:
            return None
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    def _begin_reading(self) -> "asyncio.Task[None] | None":
        """The reading under way, or a new one; None when the last one was a moment ago."""
        if self._reading is not None and not self._reading.done():
            return self._reading
        if self._tried_at is not None and self._now() - self._tried_at < limits.KEY_SET_RETRY_SECONDS:
            return None
        self._tried_at = self._now()
        self._reading = asyncio.create_task(self._read_again())
        return self._reading

    async def _read_again(self) -> None:
        try:
            keys = _usable_keys(await self._read())
        except KeySetUnavailable as error:
            logger.warning("key_set_unavailable", extra={"text": str(error), "known_keys": len(self._keys)})
            return
        self._keys, self._read_at = keys, self._now()
        logger.info("key_set_read", extra={"known_keys": len(keys)})


def _usable_keys(document: bytes) -> dict[str | None, jwt.PyJWK]:
    """The public keys for signatures in a key set. Raises `KeySetUnavailable` when it is none."""
    try:
        entries = msgspec.json.decode(document, type=_Document).keys
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise KeySetUnavailable("what is at that address is no key set (JWKS)") from error
    keys: dict[str | None, jwt.PyJWK] = {}
    for entry in entries[: limits.KEY_SET_KEYS_MAX]:
        if entry.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK.from_dict(entry)
        except jwt.PyJWTError:
            continue
        if key.algorithm_name in ALGORITHMS:
            keys[key.key_id] = key
    return keys


class _Document(msgspec.Struct, frozen=True):
    keys: list[dict[str, object]]
