"""Everything that is measured, in one registry of its own, and its text form for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, disable_created_metrics, generate_latest

from lmx_supervisor.core.actions import Tell
from lmx_supervisor.core.measured import Measured
from lmx_supervisor.core.service import ServiceStatus, TurnedAway
from lmx_supervisor.core.views import FleetView, MemoryView
from lmx_supervisor.observe.fleet_metrics import FleetMetrics
from lmx_supervisor.observe.old_metrics import UncountedMetrics
from lmx_supervisor.observe.request_metrics import RequestMetrics
from lmx_supervisor.observe.told_metrics import ToldMetrics
from lmx_supervisor.observe.work_metrics import Statuses, WorkMetrics

# A second line for every counter and bucket, which no rule or dashboard reads.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The measurements of one service. Used on one loop."""

    def __init__(
        self,
        fleet: Callable[[], FleetView],
        status: Callable[[], ServiceStatus],
        memory: Callable[[], MemoryView],
        on_request_completed: Callable[[Tell], None],
    ) -> None:
        self._registry = CollectorRegistry()
        self.requests = RequestMetrics(self._registry, on_request_completed)
        self._told = ToldMetrics(self._registry, self.requests.learn_model)
        self._registry.register(FleetMetrics(fleet, status, memory))
        self._registry.register(UncountedMetrics())

    def take(self, tell: Tell) -> None:
        """Count what operators are told."""
        self._told.take(tell)

    def note_shed(self) -> None:
        """A request was refused because the host's memory is nearly used up."""
        self._told.note_shed()

    def note_turned_away(self, why: TurnedAway) -> None:
        """A request was refused at the door."""
        self._told.note_turned_away(why)

    def watch_work(self, *, downloads: Statuses, quantize_jobs: Statuses) -> None:
        """Show how much of this runs and waits."""
        self._registry.register(WorkMetrics(downloads, quantize_jobs))

    def measured(self) -> Measured:
        """What is known of requests, as one document."""
        return self.requests.measured()

    def text(self) -> bytes:
        """Text format 0.0.4."""
        return generate_latest(self._registry)
