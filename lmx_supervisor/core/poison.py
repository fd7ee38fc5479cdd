"""Requests that crash their model: the request is refused, the model stays.

A request is known by a fingerprint of everything that makes its computation. In flight at one crash it is a suspect: when it
comes again it is on trial until it gets past the token where the crash was, one trial at a time beside whatever else runs. A
crash during a trial accuses the one on trial and nobody else, so that innocents who shared the first crash are cleared and
the culprit is found. Accused twice, it is refused for ten minutes.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import msgspec

from lmx_protocol import limits
from lmx_protocol.messages import AnyRequest, CountRequest


@dataclass(slots=True)
class Suspicion:
    """What is held against a fingerprint."""

    crashes: int
    tokens_at_crash: int
    until: float
    """Monotonic seconds; then it is forgotten."""


def fingerprint(request: AnyRequest) -> str:
    """Equal for requests that compute the same thing; independent of who asks and when."""
    anonymous = msgspec.structs.replace(request, request_id="")
    if isinstance(anonymous, CountRequest):
        anonymous = msgspec.structs.replace(anonymous, of=msgspec.structs.replace(anonymous.of, request_id=""))
    return hashlib.blake2b(msgspec.msgpack.encode(anonymous), digest_size=16).hexdigest()


class Suspects:
    """Suspicions by fingerprint, bounded, the oldest forgotten first."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, Suspicion] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._held)

    def of(self, request: AnyRequest, now: float) -> Suspicion | None:
        """What is held against a request. Costs nothing while nobody is suspected."""
        if not self._held:
            return None
        key = fingerprint(request)
        held = self._held.get(key)
        if held is not None and now >= held.until:
            del self._held[key]
            return None
        return held

    def accuse(self, request: AnyRequest, tokens_at_crash: int, now: float) -> None:
        """It was in flight at a crash, this many tokens into its answer."""
        key = fingerprint(request)
        held = self._held.pop(key, None)
        crashes = held.crashes + 1 if held is not None else 1
        self._held[key] = Suspicion(crashes, tokens_at_crash, until=now + limits.POISON_SECONDS)
        while len(self._held) > limits.SUSPECTS_MAX:
            self._held.popitem(last=False)

    def acquit(self, request: AnyRequest) -> None:
        """It got past the point of the crash."""
        self._held.pop(fingerprint(request), None)


def is_poison(held: Suspicion | None) -> bool:
    """Whether a request must not reach a worker any more."""
    return held is not None and held.crashes >= limits.POISON_CRASHES
