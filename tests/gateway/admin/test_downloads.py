"""The routes that bring models onto this machine and take them off it."""

import httpx
import pytest

from lmx_protocol.errors import ErrorCode
from lmx_supervisor.config.schema import Config, SecurityConfig
from lmx_supervisor.core.downloads.orders import DownloadOrder
from lmx_supervisor.core.refusal import Refusal
from tests.gateway.service import FedService, download_view

DOWNLOAD = "/admin/models/download"


async def test_a_download_has_the_contracts_shape(client: httpx.AsyncClient, service: FedService) -> None:
    """Id, repository, size and status come back; revision and patterns reach the service."""
    body = {"repo_id": "org/a", "revision": "v1", "allow_patterns": ["*.gguf"], "ignore_patterns": None}
    started = await client.post(DOWNLOAD, json=body)

    assert 200 == started.status_code
    assert {
        "download_id": "dl-1",
        "repo_id": "org/a",
        "estimated_size_bytes": 1000,
        "status": "downloading",
    } == started.json()
    assert [DownloadOrder(repo_id="org/a", revision="v1", allow_patterns=("*.gguf",))] == service.download_orders


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "repo_id"),
        ({"repo_id": ""}, "repo_id"),
        ({"repo_id": "../etc"}, "repo_id"),
        ({"repo_id": "/etc"}, "repo_id"),
        ({"repo_id": "org/a", "revision": 7}, "revision"),
        ({"repo_id": "org/a", "allow_patterns": "*.gguf"}, "allow_patterns"),
        ({"repo_id": "org/a", "allow_patterns": [""]}, "allow_patterns.0"),
        ({"repo_id": "org/a", "ignore_patterns": ["x"] * 65}, "ignore_patterns"),
    ],
)
async def test_bad_orders_name_their_field(
    client: httpx.AsyncClient, service: FedService, body: dict[str, object], param: str
) -> None:
    """400 with the field, and the service never hears of it."""
    refused = await client.post(DOWNLOAD, json=body)

    assert (400, param) == (refused.status_code, refused.json()["error"]["param"])
    assert [] == service.download_orders


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (ErrorCode.DOWNLOADS_DISABLED, 403),
        (ErrorCode.HUB_ACCESS_DENIED, 403),
        (ErrorCode.MODEL_NOT_FOUND, 404),
        (ErrorCode.HUB_UNAVAILABLE, 424),
        (ErrorCode.RATE_LIMIT_EXCEEDED, 429),
        (ErrorCode.INSUFFICIENT_DISK, 507),
    ],
)
async def test_what_stands_against_a_download(
    client: httpx.AsyncClient, service: FedService, code: ErrorCode, status: int
) -> None:
    """Every refusal is a status that clients can branch on, with its code."""
    service.download_refusal = Refusal(code, "because", param="repo_id")
    refused = await client.post(DOWNLOAD, json={"repo_id": "org/a"})

    assert (status, code) == (refused.status_code, refused.json()["error"]["code"])


async def test_the_list_shows_what_is_under_way(client: httpx.AsyncClient, service: FedService) -> None:
    """What is over is listed only when it is asked for."""
    over = download_view("dl-2", status="completed", completed_at=9.0)
    service.download_views = {"dl-1": download_view(), "dl-2": over}

    async def ids(query: str) -> list[str]:
        listing = (await client.get(f"/admin/models/downloads{query}")).json()
        return [download["download_id"] for download in listing["downloads"]]

    assert ["dl-1"] == await ids("") == await ids("?include_inactive=false")
    assert ["dl-1", "dl-2"] == await ids("?include_inactive=true")
    assert 400 == (await client.get("/admin/models/downloads?include_inactive=perhaps")).status_code


async def test_progress_and_its_unknown_ids(client: httpx.AsyncClient, service: FedService) -> None:
    """Every field that clients read is there; an unknown id is 404 with the contract's code."""
    service.download_views = {"dl-1": download_view()}
    shown = (await client.get(f"{DOWNLOAD}/dl-1/progress")).json()
    unknown = await client.get(f"{DOWNLOAD}/dl-9/progress")

    assert ("downloading", 50.0, 500, 1000, 1, 2, None, None) == (
        shown["status"],
        shown["progress_percent"],
        shown["downloaded_bytes"],
        shown["total_bytes"],
        shown["files_completed"],
        shown["files_total"],
        shown["error"],
        shown["error_code"],
    )
    assert (404, "download_not_found") == (unknown.status_code, unknown.json()["error"]["code"])


async def test_a_cancel_says_whether_it_was_in_time(client: httpx.AsyncClient, service: FedService) -> None:
    """`cancelled` is true for the cancel that ended it, and for no other."""
    over = download_view("dl-2", status="completed", completed_at=9.0)
    service.download_views = {"dl-1": download_view(), "dl-2": over}

    async def cancel(download_id: str) -> tuple[int, object]:
        answer = await client.post(f"{DOWNLOAD}/{download_id}/cancel")
        return answer.status_code, answer.json().get("cancelled")

    assert (200, True) == await cancel("dl-1")
    assert (200, False) == await cancel("dl-1")
    assert (200, False) == await cancel("dl-2")
    assert (404, None) == await cancel("dl-9")


async def test_confirming_a_load(client: httpx.AsyncClient, service: FedService) -> None:
    """202 with the download; an unknown or expired token is 404 with a code of its own."""
    confirmed = await client.post("/admin/models/load/confirm", json={"confirmation_token": "dl-x"})
    service.download_refusal = Refusal(ErrorCode.TOKEN_EXPIRED, "too late", param="confirmation_token")
    expired = await client.post("/admin/models/load/confirm", json={"confirmation_token": "dl-y"})

    assert (202, "downloading", "dl-1", "1.5 KB") == (
        confirmed.status_code,
        confirmed.json()["status"],
        confirmed.json()["download_id"],
        confirmed.json()["estimated_size_human"],
    )
    assert (404, "token_expired") == (expired.status_code, expired.json()["error"]["code"])
    assert ["dl-x", "dl-y"] == service.confirmed


@pytest.mark.parametrize("path", ["org/model", "org%2Fmodel"])
async def test_deleting_a_model(client: httpx.AsyncClient, service: FedService, path: str) -> None:
    """An id with a slash works raw and encoded, and the answer says what it freed."""
    deleted = await client.delete(f"/admin/models/{path}")

    assert {"success": True, "model_id": "org/model", "freed_bytes": 123} == deleted.json()


@pytest.mark.parametrize("path", ["..%2Fmodels", "org%2F..%2F..%2Fetc", "%2Fetc"])
async def test_deleting_never_leaves_the_models_directory(client: httpx.AsyncClient, service: FedService, path: str) -> None:
    """A path that tries to escape is 400 before anything is looked at."""
    refused = await client.delete(f"/admin/models/{path}")

    assert (400, "invalid_value") == (refused.status_code, refused.json()["error"]["code"])
    assert [] == service.deleted


async def test_a_model_in_use_stays(client: httpx.AsyncClient, service: FedService) -> None:
    """409 of type conflict, as the contract says."""
    service.download_refusal = Refusal(ErrorCode.MODEL_IN_USE, "unload it first", param="model_id")
    error = (await client.delete("/admin/models/org/model")).json()["error"]

    assert ("model_in_use", "conflict") == (error["code"], error["type"])


async def test_all_of_it_needs_the_admin_key(client: httpx.AsyncClient, service: FedService) -> None:
    """Without the key nothing is downloaded, shown or deleted."""
    service.config = Config(security=SecurityConfig(admin_key="secret"))
    answers = [
        await client.post(DOWNLOAD, json={"repo_id": "org/a"}),
        await client.get("/admin/models/downloads"),
        await client.get(f"{DOWNLOAD}/dl-1/progress"),
        await client.post(f"{DOWNLOAD}/dl-1/cancel"),
        await client.post("/admin/models/load/confirm", json={"confirmation_token": "dl-x"}),
        await client.delete("/admin/models/org/model"),
    ]

    assert {403} == {answer.status_code for answer in answers}
    assert ([], [], []) == (service.download_orders, service.confirmed, service.deleted)
