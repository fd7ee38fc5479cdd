"""What else there is to do than to answer, as gauges: downloads and quantized copies that run or wait for their turn."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

DOWNLOADS = ("pending", "downloading")
QUANTIZE_JOBS = ("queued", "running", "cancelling")

Statuses = Callable[[], Iterable[str]]
"""Of everything that is remembered."""


class WorkMetrics:
    """A collector for a registry. What is over is not counted: it is remembered for a while only."""

    def __init__(self, downloads: Statuses, quantize_jobs: Statuses) -> None:
        self._downloads = downloads
        self._quantize_jobs = quantize_jobs

    def collect(self) -> Iterator[Metric]:
        """Each status that is none of an end, also where nothing is in it."""
        yield _gauge("lmx_downloads", "Downloads that are not over.", DOWNLOADS, self._downloads())
        yield _gauge("lmx_quantize_jobs", "Quantized copies that are not made yet.", QUANTIZE_JOBS, self._quantize_jobs())

    def describe(self) -> Iterator[Metric]:
        """Nothing: asking for the names must not need a running service."""
        return iter(())


def _gauge(name: str, text: str, statuses: tuple[str, ...], found: Iterable[str]) -> Metric:
    counts = Counter(found)
    family = GaugeMetricFamily(name, text, labels=("status",))
    for status in statuses:
        family.add_metric((status,), counts[status])
    return family
