"""What a reload promises to apply is seen to be applied: every live key has a test that is marked with it.

`@pytest.mark.live_keys("models.slots")` stands on a test that changes the key in a running service, or in a part of one that
reads the configuration in force, and sees something happen otherwise: another answer, another file, other settings of the next
worker.
"""

import pytest

from lmx_supervisor.config.reloading import LIVE_KEYS
from tests.support.live_keys import keys_of, marked_tests


def test_every_live_key_is_seen_to_change_something() -> None:
    """A key that is declared live without a test that sees its effect fails here, by name."""
    assert sorted(LIVE_KEYS - marked_tests().keys()) == []


def test_no_test_claims_a_key_that_is_not_live() -> None:
    """A key that was renamed, mistyped or taken off the list takes its mark with it."""
    marked = marked_tests()

    assert {key: marked[key] for key in marked.keys() - LIVE_KEYS} == {}


@pytest.mark.parametrize("sure", [True, False])
def test_a_test_that_need_not_run_proves_nothing(sure: bool) -> None:
    """A mark beside a skip does not count."""
    marks = [pytest.mark.live_keys("a.b", "c.d").mark, *([] if sure else [pytest.mark.skipif(True, reason="no").mark])]

    assert keys_of(marks) == ({"a.b", "c.d"} if sure else set())
