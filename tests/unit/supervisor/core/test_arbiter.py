"""How workers that compute at one moment share the host's cores and its time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx_protocol.limits import PREFILL_RATIO_BESIDE_DECODES
from lmx_protocol.messages import Grant
from lmx_protocol.states import ComputeSharing
from lmx_supervisor.core import actions as a
from lmx_supervisor.core import events as e
from lmx_supervisor.core.arbiter import Computing, shared_out
from tests.support.stage import Stage

THREADS, TIME = ComputeSharing.THREADS, ComputeSharing.TIME


def worker(name: str, does: str, *, threads_max: int = 0, sharing: ComputeSharing = THREADS) -> Computing:
    """A worker that does `d`, decodes, or `p`, reads prompts, or both."""
    return Computing(name, sharing, threads_max, decodes="d" in does, prefills="p" in does)


def threads(processors: int, *workers: Computing) -> list[int]:
    """What each gets, in order."""
    grants = shared_out(processors, workers)
    return [grants[one.incarnation].threads for one in workers]


def ratios(processors: int, *workers: Computing) -> list[float]:
    """How much of its time each may put into prompts, in order."""
    grants = shared_out(processors, workers)
    return [grants[one.incarnation].prefill_ratio for one in workers]


@pytest.mark.parametrize(
    ("processors", "workers", "expected"),
    [
        (8, [worker("a", "d")], [8]),
        (8, [worker("a", "d"), worker("b", "p")], [4, 4]),
        (9, [worker("a", "d"), worker("b", "p")], [5, 4]),
        (9, [worker("a", "p"), worker("b", "d")], [4, 5]),
        (8, [worker("a", "d", threads_max=2), worker("b", "p")], [2, 6]),
        (8, [worker("a", "d", threads_max=7), worker("b", "p")], [4, 4]),
        (8, [worker("a", "d", threads_max=16)], [16]),
        (2, [worker("a", "d"), worker("b", "p"), worker("c", "p")], [1, 1, 1]),
        (8, [worker("a", "d", sharing=TIME), worker("b", "p")], [1, 7]),
        (1, [worker("a", "d", sharing=TIME), worker("b", "p")], [1, 1]),
    ],
    ids=[
        "alone",
        "two",
        "odd core to who decodes",
        "whichever comes first",
        "a modest one leaves its part",
        "a bound above the part is none",
        "alone, an operator's word counts",
        "more workers than cores",
        "a GPU needs a core to drive it",
        "no core is left",
    ],
)
def test_cores_are_shared_out(processors: int, workers: list[Computing], expected: list[int]) -> None:
    """Equal parts, at least one each; nothing that somebody could use lies idle."""
    assert threads(processors, *workers) == expected


def test_prompts_are_not_paced_where_everybody_has_cores_of_its_own() -> None:
    """Pacing would cost the one and help nobody."""
    assert ratios(2, worker("a", "d"), worker("b", "p")) == [1, 1]


def test_prompts_are_paced_where_cores_do_not_suffice() -> None:
    """Of three workers on two cores, the one that only reads a prompt steps back for those that decode."""
    beside = PREFILL_RATIO_BESIDE_DECODES
    assert ratios(2, worker("a", "d"), worker("b", "p"), worker("c", "d")) == [1, beside, 1]
    assert ratios(2, worker("a", "p"), worker("b", "p"), worker("c", "p")) == [1, 1, 1]


def test_prompts_are_paced_on_a_device_that_all_use() -> None:
    """On a GPU, who reads prompts leaves time for the others that decode; their ratios add up, and nobody waits for itself."""
    gpu = [worker(name, does, sharing=TIME) for name, does in (("a", "d"), ("b", "p"), ("c", "p"))]
    beside = PREFILL_RATIO_BESIDE_DECODES
    assert ratios(8, *gpu) == [1, beside / 2, beside / 2]
    assert ratios(8, gpu[1], gpu[2]) == [1, 1]
    assert ratios(8, worker("a", "dp", sharing=TIME)) == [1]
    assert ratios(8, worker("e", "dp", sharing=TIME), gpu[0]) == [beside, 1]


def test_who_decodes_elsewhere_does_not_pace_a_gpu() -> None:
    """A prompt on the GPU and a stream on the processor do not meet."""
    assert ratios(8, worker("a", "p", sharing=TIME), worker("b", "d")) == [1, 1]


@given(
    processors=st.integers(1, 64),
    workers=st.lists(
        st.builds(
            Computing,
            incarnation=st.uuids().map(str),
            sharing=st.sampled_from([THREADS, TIME]),
            threads_max=st.integers(0, 128),
            decodes=st.booleans(),
            prefills=st.booleans(),
        ),
        max_size=12,
        unique_by=lambda worker: worker.incarnation,
    ),
)
def test_what_is_shared_out_adds_up(processors: int, workers: list[Computing]) -> None:
    """Everybody gets a thread and some time; together no more cores than there are, unless there is no other choice."""
    grants = shared_out(processors, workers)
    by_threads = [one for one in workers if one.sharing is THREADS]
    given_out = sum(grants[one.incarnation].threads for one in by_threads)
    assert set(grants) == {one.incarnation for one in workers}
    assert all(grant.threads >= 1 and 0.001 <= grant.prefill_ratio <= 1 for grant in grants.values())
    assert given_out <= max(processors, len(by_threads)) or len(by_threads) == 1
    assert all(grants[one.incarnation].threads <= one.threads_max for one in by_threads if one.threads_max)


@pytest.fixture
def stage() -> Stage:
    """Two models that compute with threads, on four cores."""
    stage = Stage()
    stage.do(e.ProcessorsCounted(4))
    for model_id in ("a", "b"):
        stage.load(model_id)
        stage.hello(model_id)
        stage.loaded(model_id, sharing=THREADS)
        stage.canary(model_id)
    stage.actions.clear()
    return stage


def granted(stage: Stage) -> list[tuple[str, int]]:
    """The grants sent since the last look: model and threads."""
    models = {stage.incarnation(model_id): model_id for model_id in stage.fleet.state.slots}
    sent = [action for action in stage.of(a.Send) if isinstance(action.message, Grant)]
    stage.actions.clear()
    return [(models[action.incarnation], action.message.threads) for action in sent]


def test_a_canary_computes_too(stage: Stage) -> None:
    """The first computation of a life has been given its threads."""
    stage.load("c")
    stage.hello("c")
    stage.loaded("c", sharing=THREADS)
    assert granted(stage) == [("c", 4)]


def test_workers_are_told_when_their_part_changes(stage: Stage) -> None:
    """Alone it has all cores (which it knows); a second one halves them; when that has ended, the first has them again."""
    stage.ask("r1", "a")
    assert granted(stage) == []
    stage.ask("r2", "b")
    assert sorted(granted(stage)) == [("a", 2), ("b", 2)]
    stage.text("r1", 0, "a")
    assert granted(stage) == []
    stage.finish("r2", "b", seq=0)
    assert granted(stage) == [("a", 4)]


def test_a_dead_worker_leaves_its_part(stage: Stage) -> None:
    """What a crashed worker had is the others' at once."""
    stage.ask("r1", "a")
    stage.ask("r2", "b")
    granted(stage)
    stage.die("b")
    assert a.Send(stage.incarnation("a"), Grant(threads=4)) in stage.actions


def test_counting_tokens_takes_no_cores(stage: Stage) -> None:
    """It is done beside the model, and nobody gives anything up for it."""
    stage.ask("r1", "a")
    stage.ask_for_count("r2", "b")
    assert granted(stage) == []


def test_what_takes_nothing_shares_nothing() -> None:
    """A worker whose backend computes nothing is told nothing, and takes nobody's part."""
    stage = Stage()
    stage.do(e.ProcessorsCounted(4))
    stage.ready("quiet")
    stage.ask("r1", "quiet")
    assert stage.sent(Grant) == []
