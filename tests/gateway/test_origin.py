"""The headers about a request's turn: lanes, priorities, names and time limits; what cannot be understood is refused."""

from typing import Any

import httpx
import pytest

from lmx_supervisor.core.claims import Lane
from lmx_supervisor.gateway.callers import Caller
from lmx_supervisor.gateway.origin import origin_of
from lmx_supervisor.gateway.problem import Problem
from tests.gateway.service import FedService

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def origin(headers: dict[str, str], client: Any = ("192.0.2.7", 4711)) -> Any:
    """The origin of a request with these headers."""
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    state = {"caller": Caller(kind="shared"), "client_address": client[0] if client else None}
    return origin_of({"type": "http", "headers": raw, "client": client, "state": state}, stream=False)


@pytest.mark.parametrize(
    ("headers", "lane"),
    [
        ({}, Lane.NORMAL),
        ({"X-Serving-Lane": "interactive"}, Lane.INTERACTIVE),
        ({"X-Serving-Lane": "Throughput"}, Lane.THROUGHPUT),
        ({"X-Priority": "high"}, Lane.INTERACTIVE),
        ({"X-Priority": "normal"}, Lane.NORMAL),
        ({"X-Priority": "batch"}, Lane.THROUGHPUT),
        ({"X-Priority": "high", "X-Serving-Lane": "throughput"}, Lane.THROUGHPUT),
        ({"X-Priority": "nonsense", "X-Serving-Lane": "interactive"}, Lane.INTERACTIVE),
    ],
)
def test_lanes(headers: dict[str, str], lane: Lane) -> None:
    """The lane is what `X-Serving-Lane` says, else what `X-Priority` says, else normal."""
    assert origin(headers).lane is lane


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("X-Serving-Lane", "fast"),
        ("X-Serving-Lane", ""),
        ("X-Priority", "9"),
        ("Request-Timeout-Ms", "0"),
        ("Request-Timeout-Ms", "-5"),
        ("Request-Timeout-Ms", "1.5"),
        ("Request-Timeout-Ms", "soon"),
        ("Request-Timeout-Ms", "86400001"),
        ("Request-Timeout-Ms", "9" * 5000),
    ],
)
def test_headers_that_cannot_be_understood(header: str, value: str) -> None:
    """400 `invalid_header`, with the header's name in `param`."""
    with pytest.raises(Problem) as caught:
        origin({header: value})

    assert (caught.value.code, caught.value.param, caught.value.kind.status) == ("invalid_header", header.lower(), 400)


async def test_a_bad_lane_is_told_in_the_dialect_and_nothing_is_submitted(
    service: FedService, client: httpx.AsyncClient
) -> None:
    """The contract's envelope, before anything was asked of the service."""
    response = await client.post("/v1/chat/completions", json=CHAT, headers={"X-Serving-Lane": "express"})
    error = response.json()["error"]

    assert (response.status_code, error["param"], error["code"]) == (400, "x-serving-lane", "invalid_header")
    assert error["type"] == "invalid_request_error"
    assert service.origins == []


def test_a_time_limit_is_in_milliseconds() -> None:
    """It is handed on in seconds."""
    assert origin({"Request-Timeout-Ms": " 1500 "}).time_limit_seconds == 1.5
    assert origin({}).time_limit_seconds is None


def test_a_client_is_its_name_else_its_address() -> None:
    """The address of the connection stands for a client that does not name itself; a key goes before both."""
    assert origin({}).claim().client == "192.0.2.7"
    assert origin({"X-Client-ID": "me"}).claim().client == "me"
    assert origin({}, client=None).claim().client == ""
    assert origin({"X-Client-ID": "me"}).claim().share == "client me"


def test_a_clients_name_is_bounded() -> None:
    """What is kept of it for as long as the request lasts has a bound."""
    assert len(origin({"X-Client-ID": "x" * 10_000}).client_id) == 256
