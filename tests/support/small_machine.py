"""A machine that is said to be small, for a server whose models really fill it, beside programs that are made up."""

import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.live import LiveServer, wait_until

_PRETENDER = Path(__file__).with_name("small_memory.py")
_NOTICED_SECONDS = 10.0
_NEAR_BYTES = 8 * 1024**2
"""Processes grow and shrink by less than this while nothing is loaded."""
GIB = 1024**3


@dataclass(frozen=True)
class SmallMachine:
    """The machine of a server that is started with `command` before its own."""

    total_bytes: int
    others: Path
    """Says how many bytes other programs have."""

    @property
    def command(self) -> tuple[str, ...]:
        """Stands before a server's own command line."""
        return (sys.executable, "-P", str(_PRETENDER), str(self.total_bytes), str(self.others))

    def others_take(self, percent: float, server: LiveServer | None = None) -> None:
        """Other programs have this share of the machine from now on; a server that runs has noticed when this returns."""
        wanted_bytes = int(self.total_bytes * percent / 100)
        self._write(wanted_bytes)
        if server is None:
            return

        def has_noticed() -> bool:
            budget = server.http.get("/admin/memory").json()["budget"]
            return abs(budget["others_gb"] * GIB - wanted_bytes) < _NEAR_BYTES

        wait_until(has_noticed, _NOTICED_SECONDS, f"the server to see that others take {percent:.1f} %")

    def fill_to(self, percent: float, server: LiveServer) -> None:
        """Other programs take what is missing for this share of the machine to be in use."""
        used_percent = server.http.get("/admin/memory").json()["usage_percent"]
        others_percent = 100 * int(self.others.read_text()) / self.total_bytes
        self.others_take(others_percent + percent - used_percent, server)

    def _write(self, others_bytes: int) -> None:
        """In one step: the server reads all the time."""
        fresh = self.others.with_suffix(".new")
        fresh.write_text(str(others_bytes))
        fresh.replace(self.others)
