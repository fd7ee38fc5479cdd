"""The bound on labels that others choose."""

from lmx_supervisor.observe.labels import OTHER, BoundedLabels


def test_only_the_first_names_get_a_label_of_their_own() -> None:
    """Names past the bound share one label; the first ones keep theirs."""
    labels = BoundedLabels(2)
    assert [labels.learn(name) for name in ("a", "b", "c", "a")] == ["a", "b", OTHER, "a"]
    assert "c" not in labels


def test_asking_for_a_label_takes_no_room() -> None:
    """A name that is only looked up is not remembered."""
    labels = BoundedLabels(1)
    assert labels.known("stranger") == OTHER
    assert labels.learn("a") == "a"
