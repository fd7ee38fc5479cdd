"""The failure table and the envelope."""

import httpx
import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Failed
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.gateway.problem import KINDS, EdgeCode, Problem
from tests.gateway.service import FedService, feeding

CHAT = {"model": "org/model", "messages": [{"role": "user", "content": "hi"}]}


def test_every_code_has_a_status_and_a_type() -> None:
    """No code can be raised for which nobody decided how it looks to a client."""
    assert set(KINDS) == {*ErrorCode, *EdgeCode}
    assert all(400 <= kind.status < 600 and kind.type for kind in KINDS.values())


def test_statuses_of_the_contract() -> None:
    """The statuses that clients and scripts branch on are the contract's."""
    expected = {
        ErrorCode.MODEL_NOT_FOUND: 404,
        ErrorCode.MODEL_LOADING: 503,
        ErrorCode.MODEL_UNSTABLE: 409,
        ErrorCode.MODEL_UNSUPPORTED_ARCH: 422,
        ErrorCode.MODEL_UNSUPPORTED_BACKEND: 422,
        ErrorCode.REQUEST_CRASHES_MODEL: 422,
        ErrorCode.INSUFFICIENT_MEMORY: 507,
        ErrorCode.DOWNLOADS_DISABLED: 403,
        ErrorCode.DOWNLOAD_NOT_FOUND: 404,
        ErrorCode.TOKEN_NOT_FOUND: 404,
        ErrorCode.TOKEN_EXPIRED: 404,
        ErrorCode.MODEL_IN_USE: 409,
        ErrorCode.INSUFFICIENT_DISK: 507,
        ErrorCode.RATE_LIMIT_EXCEEDED: 429,
        ErrorCode.OVERLOADED: 503,
        ErrorCode.WORKER_LOST: 503,
        EdgeCode.INVALID_API_KEY: 401,
        EdgeCode.INVALID_ADMIN_KEY: 403,
    }

    assert expected == {code: KINDS[code].status for code in expected}


def test_everything_worth_retrying_says_when() -> None:
    """429 and 503 always carry a `Retry-After`."""
    assert all(kind.retry_after_seconds for kind in KINDS.values() if kind.status in {429, 503})


def test_the_services_own_retry_after_wins() -> None:
    """A refusal that knows how long it takes overrides the table."""
    refusal = Refusal(ErrorCode.MODEL_LOADING, "loading", retry_after_seconds=42)

    assert "42" == Problem.of(refusal).response().headers["retry-after"]


def test_a_name_that_is_not_utf8_still_makes_an_envelope() -> None:
    """A message that quotes a file name with broken bytes does not turn a clear answer into a 500."""
    body = Problem(ErrorCode.MODEL_NOT_FOUND, "no file \udcff").body()

    assert b"\\udcff" in body


@pytest.mark.parametrize("code", list(ErrorCode))
async def test_a_failure_before_the_first_byte_is_a_status(
    code: ErrorCode, client: httpx.AsyncClient, service: FedService
) -> None:
    """Each way the service can fail a request reaches the client as status plus envelope with all four keys."""
    service.on_submit = feeding([Failed(request_id="", code=code, message="why", param="p")])

    response = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})

    assert KINDS[code].status == response.status_code
    assert {"message": "why", "type": KINDS[code].type, "param": "p", "code": code.value} == response.json()["error"]
