"""Downloads that were offered and wait for somebody to confirm them: token → what to do, for a while. Pure."""

from dataclasses import dataclass

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.core.service import LoadOrder


@dataclass(frozen=True, slots=True)
class Offer:
    """A load that needs a download first."""

    order: LoadOrder
    estimated_bytes: int | None
    until: float


class Confirmations:
    """The open offers; bounded, the oldest goes first."""

    def __init__(self) -> None:
        self._offers: dict[str, Offer] = {}

    def offer(self, token: str, order: LoadOrder, estimated_bytes: int | None, now: float) -> None:
        """Remember an offer under a token that nobody can guess."""
        while len(self._offers) >= limits.CONFIRMATIONS_MAX:
            del self._offers[next(iter(self._offers))]
        self._offers[token] = Offer(order, estimated_bytes, now + limits.CONFIRMATION_SECONDS)

    def take(self, token: str, now: float) -> Offer:
        """The offer of a token, once. Raises `Refusal` TOKEN_NOT_FOUND or TOKEN_EXPIRED."""
        offer = self._offers.pop(token, None)
        if offer is None:
            text = "There is no such confirmation token, or it was used already; load the model again to get one."
            raise Refusal(ErrorCode.TOKEN_NOT_FOUND, text, param="confirmation_token")
        if now > offer.until:
            text = f"The token expired after {limits.CONFIRMATION_SECONDS:.0f} seconds; load the model again to get another."
            raise Refusal(ErrorCode.TOKEN_EXPIRED, text, param="confirmation_token")
        return offer
