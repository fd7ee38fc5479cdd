"""What a test may not leave behind in its own process: descriptors, threads, children, sockets. An autouse fixture.

`LiveServer.growth` asks the same of the servers.
"""

import gc
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.orphans import adopted_orphans

_SETTLE_SECONDS = 5.0
_LOOK_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a process holds at one moment."""

    descriptors: dict[int, str]
    threads: frozenset[str]
    children: frozenset[int]

    @staticmethod
    def of_this_process() -> "Holdings":
        """Ours, now."""
        threads = frozenset(f"{thread.name} ({thread.ident})" for thread in threading.enumerate())
        children = frozenset(child.pid for child in psutil.Process().children(recursive=True))
        return Holdings(_descriptors(), threads, children)

    def more_than(self, before: "Holdings") -> str:
        """What is here that was not there before, for people; empty when nothing is."""
        surplus = {
            "descriptors": [f"{fd} → {to}" for fd, to in self.descriptors.items() if before.descriptors.get(fd) != to],
            "threads": sorted(self.threads - before.threads),
            "children": sorted(self.children - before.children),
        }
        # A descriptor that was closed and opened again (a log, say) is no leak: only more of them are.
        if len(self.descriptors) <= len(before.descriptors):
            surplus["descriptors"] = []
        return "; ".join(f"{kind}: {list(things)}" for kind, things in surplus.items() if things)


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Fails the test when its process holds more afterwards than before."""
    before = Holdings.of_this_process()
    yield
    gc.collect()
    deadline = time.monotonic() + _SETTLE_SECONDS
    while (surplus := Holdings.of_this_process().more_than(before)) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
        adopted_orphans(frozenset())  # the dead among them are reaped, and no leak
    assert not surplus, f"the test left behind {surplus}"


def _descriptors() -> dict[int, str]:
    found: dict[int, str] = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            found[int(link.name)] = str(link.readlink())
        except FileNotFoundError:  # the descriptor that lists the directory
            continue
    return found
