"""What the engine does about prefixes that outlive it: opens the shelf after a load, fills it in a stop that leaves the time.

Nothing here may fail a load or a stop: what goes wrong is told on stderr, and costs the prefixes.
"""

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

from lmx_protocol.messages import Load, ModelFacts, PrefixNews, Shutdown
from lmx_protocol.states import ModelTask
from lmx_worker.backends.base import Backend
from lmx_worker.prefixes.shelf import Prefix, Shelf, fingerprint_of


@runtime_checkable
class PrefixKeeper(Protocol):
    """A backend whose computed prefixes can be written out and read back."""

    def use_shelf(self, shelf: Shelf) -> None:
        """From now on look there for what is not in memory."""

    def prefixes(self) -> list[Prefix]:
        """What is computed and in use for no request, the most recently used first."""


def open_shelf(order: Load, facts: ModelFacts, backend: Backend, tell: Callable[[PrefixNews], None]) -> Shelf | None:
    """Give the backend the saved prefixes of its model; None: there is no place for any."""
    has_place = bool(order.digest and order.prefix_directory)
    keeps = has_place and order.model.prefix_cache and ModelTask.GENERATE in facts.tasks
    if not keeps or not isinstance(backend, PrefixKeeper):
        return None
    shelf = Shelf(Path(order.prefix_directory), fingerprint_of(order.digest, order.model, facts), tell)
    try:
        shelf.open()
    except OSError:
        traceback.print_exc(file=sys.stderr)
        return None
    backend.use_shelf(shelf)
    return shelf


def fill_shelf(shelf: Shelf, backend: Backend, order: Shutdown) -> None:
    """Leave what the order allows."""
    assert isinstance(backend, PrefixKeeper), "only a keeper was given a shelf"
    try:
        shelf.save(backend.prefixes(), bytes_max=order.prefix_bytes_max, seconds=order.prefix_seconds)
    # Native code and the disk meet here, and the model is being closed anyway.
    except Exception:
        traceback.print_exc(file=sys.stderr)
