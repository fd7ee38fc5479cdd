"""The page of the fault suite: what its lines say for every kind of evidence."""

from tests.fault.report import Evidence, render


def _line(evidence: Evidence) -> str:
    page = render({"F01": evidence}, "Machine: m", "2025-01-01")
    return next(line for line in page.splitlines() if line.startswith("| F01 "))


def test_a_proven_case_shows_its_promises_and_its_worst_figures() -> None:
    """Of several measurements of one name the largest is shown, with two digits and its bound."""
    evidence = Evidence(promises=["one", "two"], passed=2)
    for value in (0.0123, 0.0456, 0.02):
        evidence.measure({"name": "detection", "value": value, "unit": "s", "bound": 0.05})

    assert _line(evidence) == "| F01 | worker killed in mid-stream | one; two | L M | proven | detection 0.046 s (≤ 0.05) |"


def test_a_case_that_failed_is_not_proven_by_its_other_tests() -> None:
    """The failed test is named, and the summary counts it."""
    evidence = Evidence(promises=["one"], passed=3, failed=["test_x"])

    assert "| **failed**: test_x |" in _line(evidence)
    assert "0 of 74 cases are proven, 73 were not run, 1 failed." in render({"F01": evidence}, "m", "d")


def test_a_case_without_a_test_and_one_that_cannot_be_run_say_why() -> None:
    """An unproven promise is visible."""
    page = render({"F01": Evidence(promises=["one"], not_run=["needs macOS"])}, "m", "d")

    assert "| one | L M | not run: needs macOS |" in page
    assert "| F02 | worker killed before the first token | – | L M | not run: no test yet | " in page


def test_a_case_with_a_known_gap_shows_both_what_is_proven_and_what_is_not() -> None:
    """Half a proof is shown as half a proof."""
    assert "| proven; not run: known gap: g |" in _line(Evidence(passed=1, not_run=["known gap: g"]))
