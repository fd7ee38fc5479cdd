"""What the shell offers for MODEL: ids from the running server, or nothing when it does not answer at once."""

import os
from collections.abc import Iterable
from typing import Any

from lmx_protocol import limits
from lmx_supervisor.cli.failures import CommandFailure

_WORKERS_PATH = "/admin/workers"
_AVAILABLE_PATH = "/admin/models/available"


def served_models(incomplete: str) -> list[str]:
    """The models that have a worker."""
    return _beginning_with(incomplete, _asked(_WORKERS_PATH))


def known_models(incomplete: str) -> list[str]:
    """The models on disk, and those that have a worker."""
    return _beginning_with(incomplete, [*_asked(_AVAILABLE_PATH), *_asked(_WORKERS_PATH)])


def _beginning_with(incomplete: str, model_ids: Iterable[str]) -> list[str]:
    return sorted({model_id for model_id in model_ids if model_id.startswith(incomplete)})


def _asked(path: str) -> list[str]:
    """Model ids in the answer; none whatever goes wrong: a shell that completes has no place for an error."""
    # Not at the top: every command imports this module, and the one that serves must not bring in the HTTP client.
    from lmx_supervisor.cli.client import Client
    from lmx_supervisor.cli.options import connection_from

    try:
        connection = connection_from(os.environ.get("LMX_URL"), os.environ.get("LMX_ADMIN_KEY"))
        with Client(connection, patience_seconds=limits.COMPLETION_SECONDS) as client:
            return _ids(client.get(path))
    except CommandFailure:
        return []


def _ids(document: Any) -> list[str]:
    entries = document.get("workers", ()) if isinstance(document, dict) else document
    found = [entry.get("model_id") or entry.get("repo_id") for entry in entries if isinstance(entry, dict)]
    return [model_id for model_id in found if isinstance(model_id, str)]
