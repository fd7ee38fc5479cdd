"""What is shipped for monitoring, held to a live server on which what the rules are about has happened."""

import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.support.live import LiveServer, wait_until
from tests.support.promql import METRIC, MONITORING, SELECTED, Scrape, alert_rules, firing, scraped, selects

RULES = list(alert_rules())
SLOW = "answers: [{pieces: ['on '], tokens: 100000, token_seconds: 0.3}]"
PROVOKED = {
    "OptaLMXHighErrorRate",
    "OptaLMXPerModelHighErrorRate",
    "OptaLMXPerModelHighQueueWait",
    "OptaLMXPerModelThroughputDrop",
    "OptaLMXQuarantinedModelPresent",
    "OptaLMXGLMCompatibilityFailIncrease",
    "OptaLMXPerModelEvictionThrash",
}
"""Rules whose condition lasts or is counted; the queue is looked at while it is full."""

CONTRACTED = frozenset(
    {
        "lmx_requests_total",
        "lmx_errors_total",
        "lmx_stream_requests_total",
        "lmx_prompt_tokens_total",
        "lmx_completion_tokens_total",
        "lmx_speculative_accepted_tokens_total",
        "lmx_speculative_rejected_tokens_total",
        "lmx_speculative_ignored_tokens_total",
        "lmx_speculative_acceptance_ratio",
        "lmx_model_requests_total",
        "lmx_model_errors_total",
        "lmx_model_tokens_total",
        "lmx_client_requests_total",
        "lmx_client_tokens_total",
        "lmx_client_errors_total",
        "lmx_request_duration_seconds_bucket",
        "lmx_request_duration_seconds_sum",
        "lmx_request_duration_seconds_count",
        "lmx_uptime_seconds",
        "lmx_loaded_models",
        "lmx_memory_used_gb",
        "lmx_memory_total_gb",
        "lmx_in_flight_requests",
        "lmx_concurrent_limit",
        "lmx_queued_requests",
        "lmx_request_latency_p95_seconds",
        "lmx_model_error_rate",
        "lmx_model_queue_wait_seconds",
        "lmx_model_load_duration_seconds",
        "lmx_model_tokens_per_second",
        "lmx_model_readiness_state",
        "lmx_model_compatibility_fail_total",
        "lmx_model_evictions_total",
        "lmx_agent_runs_total",
    }
)
"""What the contract lists, section 4.2 first, then 4.3."""


BROUGHT_BACK = ("lmx_models_brought_back_total", frozenset({("model", "large-b")}))
MOVED: list[tuple[str, dict[str, str]]] = [
    ("lmx_queue_wait_seconds_count", {"model": "slow"}),
    ("lmx_time_to_first_token_seconds_count", {"model": "slow"}),
    ("lmx_inter_token_seconds_count", {"model": "slow"}),
    ("lmx_cancel_to_free_seconds_count", {"model": "slow"}),
    ("lmx_model_queue_wait_seconds", {"model": "slow"}),
    ("lmx_refused_requests_total", {"model": "slow", "reason": "rate_limit_exceeded"}),
    ("lmx_requests_turned_away_total", {"reason": "rate_limit"}),
    ("lmx_client_errors_total", {"client": "somebody"}),
    ("lmx_loads_refused_for_memory_total", {"model": "huge"}),
    ("lmx_model_evictions_total", {"model": "large-a"}),
    ("lmx_models_brought_back_total", {"model": "large-b"}),
    ("lmx_crashes_total", {"model": "crashing", "reason": "native_crash"}),
    ("lmx_worker_restarts_total", {"model": "crashing", "reason": "native_crash"}),
    ("lmx_requests_replayed_total", {}),
]
ONE_WHILE_QUEUEING: list[tuple[str, dict[str, str]]] = [
    ("lmx_queued_requests", {}),
    ("lmx_in_flight_requests", {}),
    ("lmx_concurrent_limit", {}),
    ("lmx_model_concurrent_limit", {"model": "slow"}),
    ("lmx_model_running_requests", {"model": "slow", "lane": "normal"}),
    ("lmx_model_waiting_requests", {"model": "slow", "lane": "normal"}),
]
SHOWN = [
    ("lmx_requests_shed_total", "tests/integration/test_memory.py"),
    ("lmx_memory_not_reclaimed_total", "tests/unit/supervisor/observe/test_told_metrics.py"),
    ("lmx_downloads", "tests/unit/supervisor/observe/test_work_metrics.py"),
    ("lmx_quantize_jobs", "tests/unit/supervisor/observe/test_work_metrics.py"),
    ("lmx_worker_memory_peak_bytes", "tests/unit/supervisor/observe/test_fleet_metrics.py"),
    ("lmx_worker_tokens_per_second", "tests/unit/supervisor/observe/test_fleet_metrics.py"),
    ("lmx_worker_prefill_tokens_per_second", "tests/unit/supervisor/observe/test_fleet_metrics.py"),
]
"""And where they are seen to move."""


@dataclass
class Seen:
    """Scrapes of one server: at its start, while its queue was full, and after everything."""

    before: Scrape
    queueing: Scrape
    after: Scrape
    seconds: float = 60.0
    """Between the first and the last, for rates; not as measured, so that a slow machine makes no rule quiet."""

    @property
    def names(self) -> set[str]:
        """Of every metric that has a series."""
        return {name for name, _ in self.after}

    def fires(self, alert: str) -> bool:
        """Whether a rule finds something in the end."""
        return bool(firing(dict(RULES)[alert], self.before, self.after, self.seconds))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """A server that queued, failed requests, evicted, quarantined, and could not load a GLM."""
    environment = {
        "LMX_MODELS__SLOTS": "1",
        "LMX_MODELS__WARM_SPARE": "false",
        "LMX_MODELS__QUEUE_PER_MODEL": "1",
        "LMX_SUPERVISION__QUARANTINE_THRESHOLD": "2",
        "LMX_SECURITY__RATE_LIMIT": '{"enabled": true, "default_limit": "10000/minute", "embeddings_limit": "1/minute"}',
    }
    server = LiveServer(tmp_path_factory.mktemp("monitoring") / "home", (), environment).start()
    try:
        yield _provoke(server)
        assert server.stop() == 0, server.log()
    finally:
        server.abandon()


def _provoke(server: LiveServer) -> Seen:
    def scrape() -> Scrape:
        return scraped(server.http.get("/admin/metrics").text)

    def queued() -> float:
        return scrape()["lmx_queued_requests", frozenset()]

    server.script("slow", SLOW)
    server.script("crashing", 'faults: [{when: request, contains: "poison", do: abort}]')
    server.script("Some-GLM", "faults: [{when: load, do: abort}]")
    server.load("slow")
    before = scrape()
    stream = server.stream("slow")
    next(stream)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.chat, "slow", max_tokens=3)
        wait_until(lambda: queued() == 1.0, 10.0, "a request to wait")
        queueing = scrape()
        assert server.chat("slow").status_code == 429
        # What the rule on waiting is about: more than a second.
        time.sleep(1.1)
        stream.close()
        assert waiting.result().status_code == 200
    server.load("crashing")
    named = {"X-Client-ID": "somebody"}
    server.http.post("/v1/chat/completions", json=server.chat_body("crashing", "poison"), headers=named)
    for _ in range(2):
        assert server.http.post("/admin/models/load", json={"model_id": "Some-GLM"}).status_code == 409
    for _ in range(2):
        turned_away = server.http.post("/v1/embeddings", json={"model": "slow", "input": "x"})
    assert turned_away.status_code == 429
    _evict(server, times=3)
    _evict_in_vain(server)
    wait_until(lambda: scrape().get(BROUGHT_BACK, 0.0) == 1.0, 30.0, "the evicted model to be brought back")
    return Seen(before, queueing, scrape())


def _evict(server: LiveServer, times: int) -> None:
    """Two models that do not fit beside each other take turns: the first of them is evicted so many times."""
    free_gb = server.http.get("/admin/memory").json()["budget"]["free_gb"]
    for model_id in ("large-a", "large-b"):
        server.script(model_id, f"load: {{bytes: {int(free_gb * 0.6 * 1024**3)}}}")
    for _ in range(times):
        server.load("large-a")
        server.load("large-b")


def _evict_in_vain(server: LiveServer) -> None:
    """A load that cannot fit evicts nobody; one that fails after it evicted somebody brings them back."""
    server.script("huge", f"load: {{bytes: {2**50}}}")
    assert server.http.post("/admin/models/load", json={"model_id": "huge"}).status_code == 507
    bytes_of_a = (server.home / "models" / "large-a.script.yaml").read_text()
    server.script("failing", f"{bytes_of_a}\nfaults: [{{when: load, do: abort}}]")
    assert server.http.post("/admin/models/load", json={"model_id": "failing"}).status_code == 409


def test_every_queue_wait_refusal_reservation_and_eviction_is_counted(seen: Seen) -> None:
    """Each of these metrics has moved by an event of its kind, and by one where one happened."""

    def value(scrape: Scrape, name: str, labels: dict[str, str]) -> float:
        return scrape.get((name, frozenset(labels.items())), 0.0)

    unmoved = [(name, labels) for name, labels in MOVED if value(seen.after, name, labels) <= value(seen.before, name, labels)]
    wrong = {(name, str(labels)): value(seen.queueing, name, labels) for name, labels in ONE_WHILE_QUEUEING}

    assert unmoved == []
    assert set(wrong.values()) == {1.0}, wrong
    assert value(seen.queueing, "lmx_worker_reserved_bytes", {"model": "slow"}) > 0
    assert value(seen.queueing, "lmx_memory_reserved_gb", {}) > 0
    assert value(seen.after, "lmx_model_unloads_total", {"model": "large-a", "reason": "lru"}) == 3.0
    assert {name for name, _ in SHOWN} <= seen.names, "what this server has no occasion for is there all the same"


def test_every_metric_of_the_contract_has_a_series(seen: Seen) -> None:
    """Those the predecessor exported, and those its rules only asked for."""
    assert seen.names >= CONTRACTED, CONTRACTED - seen.names


def test_every_rule_reads_what_is_exported(seen: Seen) -> None:
    """Each metric has a series with a number in it, each label a value that the rule selects, and the whole is evaluated."""
    for alert, expression in RULES:
        _assert_exported(seen, alert, expression)
        for name in METRIC.findall(expression):
            values = [value for (known, _), value in seen.after.items() if known == name]
            assert any(not math.isnan(value) for value in values), (alert, name)
        firing(expression, seen.before, seen.after, seen.seconds)


def _assert_exported(seen: Seen, where: str, expression: str) -> None:
    """Every metric of an expression has a series, and every label that it selects one of the wanted values."""
    wanted = set(METRIC.findall(expression))
    assert wanted, where
    assert wanted <= seen.names, (where, wanted - seen.names)
    for name, label, operator, value in SELECTED.findall(expression):
        offered = [dict(labels).get(label, "") for known, labels in seen.after if known == name]
        assert any(selects(operator, value, each) for each in offered), (where, name, label, value)


def test_the_rules_fire_where_they_should_and_nowhere_else(seen: Seen) -> None:
    """What was provoked is found by its rule; what was not is quiet."""
    alerts = {alert for alert, _ in RULES}
    quiet = {"OptaLMXCanaryPendingStuck", "OptaLMXPerModelSlowLoad", "OptaLMXAgentFailureRatioHigh", "LMXSafeMode"}
    saturation = dict(RULES)["OptaLMXQueueSaturation"]

    assert PROVOKED == {alert for alert in PROVOKED if seen.fires(alert)}
    assert not {alert for alert in quiet & alerts if seen.fires(alert)}
    assert firing(saturation, seen.before, seen.queueing, seen.seconds)
    assert not firing(saturation, seen.before, seen.after, seen.seconds)


def test_every_rule_of_the_contract_is_there() -> None:
    """By the names that operators' receivers route on."""
    names = {
        "HighErrorRate", "HighP95Latency", "QueueSaturation", "MemoryPressure", "PerModelHighErrorRate",
        "PerModelHighQueueWait", "PerModelSlowLoad", "PerModelThroughputDrop", "CanaryPendingStuck", "QuarantinedModelPresent",
        "GLMCompatibilityFailIncrease", "PerModelEvictionThrash", "AgentFailureRatioHigh",
    }  # fmt: skip
    assert {f"OptaLMX{name}" for name in names} <= {alert for alert, _ in RULES}


def _panels() -> list[tuple[str, str]]:
    """Title and expression of everything the dashboard plots."""
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    return [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", ())]


def test_the_dashboard_plots_what_is_exported(seen: Seen) -> None:
    """Every metric of every panel has a series."""
    assert len(_panels()) >= 20
    for title, expression in _panels():
        _assert_exported(seen, title, expression)
