"""The window behind the gauges that say how things are now."""

import math

import pytest

from lmx_protocol import limits
from lmx_supervisor.observe.recent import Recent


def _recent(values: list[float], now: float = 0.0) -> Recent:
    recent = Recent()
    for value in values:
        recent.add(value, now)
    return recent


@pytest.mark.parametrize(
    ("values", "percentile"),
    [([7.0], 7.0), ([1.0, 2.0], 2.0), ([float(n) for n in range(1, 101)], 95.0), ([0.1] * 19 + [9.0], 0.1)],
)
def test_the_percentile_is_a_value_that_was_measured(values: list[float], percentile: float) -> None:
    """95 % of the values are not above it, whatever their order."""
    assert _recent(values[::-1]).percentile_95(0.0) == percentile


def test_the_median_comes_with_it() -> None:
    """Half of the values are not above it; of nothing there is neither."""
    assert _recent([4.0, 1.0, 3.0, 2.0]).percentiles(0.0) == (2.0, 4.0)
    assert all(map(math.isnan, Recent().percentiles(0.0)))


def test_what_is_older_than_the_window_does_not_count() -> None:
    """Once the window has passed without a sample there is nothing to say, and that is NaN, not zero."""
    recent = _recent([4.0])
    recent.add(2.0, 10.0)
    assert recent.mean(limits.METRIC_WINDOW_SECONDS) == 3.0
    assert recent.mean(limits.METRIC_WINDOW_SECONDS + 5.0) == 2.0
    assert math.isnan(recent.mean(limits.METRIC_WINDOW_SECONDS + 11.0))
    assert math.isnan(Recent().percentile_95(0.0))


def test_the_window_is_bounded_in_number_too() -> None:
    """A burst does not grow the memory: the oldest samples make room."""
    recent = _recent([100.0] * 5 + [1.0] * limits.METRIC_WINDOW_SAMPLES_MAX)
    assert recent.mean(0.0) == 1.0
