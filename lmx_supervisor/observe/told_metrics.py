"""Counters of what operators are told: crashes, restarts, replays, evictions, failed compatibility checks."""

from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter

from lmx_supervisor.core.actions import Tell
from lmx_supervisor.core.exit_reason import ExitReason
from lmx_supervisor.core.prefixes import PREFIX_RESTORED, PREFIXES_DROPPED, PREFIXES_SAVED
from lmx_supervisor.core.service import TurnedAway
from lmx_supervisor.core.stop_reason import StopReason

EVICTIONS = frozenset({StopReason.LRU, StopReason.TTL})
"""Unloads on the service's own account; all others somebody ordered, autotune's among them."""

NO_MODEL = ""
"""The model label of a warm spare; to Prometheus the same as no label."""


class ToldMetrics:
    """Listens to a supervisor. `label_of` gives a model id the label it is known by everywhere."""

    def __init__(self, registry: CollectorRegistry, label_of: Callable[[str], str]) -> None:
        self._label_of = label_of

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        self._crashes = counter("lmx_crashes", "Workers that died without having been asked to.", "model", "reason")
        self._restarts = counter("lmx_worker_restarts", "Restarts after a crash.", "model", "reason")
        self._replays = counter("lmx_requests_replayed", "Requests that were given to a new worker after theirs died.")
        self._evictions = counter("lmx_model_evictions", "Models unloaded by the service itself.", "model")
        self._unloads = counter("lmx_model_unloads", "Models unloaded, by whose account it was on.", "model", "reason")
        self._brought_back = counter(
            "lmx_models_brought_back", "Models that came back because the load they made room for failed.", "model"
        )
        self._marks = counter("lmx_worker_memory_marks", "Marks that a worker's memory came to.", "model", "mark")
        self._not_reclaimed = counter("lmx_memory_not_reclaimed", "Dead workers whose memory was late to come back.")
        self._turned_away = counter("lmx_requests_turned_away", "Requests refused before they were read.", "reason")
        for why in TurnedAway:
            self._turned_away.labels(why.value)
        self._on_demand = counter("lmx_loads_on_demand", "Loads that requests were the reason of.", "model")
        self._yields = counter("lmx_model_yields", "Times that a model in use made room for one that was waited for.", "model")
        self._unfitting = counter("lmx_loads_refused_for_memory", "Loads that did not fit.", "model")
        self._shed = counter("lmx_requests_shed", "Requests refused because the host's memory was nearly used up.")
        self._incompatible = counter("lmx_model_compatibility_fail", "Failed checks of a model with its backend.", "model")
        self._saved_prefixes = counter("lmx_prefixes_saved", "Computed prefixes written to the disk in a stop.", "model")
        self._saved_bytes = counter("lmx_prefixes_saved_bytes", "What they took there.", "model")
        self._restored_prefixes = counter("lmx_prefixes_restored", "Saved prefixes that a prompt began like.", "model")
        self._restored_bytes = counter("lmx_prefixes_restored_bytes", "What was read for them.", "model")
        self._restored_tokens = counter("lmx_prefixes_restored_tokens", "Tokens read instead of computed.", "model")
        self._dropped_prefixes = counter("lmx_prefixes_dropped", "Saved prefixes that could not be used.", "model")
        self._handlers: Mapping[str, Callable[[str, Mapping[str, Any]], None]] = {
            "worker_exited": self._exited,
            "worker_restarting": lambda model, fields: self._restarts.labels(model, str(fields["reason"])).inc(),
            "request_replayed": lambda model, fields: self._replays.inc(),
            "model_unloaded": self._unloaded,
            "model_demanded": lambda model, fields: self._on_demand.labels(model).inc(),
            "model_yields": lambda model, fields: self._yields.labels(model).inc(),
            "model_brought_back": lambda model, fields: self._brought_back.labels(model).inc(),
            "worker_memory": lambda model, fields: self._marks.labels(model, str(fields["mark"])).inc(),
            "memory_not_reclaimed": lambda model, fields: self._not_reclaimed.inc(),
            "load_refused": lambda model, fields: self._unfitting.labels(model).inc(),
            "model_compatibility_recorded": self._recorded,
            PREFIXES_SAVED: self._prefixes_saved,
            PREFIX_RESTORED: self._prefix_restored,
            PREFIXES_DROPPED: lambda model, fields: self._dropped_prefixes.labels(model).inc(fields["files"]),
        }

    def take(self, tell: Tell) -> None:
        """Count what operators are told."""
        model_id = tell.fields.get("model_id")
        model = NO_MODEL
        if isinstance(model_id, str):
            model = self._label_of(model_id)
            # From zero, so that the first increase is one.
            self._evictions.labels(model)
            self._incompatible.labels(model)
        handler = self._handlers.get(tell.kind)
        if handler is not None:
            handler(model, tell.fields)

    def note_shed(self) -> None:
        """Count a request that was refused; operators are told of the pressure, not of every request."""
        self._shed.inc()

    def note_turned_away(self, why: TurnedAway) -> None:
        """Count a request that was refused at the door; operators are not told of each."""
        self._turned_away.labels(why.value).inc()

    def _exited(self, model: str, fields: Mapping[str, Any]) -> None:
        if fields["reason"] != ExitReason.STOPPED:
            self._crashes.labels(model, str(fields["reason"])).inc()

    def _unloaded(self, model: str, fields: Mapping[str, Any]) -> None:
        self._unloads.labels(model, str(fields["reason"])).inc()
        if fields["reason"] in EVICTIONS:
            self._evictions.labels(model).inc()

    def _recorded(self, model: str, fields: Mapping[str, Any]) -> None:
        if fields["outcome"] == "fail":
            self._incompatible.labels(model).inc()

    def _prefixes_saved(self, model: str, fields: Mapping[str, Any]) -> None:
        self._saved_prefixes.labels(model).inc(fields["prefixes"])
        self._saved_bytes.labels(model).inc(fields["bytes"])

    def _prefix_restored(self, model: str, fields: Mapping[str, Any]) -> None:
        self._restored_prefixes.labels(model).inc()
        self._restored_bytes.labels(model).inc(fields["bytes"])
        self._restored_tokens.labels(model).inc(fields["tokens"])
