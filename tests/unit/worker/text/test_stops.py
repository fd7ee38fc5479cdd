"""Stop strings across any borders."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx_worker.text.stops import StopMatcher

letters = st.text("ab", max_size=30)


def matched(text: str, stops: list[str]) -> tuple[str, str | None]:
    """What comes out when the text arrives in one piece."""
    matcher = StopMatcher(stops)
    return matcher.push(text) + matcher.flush(), matcher.matched


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("abc", [], ("abc", None)),
        ("abc", [""], ("abc", None)),
        ("one STOP two", ["STOP"], ("one ", "STOP")),
        ("STOP", ["STOP"], ("", "STOP")),
        ("one STO", ["STOP"], ("one STO", None)),
        ("aab", ["ab"], ("a", "ab")),
        ("abcd", ["abcd", "c"], ("ab", "c")),
        ("xyz", ["yz", "xyz"], ("", "xyz")),
    ],
)
def test_text_ends_before_the_stop(text: str, stops: list[str], expected: tuple[str, str | None]) -> None:
    """The stop that is complete first ends the text, and the longer one when two end together."""
    assert matched(text, stops) == expected


def test_text_that_may_become_a_stop_is_held_back() -> None:
    """Text comes out as soon as it cannot be part of a stop, and not before."""
    matcher = StopMatcher(["</end>"])
    assert matcher.push("hello </e") == "hello "
    assert matcher.push("x") == "</ex"
    assert matcher.push("</end") == ""
    assert matcher.push(">more") == ""
    assert matcher.matched == "</end>"
    assert matcher.push("even more") == ""


@settings(deadline=None)
@given(text=letters, stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), data=st.data())
def test_chunking_changes_nothing(text: str, stops: list[str], data: st.DataObject) -> None:
    """However the text is cut, the result is the same, and no stop string is in it."""
    matcher = StopMatcher(stops)
    out, rest = "", text
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        out += matcher.push(rest[:size])
        assert not any(stop in out for stop in stops)
        rest = rest[size:]
    out += matcher.flush()
    assert (out, matcher.matched) == matched(text, stops)
    assert text.startswith(out + (matcher.matched or ""))
    assert (out == text) == (matcher.matched is None)
