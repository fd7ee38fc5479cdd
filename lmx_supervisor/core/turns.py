"""Whose turn was when, so that those who wait can take turns; one of these for each model, and one for all of them together."""

from lmx_protocol import limits


class Turns:
    """Numbers the turns, and remembers the last one of everybody who had one lately."""

    def __init__(self) -> None:
        self._count = 0
        self._last: dict[str, int] = {}
        """The oldest first."""

    def of_newcomer(self) -> int:
        """How a client counts that comes now for the first time: as if its turn had been just before the last one.

        So it goes before a client that had that one, and after everybody who has waited for longer: nobody who waits can be
        overtaken by newcomers for ever.
        """
        return self._count - 1

    def last_of(self, share: str, at_least: int) -> int:
        """The number of somebody's last turn; `at_least` is what it would count as without one."""
        return max(at_least, self._last.get(share, at_least))

    def took(self, share: str) -> None:
        """Somebody has its turn."""
        self._count += 1
        self._last.pop(share, None)
        self._last[share] = self._count
        if len(self._last) > limits.TURNS_REMEMBERED_MAX:
            del self._last[next(iter(self._last))]
