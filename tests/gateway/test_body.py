"""A corpus of bad bodies: each gets a clear 400 that names the field, quickly, and none a 500."""

import time

import httpx
import pytest

from tests.gateway.service import FedService
from tests.support.bad_bodies import CORPUS, GOOD


@pytest.mark.parametrize("name", CORPUS)
async def test_a_bad_body_is_a_400_that_names_the_field(name: str, client: httpx.AsyncClient, service: FedService) -> None:
    """Nothing of the corpus reaches the service, and each case says what is wrong."""
    body, param = CORPUS[name]

    response = await client.post("/v1/chat/completions", content=body)

    error = response.json()["error"]
    assert (400, param) == (response.status_code, error["param"])
    assert error["message"]
    assert [] == service.answers


async def test_a_depth_bomb_is_refused_at_once(client: httpx.AsyncClient) -> None:
    """A million levels cost no more than reading them: no recursion, no blocked loop."""
    body, _ = CORPUS["deep in an unknown field"]
    started = time.perf_counter()

    response = await client.post("/v1/chat/completions", content=body)

    assert 400 == response.status_code
    assert time.perf_counter() - started < 0.5  # generous: it takes a few milliseconds where nothing else runs


@pytest.mark.parametrize("extra", ['"x":%s' % ("9" * 5000), '"tools":null', '"user":"\\u0000"', '"model":"org/model"'])
async def test_odd_but_legal_bodies_are_served(client: httpx.AsyncClient, extra: str) -> None:
    """Unknown fields, nulls, escaped NUL characters and repeated keys are no reason to refuse."""
    response = await client.post("/v1/chat/completions", content=f"{{{GOOD},{extra}}}")

    assert 200 == response.status_code
