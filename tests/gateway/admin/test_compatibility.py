"""GET /admin/models/compatibility."""

from typing import Any

import httpx
import pytest

from lmx_supervisor.core.service import CompatibilityRow
from tests.gateway.service import FedService

URL = "/admin/models/compatibility"


@pytest.fixture(autouse=True)
def rows(service: FedService) -> None:
    """Two models and two backends, the newest last."""
    for ts, model_id, backend, outcome in ((1, "a", "mlx", "fail"), (2, "a", "llamacpp", "pass"), (3, "b", "mlx", "pass")):
        row = CompatibilityRow(ts=ts, model_id=model_id, backend=backend, backend_version="1", outcome=outcome)
        service.rows.append(row)


@pytest.mark.parametrize(
    ("query", "times"),
    [
        ({}, [3, 2, 1]),
        ({"model_id": "a"}, [2, 1]),
        ({"backend": "mlx"}, [3, 1]),
        ({"outcome": "fail"}, [1]),
        ({"since_ts": "1.5"}, [3, 2]),
        ({"model_id": "a", "outcome": "pass"}, [2]),
        ({"model_id": "", "unknown": "x"}, [3, 2, 1]),
    ],
)
async def test_rows_are_filtered_newest_first(client: httpx.AsyncClient, query: dict[str, str], times: list[int]) -> None:
    """Each filter by itself and together with others; empty and unknown parameters change nothing."""
    document = (await client.get(URL, params=query)).json()

    assert (len(times), times, None) == (document["total"], [row["ts"] for row in document["rows"]], document["summary"])


@pytest.mark.parametrize(("limit", "shown"), [("1", 1), ("0", 1), ("-5", 1), ("99999999", 3)])
async def test_the_limit_is_clamped(client: httpx.AsyncClient, limit: str, shown: int) -> None:
    """The newest rows stay, and `total` still counts all."""
    document = (await client.get(URL, params={"limit": limit})).json()

    assert (3, shown, 3) == (document["total"], len(document["rows"]), document["rows"][0]["ts"])


async def test_the_summary_counts_per_model(client: httpx.AsyncClient) -> None:
    """Over everything that matches, whatever the limit shows."""
    document = (await client.get(URL, params={"include_summary": "true", "limit": "1"})).json()

    assert {
        "a": {"total": 2, "pass": 1, "fail": 1, "latest_ts": 2.0},
        "b": {"total": 1, "pass": 1, "fail": 0, "latest_ts": 3.0},
    } == document["summary"]


async def test_a_row_has_the_contracts_fields(client: httpx.AsyncClient) -> None:
    """Operators look at backend, version and reason."""
    (row,) = (await client.get(URL, params={"limit": "1"})).json()["rows"]

    assert {"ts", "model_id", "backend", "backend_version", "outcome", "reason", "metadata"} == set(row)


@pytest.mark.parametrize("query", [{"outcome": "maybe"}, {"since_ts": "yesterday"}, {"limit": "x"}, {"include_summary": "2"}])
async def test_a_wrong_parameter_is_named(client: httpx.AsyncClient, query: dict[str, Any]) -> None:
    """400 with the parameter, not a filter that silently fits nothing."""
    response = await client.get(URL, params=query)

    assert (400, next(iter(query))) == (response.status_code, response.json()["error"]["param"])
