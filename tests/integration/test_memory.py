"""The host's memory shared out between real processes: reservations, refusals with their arithmetic, evictions and pins."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.live import LiveServer, wait_until
from tests.support.memory_group import joined, memory_group
from tests.support.promql import scraped

GIB = 1024**3
LARGE_SHARE = 0.6
"""Of what is free: one such model fits, two do not, whatever else the machine does meanwhile."""


def memory(server: LiveServer) -> dict[str, Any]:
    """What GET /admin/memory says."""
    return dict(server.http.get("/admin/memory").json())


def large_models(server: LiveServer, *model_ids: str, load: str = "") -> int:
    """Scripted models that claim most of what is free each, and take next to nothing; returns what one claims, in bytes."""
    size_bytes = int(memory(server)["budget"]["free_gb"] * GIB * LARGE_SHARE)
    for model_id in model_ids:
        server.script(model_id, f"load: {{bytes: {size_bytes}{load}}}")
    return size_bytes


def order(server: LiveServer, model_id: str) -> httpx.Response:
    """Ask for a load, whatever comes of it."""
    return server.http.post("/admin/models/load", json={"model_id": model_id})


def test_two_loads_at_once_cannot_have_the_same_memory(serve: Callable[..., LiveServer]) -> None:
    """One of them is served, the other is refused with the whole sum, and the budget shows who has what."""
    server = serve()
    size_bytes = large_models(server, "a", "b", load=", seconds: 0.5")
    with ThreadPoolExecutor(2) as pool:
        answers = sorted(pool.map(lambda model_id: order(server, model_id), "ab"), key=lambda answer: answer.status_code)

    assert [answer.status_code for answer in answers] == [200, 507]
    error = answers[1].json()["error"]
    assert error["code"] == "insufficient_memory"
    assert all(part in error["message"] for part in ("weights", "key/value cache", "working memory", "promised to models"))
    shown = memory(server)
    (reserved,) = (model["reserved_gb"] for model in shown["models"].values())
    assert reserved * GIB >= size_bytes
    assert shown["budget"]["free_gb"] < reserved


def test_an_idle_model_makes_room_and_a_pinned_one_does_not(serve: Callable[..., LiveServer]) -> None:
    """The event says who went for whom; with a pin in the way the load is refused, and nobody goes."""
    server = serve()
    large_models(server, "a", "b")
    server.load("a")
    server.load("b")
    assert set(memory(server)["models"]) == {"b"}
    server.load("b", keep_alive_sec=0)
    refused = order(server, "a")

    assert refused.status_code == 507, refused.text
    assert "no idle model could make room" in refused.json()["error"]["message"]
    assert memory(server)["models"]["b"]["pinned"]
    metrics = server.http.get("/admin/metrics").text
    assert 'lmx_model_evictions_total{model="a"} 1.0' in metrics
    assert 'lmx_loads_refused_for_memory_total{model="a"} 1.0' in metrics
    assert '"for_model_id":"b"' in server.log()


def test_thresholds_change_while_the_service_runs(serve: Callable[..., LiveServer]) -> None:
    """A reload moves the budget and switches eviction off, as the runbook's steps do."""
    server = serve()
    before = memory(server)["budget"]["limit_gb"]
    (server.home / "config.yaml").write_text("memory: {max_memory_percent: 50, auto_evict_lru: false}\n")
    updated = server.http.post("/admin/config/reload").json()["updated"]
    after = memory(server)

    assert updated == ["memory.max_memory_percent", "memory.auto_evict_lru"]
    assert after["threshold_percent"] == 50
    assert after["budget"]["limit_gb"] < before


def test_what_a_model_cost_is_remembered_over_a_restart(serve: Callable[..., LiveServer]) -> None:
    """It was said to weigh a megabyte and took far more: the next service reserves what was seen."""
    server = serve()
    server.script(
        "heavy", "load: {bytes: 1000000, ballast_bytes: 1000000}\nfaults: [{when: ready, do: leak, bytes: 100000000}]"
    )
    server.load("heavy")
    claimed = server.worker("heavy")["reserved_bytes"]
    wait_until(lambda: (server.worker("heavy")["peak_footprint_bytes"] or 0) > claimed + 50_000_000, 60.0, "the peak")
    server.http.post("/admin/models/unload", json={"model_id": "heavy"})
    server.stop()
    server.start()
    server.load("heavy")

    assert server.worker("heavy")["reserved_bytes"] > claimed + 50_000_000


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group that one model fills to three quarters."""
    with memory_group(512 * 1024**2) as group:
        yield group


def test_the_runbooks_way_out_of_memory_pressure(small_group: Path, serve: Callable[..., LiveServer]) -> None:
    """Requests are refused while the group is too full, every step of the runbook is let in, and an unload ends it."""
    with joined(small_group):
        server = serve(LMX_MEMORY__LOAD_SHEDDING_PERCENT="60", LMX_MODELS__WARM_SPARE="false")
    server.script("large", "load: {bytes: 350000000, ballast_bytes: 350000000}")
    server.load("large")
    wait_until(lambda: server.chat("large").status_code == 503, 10.0, "requests to be shed")
    refused = server.chat("large")
    assert (refused.headers["Retry-After"], refused.json()["error"]["code"]) == ("30", "overloaded")
    assert server.http.get("/admin/status").status_code == 503
    for path in ("/healthz", "/readyz", "/admin/health", "/admin/memory", "/admin/models", "/admin/metrics"):
        assert server.http.get(path).status_code == 200, path
    assert server.http.get("/admin/health").json()["status"] == "degraded"
    assert memory(server)["load_shedding"]
    scrape = scraped(server.http.get("/admin/metrics").text)
    assert scrape["lmx_load_shedding", frozenset()] == 1.0
    assert scrape["lmx_requests_shed_total", frozenset()] >= 3.0
    unloaded = server.http.post("/admin/models/unload", json={"model_id": "large"})
    assert unloaded.status_code == 200, unloaded.text
    wait_until(lambda: server.http.get("/admin/status").status_code == 200, 10.0, "the pressure to be over")

    assert server.chat("large").status_code == 404
    assert not memory(server)["load_shedding"]
