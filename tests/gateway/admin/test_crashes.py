"""GET /admin/crashes, /admin/crashes/{id} and POST /admin/config/reload."""

import httpx
import pytest

from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.crashes import CrashReport, CrashSummary
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.core.service import ReloadOutcome
from tests.gateway.service import FedService


def report(crash_id: str, model_id: str) -> CrashReport:
    """A death of a model's worker."""
    summary = CrashSummary(
        crash_id=crash_id,
        at="2026-01-02T03:04:05Z",
        at_unix_seconds=1.0,
        model_id=model_id,
        backend="scripted",
        incarnation=crash_id,
        pid=1,
        state="busy",
        reason="native_crash",
        text="native code crashed (SIGSEGV)",
        exit_code=None,
        signal="SIGSEGV",
        uptime_seconds=1.0,
    )
    return CrashReport(summary=summary, stack="Fatal Python error", stderr="last words", native=None)


@pytest.fixture
def two_crashes(service: FedService) -> FedService:
    """A service that remembers two deaths."""
    service.crash_reports = {"boot-2": report("boot-2", "b"), "boot-1": report("boot-1", "a")}
    return service


async def test_the_list_can_be_narrowed(client: httpx.AsyncClient, two_crashes: FedService) -> None:
    """Newest first; by model and by number."""

    async def ids(query: str) -> list[str]:
        answer = (await client.get(f"/admin/crashes{query}")).json()
        assert answer["count"] == len(answer["crashes"])
        return [crash["crash_id"] for crash in answer["crashes"]]

    assert ["boot-2", "boot-1"] == await ids("")
    assert ["boot-2"] == await ids("?limit=1")
    assert ["boot-1"] == await ids("?model_id=a")
    assert [] == await ids("?model_id=none")


@pytest.mark.parametrize("limit", ["0", "21", "-1", "x", "1.5", "", "9" * 5000, "٣"])
async def test_an_impossible_limit_is_a_bad_request(client: httpx.AsyncClient, two_crashes: FedService, limit: str) -> None:
    """400 with the parameter's name, never 500."""
    answer = await client.get("/admin/crashes", params={"limit": limit})

    assert (400, "limit") == (answer.status_code, answer.json()["error"]["param"])


async def test_one_crash_is_shown_whole(client: httpx.AsyncClient, two_crashes: FedService) -> None:
    """Summary, stacks and last output; an unknown id is 404 and says where to look."""
    shown = (await client.get("/admin/crashes/boot-1")).json()
    unknown = await client.get("/admin/crashes/boot-3")
    traversal = await client.get("/admin/crashes/..%2F..%2Fetc%2Fpasswd")

    assert ("boot-1", "Fatal Python error", "last words", None) == (
        shown["summary"]["crash_id"],
        shown["stack"],
        shown["stderr"],
        shown["native"],
    )
    assert (404, "not_found") == (unknown.status_code, unknown.json()["error"]["code"])
    assert "GET /admin/crashes" in unknown.json()["error"]["message"]
    assert 404 == traversal.status_code


async def test_a_reload_says_what_changed(client: httpx.AsyncClient, service: FedService) -> None:
    """The runbook's `success` and `updated`, and what waits for the next start."""
    service.reload_result = ReloadOutcome(updated=("logging.level",), ignored=("server.port",))
    answer = await client.post("/admin/config/reload")

    assert {"success": True, "updated": ["logging.level"], "ignored": ["server.port"]} == answer.json()
    assert 405 == (await client.get("/admin/config/reload")).status_code


async def test_a_refused_reload_is_a_bad_request(client: httpx.AsyncClient, service: FedService) -> None:
    """400 with the key and the reason."""
    service.reload_result = Refusal(
        ErrorCode.INVALID_VALUE, "Nothing was changed: port: expected a number.", param="server.port"
    )
    answer = await client.post("/admin/config/reload")

    assert (400, "server.port") == (answer.status_code, answer.json()["error"]["param"])
    assert "Nothing was changed" in answer.json()["error"]["message"]
