"""Counters of what operators are told."""

import pytest
from prometheus_client import CollectorRegistry

from lmx_supervisor.core.actions import Tell
from lmx_supervisor.observe.told_metrics import ToldMetrics

M = {"model_id": "m"}
SAVED = {"prefixes": 2, "tokens": 80, "bytes": 900}


@pytest.mark.parametrize(
    ("tell", "name", "labels", "count"),
    [
        (Tell("worker_exited", {**M, "reason": "native_crash"}), "crashes", {"model": "m", "reason": "native_crash"}, 1.0),
        (Tell("worker_exited", {**M, "reason": "stopped"}), "crashes", {"model": "m", "reason": "stopped"}, None),
        (Tell("worker_exited", {"model_id": None, "reason": "hung"}), "crashes", {"model": "", "reason": "hung"}, 1.0),
        (Tell("worker_restarting", {**M, "reason": "hung"}), "worker_restarts", {"model": "m", "reason": "hung"}, 1.0),
        (Tell("request_replayed", {**M, "request_id": "r"}), "requests_replayed", {}, 1.0),
        (Tell("model_unloaded", {**M, "reason": "manual"}), "model_evictions", {"model": "m"}, 0.0),
        (Tell("model_unloaded", {**M, "reason": "lru"}), "model_evictions", {"model": "m"}, 1.0),
        (Tell("model_unloaded", {**M, "reason": "ttl"}), "model_evictions", {"model": "m"}, 1.0),
        (Tell("model_unloaded", {**M, "reason": "autotune_cleanup"}), "model_evictions", {"model": "m"}, 0.0),
        (Tell("model_unloaded", {**M, "reason": "ttl"}), "model_unloads", {"model": "m", "reason": "ttl"}, 1.0),
        (Tell("model_brought_back", M), "models_brought_back", {"model": "m"}, 1.0),
        (Tell("worker_memory", {**M, "mark": "soft"}), "worker_memory_marks", {"model": "m", "mark": "soft"}, 1.0),
        (Tell("memory_not_reclaimed", {"missing_bytes": 9}), "memory_not_reclaimed", {}, 1.0),
        (Tell("model_demanded", {**M, "requests_waiting": 2}), "loads_on_demand", {"model": "m"}, 1.0),
        (Tell("model_yields", {**M, "for_model_id": "n"}), "model_yields", {"model": "m"}, 1.0),
        (Tell("model_compatibility_recorded", {**M, "outcome": "fail"}), "model_compatibility_fail", {"model": "m"}, 1.0),
        (Tell("model_compatibility_recorded", {**M, "outcome": "pass"}), "model_compatibility_fail", {"model": "m"}, 0.0),
        (Tell("prefixes_saved", {**M, **SAVED}), "prefixes_saved", {"model": "m"}, 2.0),
        (Tell("prefixes_saved", {**M, **SAVED}), "prefixes_saved_bytes", {"model": "m"}, 900.0),
        (Tell("prefix_restored", {**M, "tokens": 70, "bytes": 800}), "prefixes_restored", {"model": "m"}, 1.0),
        (Tell("prefix_restored", {**M, "tokens": 70, "bytes": 800}), "prefixes_restored_bytes", {"model": "m"}, 800.0),
        (Tell("prefix_restored", {**M, "tokens": 70, "bytes": 800}), "prefixes_restored_tokens", {"model": "m"}, 70.0),
        (Tell("prefixes_dropped", {**M, "files": 3}), "prefixes_dropped", {"model": "m"}, 3.0),
        (Tell("anything_else", M), "model_evictions", {"model": "m"}, 0.0),
    ],
)
def test_each_tale_counts_once_where_it_belongs(tell: Tell, name: str, labels: dict[str, str], count: float | None) -> None:
    """One event is one more in its counter; orderly exits, manual unloads and passed checks are none."""
    registry = CollectorRegistry()
    ToldMetrics(registry, label_of=str).take(tell)
    assert registry.get_sample_value(f"lmx_{name}_total", labels) == count
