"""Gauges of downloads and quantized copies."""

from prometheus_client import CollectorRegistry

from lmx_supervisor.observe.work_metrics import WorkMetrics


def test_what_runs_and_waits_is_shown_by_its_status() -> None:
    """Every status that is no end has a series; what is over has none, however long it is remembered."""
    registry = CollectorRegistry()
    downloads, jobs = ["completed", "downloading", "downloading", "failed"], ["queued", "queued", "running", "cancelled"]
    registry.register(WorkMetrics(lambda: downloads, lambda: jobs))

    def shown(name: str, *statuses: str) -> list[float | None]:
        return [registry.get_sample_value(name, {"status": status}) for status in statuses]

    assert shown("lmx_downloads", "pending", "downloading", "completed") == [0.0, 2.0, None]
    assert shown("lmx_quantize_jobs", "queued", "running", "cancelling", "cancelled") == [2.0, 1.0, 0.0, None]
    downloads.clear()
    assert shown("lmx_downloads", "downloading") == [0.0]
