"""What was measured lately: bounded in time and number, for the gauges that say how things are now. Pure."""

import math
from collections import deque

from lmx_protocol import limits


class Recent:
    """The samples of the last `METRIC_WINDOW_SECONDS`, at most `METRIC_WINDOW_SAMPLES_MAX` of them."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=limits.METRIC_WINDOW_SAMPLES_MAX)

    def add(self, value: float, now: float) -> None:
        """Note a value at monotonic second `now`."""
        self._samples.append((now, value))

    def mean(self, now: float) -> float:
        """The average; NaN when there is nothing to average."""
        values = self._values(now)
        return sum(values) / len(values) if values else math.nan

    def percentile_95(self, now: float) -> float:
        """The value that 95 % are not above; NaN when there is none."""
        return self.percentiles(now)[1]

    def percentiles(self, now: float) -> tuple[float, float]:
        """The values that 50 % and 95 % are not above; NaN when there is none."""
        values = sorted(self._values(now))
        if not values:
            return math.nan, math.nan
        return values[math.ceil(0.5 * len(values)) - 1], values[math.ceil(0.95 * len(values)) - 1]

    def _values(self, now: float) -> list[float]:
        while self._samples and self._samples[0][0] < now - limits.METRIC_WINDOW_SECONDS:
            self._samples.popleft()
        return [value for _, value in self._samples]
