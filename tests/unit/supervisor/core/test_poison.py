"""Requests that crash their model are found and refused; innocents who shared the crash are not."""

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Begin, GenerateRequest, Sampling
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import events as e
from lmx_supervisor.core.poison import Suspects, fingerprint, is_poison
from lmx_supervisor.core.policy import Policy
from tests.support.stage import Stage


def _patient_stage() -> Stage:
    return Stage(Policy(warm_spare=False, quarantine_threshold=100, restart_max_in_window=100, restart_initial_seconds=0.001))


def _leased(stage: Stage) -> list[str]:
    return sorted(request_id for request_id in stage.slot().running)


def _crash_and_return(stage: Stage) -> None:
    stage.die(signal=11)
    stage.tick(1)
    stage.come_up()


def test_a_request_in_flight_at_two_crashes_is_refused_and_the_model_stays() -> None:
    """The first try costs two crashes (its replay), the second is refused at once, and others are served."""
    stage = _patient_stage()
    stage.ready()
    stage.ask("first", prompt="poison")
    _crash_and_return(stage)
    _crash_and_return(stage)
    assert stage.ends("first")[0].code is ErrorCode.WORKER_LOST
    stage.ask("second", prompt="poison")
    stage.ask("other", prompt="harmless")

    assert stage.ends("second")[0].code is ErrorCode.REQUEST_CRASHES_MODEL
    assert _leased(stage) == ["other"]


def test_innocents_who_shared_the_first_crash_are_cleared_by_their_trial() -> None:
    """Four requests share a crash; replayed one trial at a time, only the culprit is in trial at the next."""
    stage = _patient_stage()
    stage.ready(slots=4)
    for name in ("a", "b", "culprit", "d"):
        stage.ask(name)
    _crash_and_return(stage)
    assert _leased(stage) == ["a"]
    stage.text("a", 0)
    assert _leased(stage) == ["a", "b"]
    stage.text("b", 0)
    assert _leased(stage) == ["a", "b", "culprit"]
    _crash_and_return(stage)
    for name in ("a", "b", "d"):
        stage.ask(f"{name} again", prompt=f"prompt of {name}")
    stage.ask("culprit again", prompt="prompt of culprit")

    assert [stage.ends(f"{name} again") for name in ("a", "b", "d")] == [[], [], []]
    assert stage.ends("culprit again")[0].code is ErrorCode.REQUEST_CRASHES_MODEL


def test_a_trial_lasts_until_the_answer_is_past_the_point_of_the_crash() -> None:
    """A request that crashed at its third token is not cleared by its second."""
    stage = _patient_stage()
    stage.ready()
    stage.ask("r", prompt="late poison")
    for seq in range(3):
        stage.text("r", seq)
    _crash_and_return(stage)
    stage.ask("r2", prompt="late poison")
    for seq in range(3):
        stage.text("r2", seq)
    _crash_and_return(stage)
    stage.ask("r3", prompt="late poison")

    assert stage.ends("r3")[0].code is ErrorCode.REQUEST_CRASHES_MODEL


def test_a_trial_holds_up_nobody_who_is_not_suspected() -> None:
    """Fresh requests run beside a trial; a second suspect waits for its turn."""
    stage = _patient_stage()
    stage.ready(slots=4)
    stage.ask("s1")
    stage.ask("s2")
    _crash_and_return(stage)
    stage.ask("fresh")

    assert _leased(stage) == ["fresh", "s1"]


def test_a_suspicion_is_forgotten_after_its_time() -> None:
    """Ten minutes later the request may try again."""
    suspects = Suspects()
    request = GenerateRequest(request_id="r", model_id="m", prompt="p")
    for _ in range(limits.POISON_CRASHES):
        suspects.accuse(request, 0, now=0.0)
    assert is_poison(suspects.of(request, now=limits.POISON_SECONDS - 1))

    assert suspects.of(request, now=limits.POISON_SECONDS) is None


def test_suspicions_are_bounded() -> None:
    """The oldest go when there are too many."""
    suspects = Suspects()
    for number in range(limits.SUSPECTS_MAX + 1):
        suspects.accuse(GenerateRequest(request_id="r", model_id="m", prompt=str(number)), 0, now=0.0)

    assert suspects.of(GenerateRequest(request_id="r", model_id="m", prompt="0"), now=1.0) is None
    assert suspects.of(GenerateRequest(request_id="r", model_id="m", prompt="1"), now=1.0) is not None


def test_the_fingerprint_is_of_the_computation_not_of_the_asker() -> None:
    """Another id is the same request; another prompt, model or temperature is not."""
    base = GenerateRequest(request_id="a", model_id="m", prompt="p")
    assert fingerprint(base) == fingerprint(GenerateRequest(request_id="b", model_id="m", prompt="p"))
    others = (
        GenerateRequest(request_id="a", model_id="m", prompt="q"),
        GenerateRequest(request_id="a", model_id="n", prompt="p"),
        GenerateRequest(request_id="a", model_id="m", prompt="p", sampling=Sampling(temperature=0.1)),
    )

    assert fingerprint(base) not in {fingerprint(other) for other in others}


def test_a_death_from_outside_accuses_nobody() -> None:
    """An operator who sends SIGTERM to a worker does not poison what it was doing."""
    stage = _patient_stage()
    stage.ready()
    stage.ask("r", prompt="p")
    for _ in range(2):
        stage.die(signal=15)
        stage.tick(1)
        stage.come_up()
    stage.ask("again", prompt="p")

    assert stage.state() is WorkerState.BUSY
    assert not stage.ends("again")


def test_a_cancelled_suspect_does_not_block_the_next_trial() -> None:
    """The trial's place is free when its client is gone."""
    stage = _patient_stage()
    stage.ready(slots=4)
    stage.ask("s1")
    stage.ask("s2")
    _crash_and_return(stage)
    stage.do(e.RequestCancelled("s1"))
    stage.finish("s1", seq=0)

    assert [g.request.request_id for g in stage.sent(Begin)][-1] == "s2"
