"""The check of a dead worker's memory, with another reading in the place of the host's."""

import pytest

from lmx_supervisor.runtime.memory_return import MemoryProbe, missing_bytes, missing_until_back


class ScriptedProbe(MemoryProbe):
    """Tells these readings one after the other, the last one for ever."""

    frees_before_exit = False

    def __init__(self, *readings: int) -> None:
        self._readings = list(readings)

    def available_bytes(self) -> int:
        return self._readings.pop(0) if len(self._readings) > 1 else self._readings[0]


@pytest.mark.parametrize(
    ("before", "now", "frees", "missing"),
    [
        (100, 100, False, 80),
        (100, 180, False, 0),
        (100, 140, False, 0),
        (100, 139, False, 41),
        (100, 20, False, 80),
        (100, 100, True, 0),
    ],
)
def test_half_of_what_is_owed_counts_as_all_of_it(before: int, now: int, frees: bool, missing: int) -> None:
    """80 bytes are owed; a machine that frees before the exit owes nothing."""
    assert missing == missing_bytes(80, before, now, frees)


async def test_memory_that_is_back_is_told_once() -> None:
    """The first look suffices."""
    assert [missing async for missing in missing_until_back(ScriptedProbe(180), 80, 100)] == [0]


async def test_memory_that_comes_late_is_told_missing_and_then_back() -> None:
    """After the patience what is missing is told once, and its return later."""
    probe = ScriptedProbe(100, 100, 180)

    assert [missing async for missing in missing_until_back(probe, 80, 100, patience_seconds=0.0)] == [80, 0]
