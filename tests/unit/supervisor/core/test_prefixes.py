"""Which workers may leave their computed prompts behind when they stop, and what operators hear of it."""

import pytest

from lmx_protocol import limits
from lmx_protocol.messages import Load, PrefixesDropped, PrefixesSaved, PrefixRestored, Shutdown
from lmx_supervisor.config.schema import Config, ModelsConfig
from lmx_supervisor.core import events as e
from lmx_supervisor.core.policy import Policy, policy_of
from tests.support.stage import Stage

BYTES_MAX = 1000


@pytest.fixture
def stage() -> Stage:
    """A fleet that may keep prompts."""
    return Stage(Policy(warm_spare=False, prefix_cache_bytes_max=BYTES_MAX, stop_grace_seconds=8.0, drain_seconds=5.0))


def test_a_worker_is_told_what_its_prefixes_depend_on(stage: Stage) -> None:
    """The load carries the digest of the files and the configuration."""
    stage.ready(digest="d1")
    (load,) = stage.sent(Load)
    assert load.digest == "d1"


def test_an_unload_keeps_within_half_the_grace(stage: Stage) -> None:
    """There is time left to stop in order after the prompts are written, whatever the grace is."""
    stage.ready()
    stage.unload()
    assert stage.sent(Shutdown) == [Shutdown(grace_seconds=8.0, prefix_bytes_max=BYTES_MAX, prefix_seconds=4.0)]
    stage.fleet.policy = Policy(prefix_cache_bytes_max=BYTES_MAX, stop_grace_seconds=600.0)
    stage.ready("other")
    stage.unload("other")
    assert stage.sent(Shutdown)[-1].prefix_seconds == limits.PREFIX_SAVE_SECONDS


def test_a_service_stop_shares_the_bound(stage: Stage) -> None:
    """All workers stop at once, and together they may keep what the configuration allows."""
    stage.ready("a")
    stage.ready("b")
    stage.do(e.DrainWanted(5.0))
    assert [order.prefix_bytes_max for order in stage.sent(Shutdown)] == [BYTES_MAX // 2] * 2


@pytest.mark.parametrize("order", [e.RestartWanted("o", "m"), e.UnloadWanted("o", "m")], ids=["restart", "unload"])
def test_a_stop_after_running_requests_keeps_too(stage: Stage, order: e.Event) -> None:
    """The drain comes first, then the shutdown with its share."""
    stage.ready()
    stage.ask("r1")
    stage.do(order)
    assert stage.sent(Shutdown) == []
    stage.finish("r1", seq=0)
    assert [order.prefix_bytes_max for order in stage.sent(Shutdown)] == [BYTES_MAX]


def test_a_service_that_is_late_keeps_nothing(stage: Stage) -> None:
    """Requests were cut because the time to stop was over: whoever waits for that may be about to kill us."""
    stage.ready()
    stage.ask("r1")
    stage.do(e.DrainWanted(2.0))
    stage.tick(3.0)
    assert [order.prefix_bytes_max for order in stage.sent(Shutdown)] == [0]


def test_a_model_that_never_served_keeps_nothing(stage: Stage) -> None:
    """A canary that fails, or an unload in mid-load: nothing was computed that is worth trusting."""
    stage.load()
    stage.hello()
    stage.loaded()
    stage.canary(tokens=0)
    stage.ready("other")
    stage.load("third")
    stage.hello("third")
    stage.unload("third")
    assert [order.prefix_bytes_max for order in stage.sent(Shutdown)] == [0, 0]


def test_nothing_is_kept_where_it_is_switched_off() -> None:
    """The configuration's switch is the bound of zero."""
    off = Config(models=ModelsConfig(prefix_cache_enabled=False))
    assert policy_of(off).prefix_cache_bytes_max == 0
    assert policy_of(Config()).prefix_cache_bytes_max == limits.PREFIX_CACHE_DISK_BYTES
    stage = Stage(policy_of(off))
    stage.ready()
    stage.unload()
    assert [order.prefix_bytes_max for order in stage.sent(Shutdown)] == [0]


def test_operators_hear_of_it(stage: Stage) -> None:
    """What was saved, restored and thrown away is told with the model's name."""
    stage.ready()
    stage.say(PrefixRestored(tokens=10, bytes=100, seconds=0.5))
    stage.say(PrefixesDropped(files=2, reason="its checksum is wrong"))
    stage.unload()
    stage.say(PrefixesSaved(prefixes=1, tokens=9, bytes=90, kept=1, seconds=0.25, problem="the disk was too slow"))
    assert stage.told("prefix_restored") == [{"model_id": "m", "tokens": 10, "bytes": 100, "seconds": 0.5}]
    assert stage.told("prefixes_dropped") == [{"model_id": "m", "files": 2, "reason": "its checksum is wrong"}]
    (saved,) = stage.told("prefixes_saved")
    assert (saved["prefixes"], saved["kept"], saved["bytes"], saved["problem"]) == (1, 1, 90, "the disk was too slow")


def test_a_worker_without_a_model_has_no_prefixes(stage: Stage) -> None:
    """One that says so lies, and is ended like any other liar."""
    stage.fleet.policy = Policy(warm_spare=True)
    stage.ready()
    stage.tick(1.0)
    (spare,) = [name for name, worker in stage.fleet.state.incarnations.items() if worker.model_id is None]
    stage.imported(spare)
    stage.do(e.Said(spare, PrefixRestored(tokens=1, bytes=1, seconds=0.0)))
    assert stage.told("protocol_violation")
