"""Which faults are due when."""

from pathlib import Path

from lmx_worker.backends.scripted.plan import FaultPlan, count_life
from lmx_worker.backends.scripted.script import Fault


def test_requests_are_counted_per_fault_and_prompt() -> None:
    """The n-th request is the n-th whose prompt fits that fault."""
    second = Fault(when="request", number=2, do="kill")
    first_bad = Fault(when="request", contains="bad", do="exit")
    plan = FaultPlan((second, first_bad))

    assert [] == plan.due("request", prompt="good")
    assert [second, first_bad] == plan.due("request", prompt="bad")
    assert [] == plan.due("request", prompt="bad")


def test_tokens_come_with_their_number() -> None:
    """A token fault strikes at that token of every request that fits."""
    fault = Fault(when="token", number=3, contains="bad", do="raise")
    plan = FaultPlan((fault,))

    assert [] == plan.due("token", prompt="bad", number=2)
    assert [fault] == plan.due("token", prompt="bad", number=3)
    assert [fault] == plan.due("token", prompt="bad", number=3)
    assert [] == plan.due("token", prompt="good", number=3)


def test_other_moments_always_strike() -> None:
    """Load, ready and the like happen once and need no number."""
    fault = Fault(when="load", do="stall")

    assert [fault] == FaultPlan((fault,)).due("load")
    assert [] == FaultPlan((fault,)).due("ready")


def test_faults_end_with_their_lives() -> None:
    """A fault for one life is gone in the second."""
    fault = Fault(when="load", do="kill", lives=1)

    assert [fault] == FaultPlan((fault,), life=1).due("load")
    assert [] == FaultPlan((fault,), life=2).due("load")


def test_lives_are_counted_only_when_a_fault_asks(tmp_path: Path) -> None:
    """The count is a file beside the script, and a script without `lives` leaves none."""
    script = tmp_path / "m.script.yaml"

    assert 1 == count_life(script, (Fault(when="load", do="kill"),))
    assert [] == list(tmp_path.iterdir())

    mortal = (Fault(when="load", do="kill", lives=1),)

    assert [1, 2, 3] == [count_life(script, mortal) for _ in range(3)]
