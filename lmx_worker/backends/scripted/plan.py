"""Which faults of a script are due at a moment. Pure, but for the count of lives, which is a file beside the script."""

import os
from pathlib import Path

from lmx_worker.backends.scripted.script import Fault, Trigger

_COUNTED: frozenset[Trigger] = frozenset(("request", "cancel"))


class FaultPlan:
    """The faults of one script in one life."""

    def __init__(self, faults: tuple[Fault, ...], life: int = 1) -> None:
        self._faults = tuple(fault for fault in faults if not fault.lives or life <= fault.lives)
        self._reached = [0] * len(self._faults)

    def due(self, trigger: Trigger, *, prompt: str = "", number: int = 1) -> list[Fault]:
        """The faults to commit now, in the script's order.

        Requests and cancels are counted here, each fault counting those whose prompt it fits; a token comes with its number.
        """
        due = []
        for index, fault in enumerate(self._faults):
            if fault.when != trigger or fault.contains not in prompt:
                continue
            if trigger in _COUNTED:
                self._reached[index] += 1
                number = self._reached[index]
            if trigger not in ("request", "cancel", "token") or number == fault.number:
                due.append(fault)
        return due


def count_life(script: Path, faults: tuple[Fault, ...]) -> int:
    """Which load of this script this is, from 1; not counted, and 1, when no fault asks. Raises `OSError`."""
    if not any(fault.lives for fault in faults):
        return 1
    descriptor = os.open(f"{script}.lives", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, b".")
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
