"""What will be wanted next: what followed before goes before what is used often, and what is there is nothing to foresee."""

import pytest

from lmx_protocol import limits
from lmx_supervisor.core.predictor import Predictor


def after(history: str) -> Predictor:
    """A predictor that saw these models, one letter each."""
    predictor = Predictor()
    for model_id in history:
        predictor.note(model_id)
    return predictor


@pytest.mark.parametrize(
    ("history", "present", "predicted"),
    [
        ("", "", None),
        ("aba", "a", None),  # once is no habit
        ("ababa", "a", "b"),
        ("abacabaca", "a", "c"),  # both twice: the one that came last
        ("abababaca", "a", "b"),
        ("ababaca", "ab", None),
        ("abacabaca", "ac", "b"),
        ("aabbaabbaa", "a", "b"),  # staying with a model is no change of it
        ("bbbca", "a", "b"),  # nothing follows: what is used often
        ("bbca", "a", None),
        ("bbbccca", "a", "c"),
        ("bbbbccca", "a", "b"),
        ("bcbcbca", "a", "c"),  # what follows b says nothing about what follows a
        ("aaaa", "", "a"),
    ],
)
def test_prediction(history: str, present: str, predicted: str | None) -> None:
    """Two equal changes make a habit, three uses a favourite; among equals the latest."""
    assert predicted == after(history).predict(set(present))


def test_only_the_latest_are_remembered() -> None:
    """What was a habit long ago is none any more; how often anything was wanted is still known."""
    predictor = after("ab" * 10 + "a" + "c" * (limits.PREDICTOR_HISTORY_MAX - 1) + "a")

    view = predictor.view({"a", "c"})
    assert (limits.PREDICTOR_HISTORY_MAX, None) == (len(view.history), view.predicted_next)
    assert 21 + limits.PREDICTOR_HISTORY_MAX == view.total_accesses


def test_what_is_told_of_it() -> None:
    """Models by how often they were wanted, and how many changes between them are known."""
    view = after("abacb").view(set())

    assert (5, (("a", 2), ("b", 2), ("c", 1)), 4) == (view.total_accesses, view.top_models, view.transition_count)


def test_earlier_runs_count() -> None:
    """What was remembered before this start goes before what it saw itself; a count that cannot be is put right."""
    predictor = Predictor()
    predictor.remember(["a", "b", "a", "b"], 1)
    predictor.note("a")

    assert ("b", 5) == (predictor.predict({"a"}), predictor.view(()).total_accesses)
