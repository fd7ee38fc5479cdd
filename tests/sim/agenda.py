"""The virtual clock: what happens next, and when. Nothing in a simulated day waits for real time."""

import heapq
from collections.abc import Callable

Act = Callable[[], None]


class Agenda:
    """Things to do, in order of time; those of one moment in the order in which they were planned."""

    def __init__(self, now: float) -> None:
        self.now = now
        self._planned: list[tuple[float, int, Act]] = []
        self._count = 0

    def at(self, when: float, act: Act) -> None:
        """Plan something for a moment; the past means now."""
        self._count += 1
        heapq.heappush(self._planned, (max(when, self.now), self._count, act))

    def after(self, seconds: float, act: Act) -> None:
        """Plan something this much later."""
        self.at(self.now + seconds, act)

    def step(self, until: float) -> bool:
        """Do the next thing if it is due by `until`; else the time becomes `until`. Returns whether something was done."""
        if not self._planned or self._planned[0][0] > until:
            self.now = max(self.now, until)
            return False
        self.now, _, act = heapq.heappop(self._planned)
        act()
        return True

    def skip(self, seconds: float) -> None:
        """The machine sleeps: everything planned happens this much later, and the clock jumps."""
        self.now += seconds
        self._planned = [(when + seconds, count, act) for when, count, act in self._planned]
