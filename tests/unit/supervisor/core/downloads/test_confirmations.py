"""Tokens that confirm a download."""

import pytest

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.downloads.confirmations import Confirmations
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.core.service import LoadOrder

ORDER = LoadOrder(model_id="org/a")


def code_of(confirmations: Confirmations, token: str, now: float) -> ErrorCode:
    """Why a token is refused."""
    with pytest.raises(Refusal) as refused:
        confirmations.take(token, now)
    return refused.value.code


def test_a_token_is_good_once() -> None:
    """It gives back what was offered, and then is not known any more."""
    confirmations = Confirmations()
    confirmations.offer("dl-x", ORDER, 100, now=5.0)

    assert confirmations.take("dl-x", 5.0 + limits.CONFIRMATION_SECONDS).order == ORDER
    assert code_of(confirmations, "dl-x", 6.0) is ErrorCode.TOKEN_NOT_FOUND


def test_a_token_expires() -> None:
    """After its time it is told to have expired."""
    confirmations = Confirmations()
    confirmations.offer("dl-x", ORDER, 100, now=5.0)

    assert code_of(confirmations, "dl-x", 5.1 + limits.CONFIRMATION_SECONDS) is ErrorCode.TOKEN_EXPIRED


def test_offers_are_bounded() -> None:
    """The oldest offer makes room for the newest."""
    confirmations = Confirmations()
    for number in range(limits.CONFIRMATIONS_MAX + 1):
        confirmations.offer(f"dl-{number}", ORDER, 100, now=0.0)

    assert code_of(confirmations, "dl-0", 1.0) is ErrorCode.TOKEN_NOT_FOUND
    assert confirmations.take("dl-1", 1.0).order == ORDER
