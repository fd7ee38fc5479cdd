"""Which settings win, and what trying them may do to a model."""

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.states import WorkerState
from lmx_supervisor.config.schema import ModelsConfig
from lmx_supervisor.core import actions as a
from lmx_supervisor.core import events as e
from lmx_supervisor.core.autotune import Candidate, Metrics, Round, best_of, default_candidates, metrics_of
from lmx_supervisor.core.lasting import lasting
from lmx_supervisor.core.load_profile import NOTHING, LoadProfile, ProfileLayers
from lmx_supervisor.core.policy import Policy
from lmx_supervisor.core.trial import Trial, WantedModel
from tests.support.stage import Stage, spec
from tests.unit.supervisor.core.test_benchmark import sample

BEFORE = WantedModel(spec(), "llamacpp")


def candidate(slots: int, speed: float, *, first_ms: float = 0, total_ms: float = 0, errors: float = 0) -> Candidate:
    """One that was measured."""
    metrics = Metrics(avg_tokens_per_second=speed, avg_ttft_ms=first_ms, avg_total_ms=total_ms, error_rate=errors)
    return Candidate(profile=LoadProfile(slots=slots), metrics=metrics)


def test_metrics_are_of_all_generations_at_one_time_together() -> None:
    """Tokens of everybody by the time of the rounds; failures are a share, and without a sample there is only failure."""
    rounds = [Round(samples=(sample(), sample()), seconds=4.0, failures=1), Round(samples=(sample(),), seconds=1.0)]
    metrics = metrics_of(rounds)

    assert (metrics.avg_tokens_per_second, metrics.avg_ttft_ms, metrics.avg_total_ms) == (6.0, 500.0, 2000.0)
    assert metrics.error_rate == 0.25
    assert metrics.queue_wait_ms == pytest.approx(200)
    assert metrics_of([Round(samples=(), seconds=1.0, failures=3)]) == Metrics()


def test_the_best_score_wins_and_ties_go_to_the_shorter_answer() -> None:
    """The contract's score: speed, less what the first token and errors cost; one that never answered cannot win."""
    assert candidate(1, 100.0, first_ms=1000, errors=0.5).score == 100 - 15 - 25
    fast, waits, fails = candidate(1, 50.0), candidate(2, 60.0, first_ms=1000), candidate(3, 500.0, errors=1)
    assert best_of([waits, fast, fails]) is fast
    longer, shorter = candidate(4, 50.0, total_ms=9), candidate(5, 50.0, total_ms=8)
    assert best_of([longer, shorter]) is shorter
    assert best_of([fails]) is None


def test_the_default_candidates_begin_with_the_configuration() -> None:
    """And are within what may be configured; fewer threads are tried only where there are some to spare."""
    found = default_candidates("llamacpp", ModelsConfig(slots=64, prefill_chunk_tokens=1024), cores=8)
    assert found[0] == NOTHING
    assert {profile.slots for profile in found} == {None, 64}
    assert {profile.prefill_chunk_tokens for profile in found} == {None, 1024}
    assert found[-1] == LoadProfile(threads=4)
    assert all(profile.threads is None for profile in default_candidates("mlx", ModelsConfig(), cores=8))


def replace(stage: Stage, *, digest: str = "2", trial: Trial | None = None, slots: int = 4) -> str:
    """Order a load in place of what is loaded."""
    profile = ProfileLayers(explicit=LoadProfile(slots=slots))
    order = e.LoadWanted(
        f"replace-{digest}", spec(slots=slots), "llamacpp", digest, replaces=True, trial=trial, profile=profile
    )
    stage.do(order)
    return order.order_id


def test_a_replacing_load_ends_the_old_worker_and_requests_wait_for_the_new_one(stage: Stage) -> None:
    """Nobody is refused in between; the new settings are in force, and operators read why the old ones went."""
    stage.ready("m")
    old = stage.incarnation("m")
    order = replace(stage)
    stage.ask("waits")
    assert stage.state() is WorkerState.DRAINING
    stage.die("m", code=0)
    assert stage.state() is WorkerState.SPAWNING
    stage.come_up("m")

    assert stage.incarnation("m") != old
    assert order in [settled.order_id for settled in stage.of(a.LoadSettled)]
    assert "waits" in stage.slot().running
    assert (stage.slot().spec.slots, stage.slot().performance.slots) == (4, 4)
    (unloaded,) = stage.told("model_unloaded")
    assert unloaded["reason"] == "autotune_candidate_swap"


def test_a_trial_that_dies_is_not_restarted_and_counts_for_nothing(stage: Stage) -> None:
    """Neither towards quarantine nor against the requests in flight; a normal load afterwards is a fresh start."""
    stage.ready("m")
    for digest in "2345":
        replace(stage, digest=digest, trial=Trial(BEFORE))
        if stage.state() is WorkerState.DRAINING:
            stage.die("m", code=0)
        stage.come_up("m")
        stage.ask(f"with {digest}", prompt="the same")
        stage.die("m", signal=11)
        assert stage.state() is WorkerState.FAILED

    assert stage.slot().failures.consecutive == 0
    assert not stage.told("model_quarantined")
    order = replace(stage, digest="1")
    stage.come_up("m")
    assert order in [settled.order_id for settled in stage.of(a.LoadSettled)]
    stage.ask("afterwards", prompt="the same")
    assert "afterwards" in stage.slot().running


def test_a_restart_of_the_service_brings_back_what_was_there_before_the_trial(stage: Stage) -> None:
    """Not the candidate; and nothing where nothing was loaded."""
    stage.ready("m")
    replace(stage, trial=Trial(BEFORE))
    stage.die("m", code=0)
    stage.come_up("m")
    assert lasting(stage.fleet.state).wanted == (BEFORE,)
    replace(stage, digest="3", trial=Trial(None))
    stage.die("m", code=0)
    stage.come_up("m")

    assert lasting(stage.fleet.state).wanted == ()


def test_a_trial_releases_no_quarantine_and_is_never_evicted() -> None:
    """Other settings are its nature, no reason to trust the model again; and it makes no room for others while it lasts."""
    stage = Stage(Policy(warm_spare=False))
    for _ in range(3):
        stage.load("m", digest="d")
        stage.die("m", signal=11)
    assert stage.refusal(replace(stage, trial=Trial(None))).code is ErrorCode.MODEL_UNSTABLE

    stage.host(1000)
    stage.do(e.LoadWanted("t", spec("t"), "llamacpp", "t", trial=Trial(None)))
    stage.come_up("t")
    assert not stage.slot("t").is_idle
