"""The rate of the last minute."""

from lmx_supervisor.observe.per_second import LastMinute


def test_the_last_minute_is_counted_and_older_is_not() -> None:
    """However many come in one second; what is a minute old has gone."""
    rate = LastMinute()
    for _ in range(5000):
        rate.add(100.5)
    for _ in range(1000):
        rate.add(130.0)

    assert 100.0 == rate.per_second(131.0)
    assert 1000 / 60 == rate.per_second(170.0)
    assert 0.0 == rate.per_second(500.0)


def test_nothing_is_no_rate() -> None:
    """At the start there is none."""
    assert 0.0 == LastMinute().per_second(5.0)
