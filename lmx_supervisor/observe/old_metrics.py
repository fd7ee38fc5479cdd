"""Metrics that rules and dashboards know, of things that this version does not do: there were none of them, and so it says.

A rule on a series that does not exist is silent for ever, and nobody sees that it is; one on a zero is true.
"""

import math
from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

_ENDS_OF_RUNS = ("completed", "failed", "cancelled")


class UncountedMetrics:
    """A collector for a registry."""

    def collect(self) -> Iterator[Metric]:
        """Tokens that a smaller model guessed, and runs of agents: none yet."""
        for what in ("accepted", "rejected", "ignored"):
            name = f"lmx_speculative_{what}_tokens"
            yield CounterMetricFamily(name, "Tokens guessed by a draft model; LMX runs none.", 0)
        yield GaugeMetricFamily("lmx_speculative_acceptance_ratio", "Share of guessed tokens that were right.", math.nan)
        runs = CounterMetricFamily("lmx_agent_runs", "Runs of agents; LMX runs none.", labels=("status",))
        for end in _ENDS_OF_RUNS:
            runs.add_metric((end,), 0)
        yield runs
