"""From what operators are told to the events they subscribe to: the one place for names and fields of GET /admin/events.

Names and fields differ only where the predecessor's readers know them by another name or unit. What is not listed here is
published as it was told.
"""

from collections.abc import Callable, Mapping
from typing import Any

from lmx_supervisor.core.actions import Tell
from lmx_supervisor.core.readiness import READINESS_CHANGED
from lmx_supervisor.observe.units import gigabytes

SERVICE_STOPPED = "service_stopped"
"""The last event of a service's life."""


REQUEST_COMPLETED = "request_completed"
"""A worker has worked on a request, and it is over. Published, not logged: the HTTP side has its own line for it."""


def _seconds(seconds: float) -> float:
    return round(seconds, 3)


_Form = tuple[str, Callable[[Any], object]]

_LOAD_FIELDS: dict[str, _Form] = {"memory_bytes": ("memory_gb", gigabytes), "duration_seconds": ("duration_sec", _seconds)}

_RENAMED: Mapping[str, Mapping[str, _Form]] = {
    "model_loaded": _LOAD_FIELDS,
    "model_prefetched": {"memory_bytes": ("memory_gb", gigabytes)},
    "model_evicted": {"memory_bytes": ("memory_gb", gigabytes)},
    "model_unloaded": {"memory_freed_bytes": ("memory_freed_gb", gigabytes)},
    "model_canary_passed": _LOAD_FIELDS,
    "download_completed": {"duration_seconds": ("duration_sec", _seconds)},
}


_OTHER_KINDS: Mapping[str, str] = {"worker_memory": "memory_warning"}


def published_kind(tell: Tell) -> str:
    """The name of an event."""
    return _OTHER_KINDS.get(tell.kind, tell.kind)


def published_fields(tell: Tell, at_unix_seconds: float) -> dict[str, object]:
    """The fields of an event under their published names. What is unknown (None) stays null."""
    renamed = _RENAMED.get(tell.kind, {})
    fields: dict[str, object] = {}
    for name, value in tell.fields.items():
        published, form = renamed.get(name, (name, None))
        fields[published] = value if form is None or value is None else form(value)
    if tell.kind == READINESS_CHANGED:
        fields["updated_at"] = round(at_unix_seconds, 3)
    return fields
