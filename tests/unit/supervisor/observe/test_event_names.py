"""Names and units of published events."""

from typing import Any

import pytest

from lmx_supervisor.core.actions import Tell
from lmx_supervisor.core.readiness import READINESS_CHANGED
from lmx_supervisor.observe.event_names import published_fields, published_kind


def test_a_memory_mark_is_published_as_a_warning() -> None:
    """The one kind that operators know by another name."""
    assert published_kind(Tell("worker_memory", {})) == "memory_warning"
    assert published_kind(Tell("worker_exited", {})) == "worker_exited"


@pytest.mark.parametrize(
    ("kind", "told", "published"),
    [
        (
            "model_loaded",
            {"model_id": "m", "format": "gguf", "memory_bytes": 3 * 2**29, "duration_seconds": 1.23456},
            {"model_id": "m", "format": "gguf", "memory_gb": 1.5, "duration_sec": 1.235},
        ),
        (
            "model_unloaded",
            {"model_id": "m", "memory_freed_bytes": 2**30, "reason": "manual"},
            {"model_id": "m", "memory_freed_gb": 1.0, "reason": "manual"},
        ),
        ("model_unloaded", {"memory_freed_bytes": None}, {"memory_freed_gb": None}),
        ("model_canary_passed", {"duration_seconds": 0.5}, {"duration_sec": 0.5}),
        ("something_new", {"memory_bytes": 7}, {"memory_bytes": 7}),
        (READINESS_CHANGED, {"state": "routable"}, {"state": "routable", "updated_at": 12.346}),
    ],
)
def test_fields_have_their_published_names(kind: str, told: dict[str, Any], published: dict[str, Any]) -> None:
    """Known kinds get the names and units that their readers know; unknown kinds go out as they were told."""
    assert published_fields(Tell(kind, told), 12.3456) == published
