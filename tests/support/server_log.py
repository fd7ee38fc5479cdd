"""What a server told its operators, read back from its structured log: the evidence for times measured from outside.

A line's `time` has milliseconds and is taken when the event was handled, not when the line was written.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.support.live import LiveServer, wait_until

_WAIT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Told:
    """One line of the log."""

    kind: str
    at_unix_seconds: float
    fields: dict[str, Any]


def told(server: LiveServer, kind: str, **having: Any) -> list[Told]:
    """The lines of one kind whose fields have these values, oldest first."""
    found = []
    for line in server.log().splitlines():
        # The last line may be half written, and what a crash prints is no JSON.
        if not (line.startswith("{") and line.endswith("}")):
            continue
        fields = json.loads(line)
        if fields["message"] == kind and having.items() <= fields.items():
            found.append(Told(kind, datetime.fromisoformat(fields["time"]).timestamp(), fields))
    return found


def wait_told(server: LiveServer, kind: str, *, count: int = 1, seconds: float = _WAIT_SECONDS, **having: Any) -> Told:
    """Wait for the `count`-th line of a kind and return it."""
    wait_until(lambda: len(told(server, kind, **having)) >= count, seconds, f"{count} × {kind} {having} in the log")
    return told(server, kind, **having)[count - 1]
