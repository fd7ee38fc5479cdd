"""Each key the core decides by, changed in the middle of things: what happens next is what the new value says.

Every scene is played twice, with the reload and without it, so that one in which the key does not matter cannot pass.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmx_protocol.messages import Cancel, LoadProgress
from lmx_protocol.states import WorkerState
from lmx_supervisor.config.load import LoadedConfig, load_config
from lmx_supervisor.config.reloading import plan_reload
from lmx_supervisor.core import actions as a
from lmx_supervisor.core import events as e
from lmx_supervisor.core.actions import WorkerSignal
from lmx_supervisor.core.places import most_of_model
from lmx_supervisor.core.policy import policy_of
from lmx_supervisor.core.slot import SERVING
from lmx_supervisor.core.snapshot import fleet_view
from tests.support.stage import Stage

GB = 1024**3
NEVER = 2000
START: dict[str, Any] = {"models.warm_spare": False, "supervision.restart_jitter_ratio": 0.0}
PATIENT = {"supervision.quarantine_threshold": 100, "supervision.restart_max_in_window": 100}

Scene = Callable[[Stage, Callable[[], None]], Any]


def configured(changes: dict[str, Any], home: Path) -> LoadedConfig:
    """A configuration with these keys."""
    return load_config(file=None, flags=changes, environ={}, home=home)


def seconds_until(stage: Stage, true: Callable[[], object], each_second: Callable[[], object] = lambda: None) -> int:
    """How many seconds pass until it is true; `NEVER` when it does not become so."""
    for second in range(NEVER):
        if true():
            return second
        each_second()
        stage.tick(1.0)
    return NEVER


def until_signalled(stage: Stage, each_second: Callable[[], object] = lambda: None) -> int:
    """How long until the worker gets a signal."""
    return seconds_until(stage, lambda: len(stage.signals()) > 0, each_second)


def silent_worker(stage: Stage, reload: Callable[[], None]) -> int:
    """From its last words to the first signal."""
    stage.ready()
    reload()
    return until_signalled(stage)


def worker_without_hello(stage: Stage, reload: Callable[[], None]) -> int:
    """From its start to the first signal."""
    stage.load()
    reload()
    return until_signalled(stage)


def load_without_progress(stage: Stage, reload: Callable[[], None]) -> int:
    """From the last progress to the first signal."""
    stage.load()
    stage.hello()
    reload()
    return until_signalled(stage)


def endless_load(stage: Stage, reload: Callable[[], None]) -> int:
    """From its start to the first signal, with progress all the time."""
    stage.load()
    stage.hello()
    reload()
    return until_signalled(stage, lambda: stage.say(LoadProgress(phase="weights", done=1, total=2)))


def silent_canary(stage: Stage, reload: Callable[[], None]) -> int:
    """From the load to the first signal."""
    stage.load()
    stage.hello()
    stage.loaded()
    reload()
    return until_signalled(stage, stage.beat)


def when_suspect(stage: Stage, reload: Callable[[], None]) -> int:
    """From its last words to being shown as suspect."""
    stage.ready()
    reload()

    def suspect() -> bool:
        return fleet_view(stage.fleet.state, stage.now, 0.0).workers[0].suspect

    return seconds_until(stage, suspect)


def stuck_engine(stage: Stage, reload: Callable[[], None]) -> int:
    """From the request to the first signal, with heartbeats all the time."""
    stage.ready()
    stage.ask("r")
    reload()
    return until_signalled(stage, stage.beat)


def grace_of_a_hang(stage: Stage, reload: Callable[[], None]) -> int:
    """From the request for stacks to the kill."""
    stage.ready()
    reload()
    until_signalled(stage)
    return seconds_until(stage, lambda: len(stage.signals()) > 1)


def grace_of_a_stop(stage: Stage, reload: Callable[[], None]) -> int:
    """From the request to stop to the kill."""
    stage.ready()
    reload()
    stage.unload()
    return seconds_until(stage, lambda: WorkerSignal.KILL in stage.signals())


def unkillable(stage: Stage, reload: Callable[[], None]) -> int:
    """From the kill to the complaint that it does not help."""
    stage.ready()
    reload()
    stage.unload()
    seconds_until(stage, lambda: WorkerSignal.KILL in stage.signals())
    return seconds_until(stage, lambda: stage.told("worker_unkillable"))


def crash(stage: Stage, times: int, *, up_for_seconds: float = 0.0) -> float:
    """Crash so often; the delay before the restart that follows the last of them."""
    for _ in range(times):
        if stage.state() not in SERVING:
            seconds_until(stage, lambda: stage.state() is WorkerState.SPAWNING)
            stage.come_up()
        if up_for_seconds:
            stage.ask(f"r{stage.now}")
            stage.finish(f"r{stage.now}", seq=0)
        for _ in range(int(up_for_seconds)):
            stage.beat()
            stage.tick(1.0)
        stage.die(signal=11)
    slot = stage.slot()
    return round(max(0.0, slot.restart_at - stage.now), 3) if slot.state is WorkerState.BACKOFF else 0.0


def delay_after(times: int) -> Scene:
    """The wait before the restart that follows so many crashes."""

    def scene(stage: Stage, reload: Callable[[], None]) -> float:
        stage.ready()
        reload()
        return crash(stage, times)

    return scene


def delay_after_some_service(stage: Stage, reload: Callable[[], None]) -> float:
    """The third crash comes after twenty seconds of service."""
    stage.ready()
    reload()
    crash(stage, 2)
    return crash(stage, 1, up_for_seconds=20.0)


def delays_vary(stage: Stage, reload: Callable[[], None]) -> bool:
    """Whether the wait is another than the policy's own."""
    stage.ready()
    reload()
    return crash(stage, 3) != 2.0


def crashes_until_down(stage: Stage, reload: Callable[[], None]) -> int:
    """How often a model may crash, a minute apart, before it stays down."""
    stage.ready()
    reload()
    for number in range(1, 30):
        crash(stage, 1, up_for_seconds=60.0)
        if stage.state() in (WorkerState.FAILED, WorkerState.QUARANTINED):
            return number
    return NEVER


def growing_worker(stage: Stage, reload: Callable[[], None]) -> int:
    """Whether it is dealt with."""
    stage.ready()
    reload()
    stage.beat(footprint_bytes=GB)
    stage.tick(1.0)
    return len(stage.signals())


def load_on_a_fairly_full_host(stage: Stage, reload: Callable[[], None]) -> bool:
    """Whether 30 of 100 GB are granted while 50 are in use."""
    reload()
    stage.host(100 * GB, 50 * GB)
    stage.load(needs_bytes=30 * GB)
    return not stage.of(a.OrderRefused)


def load_beside_an_idle_model(stage: Stage, reload: Callable[[], None]) -> bool:
    """Whether a load that does not fit is let in, at the cost of the idle one."""
    stage.host(100 * GB, 10 * GB)
    stage.ready("idle", needs_bytes=50 * GB)
    reload()
    stage.load("new", needs_bytes=50 * GB)
    return not stage.of(a.OrderRefused)


def idle_model(stage: Stage, reload: Callable[[], None]) -> int:
    """How long it stays; looked at by the minute."""
    stage.ready()
    stage.tick(1.0)
    reload()
    return seconds_until(stage, lambda: stage.state() not in SERVING, stage.beat)


def full_host(stage: Stage, reload: Callable[[], None]) -> bool:
    """Whether requests are shed with 80 of 100 GB in use."""
    reload()
    stage.host(100 * GB, 80 * GB)
    return stage.fleet.state.shedding


def waiting_request(stage: Stage, reload: Callable[[], None]) -> int:
    """How long it waits."""
    stage.load()
    reload()
    stage.ask("r")
    return seconds_until(stage, lambda: len(stage.ends("r")) > 0)


def crowd(stage: Stage, reload: Callable[[], None]) -> int:
    """How many of five requests for a loading model are let wait."""
    stage.load()
    reload()
    for number in range(5):
        stage.ask(f"r{number}")
    return sum(1 for number in range(5) if not stage.ends(f"r{number}"))


def crowd_for_two(stage: Stage, reload: Callable[[], None]) -> int:
    """How many of four requests for two loading models are let wait."""
    stage.load("one")
    stage.load("two")
    reload()
    asked = [f"{model_id} {number}" for model_id in ("one", "two") for number in range(2)]
    for request_id in asked:
        stage.ask(request_id, request_id.partition(" ")[0])
    return sum(1 for request_id in asked if not stage.ends(request_id))


def endless_answer(stage: Stage, reload: Callable[[], None]) -> int:
    """From its lease until its worker is told to stop it; a word of it comes every second."""
    stage.ready()
    stage.ask("r")
    reload()
    seq = itertools.count()
    return seconds_until(stage, lambda: stage.sent(Cancel), lambda: stage.text("r", next(seq)))


def running_of(*clients: str) -> Scene:
    """How many of these clients' requests, spread over two models of four slots, run at once."""

    def scene(stage: Stage, reload: Callable[[], None]) -> int:
        for model_id in ("one", "two"):
            stage.ready(model_id, slots=4)
        reload()
        for number, client in enumerate(clients):
            stage.ask(f"r{number}", ("one", "two")[number % 2], client=client)
        return sum(len(stage.slot(model_id).running) for model_id in ("one", "two"))

    return scene


def places_after_answers(begins_after_seconds: float, answers: int) -> Scene:
    """The places of a model of four slots, so many of whose answers took so long to begin."""

    def scene(stage: Stage, reload: Callable[[], None]) -> int:
        stage.ready(slots=4)
        reload()
        for number in range(answers):
            stage.ask(f"r{number}")
            stage.now += begins_after_seconds
            stage.text(f"r{number}", 0)
            stage.finish(f"r{number}", seq=1)
        return most_of_model(stage.fleet.state, stage.slot())

    return scene


def places_on_a_full_host(stage: Stage, reload: Callable[[], None]) -> int:
    """The places of a model of four slots while memory is short, though not so short that requests are shed."""
    stage.ready(slots=4)
    reload()
    stage.host(100 * GB, int(94.9 * GB))
    return most_of_model(stage.fleet.state, stage.slot())


def look_for_the_next_model(stage: Stage, reload: Callable[[], None]) -> int:
    """From the reload until a model is looked for that is likely to be wanted next."""
    stage.host(100 * GB)
    stage.do(e.AccessesKnown(("a", "b", "a", "b"), 4))
    stage.ready("a", needs_bytes=GB)
    stage.tick()
    reload()
    return seconds_until(stage, lambda: stage.of(a.Prefetch), lambda: stage.beat("a"))


def room_in_the_pool(stage: Stage, reload: Callable[[], None]) -> bool:
    """Whether a third model is loaded unasked, while nobody has used the two before it."""
    stage.host(100 * GB)
    stage.tick()
    for model_id in ("b", "c"):
        stage.prefetch(model_id, GB)
        stage.come_up(model_id)
    reload()
    stage.prefetch("d", GB)
    return "d" in stage.fleet.state.slots


SCENES: list[tuple[str, Any, dict[str, Any], Scene, Any]] = [
    ("supervision.hello_seconds", 3.0, {}, worker_without_hello, 4),
    ("supervision.load_stall_seconds", 20.0, {}, load_without_progress, 21),
    ("supervision.load_total_seconds", 130.0, {}, endless_load, 131),
    ("supervision.canary_seconds", 10.0, {}, silent_canary, 11),
    ("supervision.beat_suspect_seconds", 10.0, {}, when_suspect, 11),
    ("supervision.beat_dead_seconds", 8.0, {}, silent_worker, 9),
    ("supervision.progress_stall_seconds", 20.0, {}, stuck_engine, 21),
    ("supervision.hang_abort_grace_seconds", 6.0, {}, grace_of_a_hang, 6),
    ("supervision.stop_grace_seconds", 4.0, {}, grace_of_a_stop, 4),
    ("supervision.kill_wait_seconds", 3.0, {}, unkillable, 3),
    ("supervision.restart_initial_seconds", 5.0, PATIENT, delay_after(2), 5.0),
    ("supervision.restart_factor", 10.0, PATIENT, delay_after(3), 10.0),
    ("supervision.restart_max_seconds", 1.5, PATIENT, delay_after(3), 1.5),
    ("supervision.restart_jitter_ratio", 1.0, PATIENT, delays_vary, True),
    ("supervision.restart_stable_seconds", 10.0, PATIENT, delay_after_some_service, 0.0),
    ("supervision.restart_window_seconds", 30.0, {"supervision.quarantine_threshold": 100}, crashes_until_down, NEVER),
    ("supervision.restart_max_in_window", 2, {"supervision.quarantine_threshold": 100}, crashes_until_down, 3),
    ("supervision.quarantine_threshold", 2, {"supervision.restart_stable_seconds": 600.0}, crashes_until_down, 2),
    ("supervision.worker_memory_bytes_max", 512 * 1024**2, {}, growing_worker, 1),
    ("memory.max_memory_percent", 70, {}, load_on_a_fairly_full_host, False),
    ("memory.auto_evict_lru", False, {}, load_beside_an_idle_model, False),
    ("memory.ttl_enabled", True, {"memory.ttl_seconds": 100}, idle_model, 119),
    ("memory.ttl_seconds", 60, {"memory.ttl_enabled": True}, idle_model, 59),
    ("memory.ttl_check_interval_sec", 10, {"memory.ttl_enabled": True, "memory.ttl_seconds": 100}, idle_model, 99),
    ("memory.load_shedding_percent", 70.0, {}, full_host, True),
    ("models.semaphore_timeout_sec", 7.0, {}, waiting_request, 7),
    ("models.inference_timeout_sec", 20.0, {}, endless_answer, 20),
    ("models.max_concurrent_requests", 3, {}, running_of(*"abcdef"), 3),
    ("models.per_model_concurrency_limits", {"one": 1}, {}, running_of(*"abcdef"), 4),
    ("models.per_client_default_concurrency", 1, {}, running_of(*"aaabbb"), 2),
    ("models.per_client_concurrency_overrides", {"a": 1}, {}, running_of(*"aaabbb"), 4),
    ("models.adaptive_concurrency_enabled", False, {}, places_after_answers(9.0, 128), 4),
    ("models.adaptive_latency_target_ms", 1000, {}, places_after_answers(2.0, 128), 3),
    ("models.adaptive_latency_window", 8, {}, places_after_answers(9.0, 8), 3),
    ("models.adaptive_min_concurrent_requests", 3, {}, places_on_a_full_host, 3),
    ("models.warm_pool_enabled", True, {}, look_for_the_next_model, 1),
    ("models.prefetch_interval_sec", 40, {"models.warm_pool_enabled": True}, look_for_the_next_model, 40),
    ("models.warm_pool_size", 3, {"models.warm_pool_enabled": True}, room_in_the_pool, True),
    ("models.queue_total", 3, {"models.queue_per_model": 2, "models.queue_total": 4}, crowd_for_two, 3),
    ("models.queue_per_model", 2, {}, crowd, 2),
]
"""Key, its new value, what is configured beside it, what happens, and how that must end with the new value."""


@pytest.mark.live_keys(*(scene[0] for scene in SCENES))
@pytest.mark.parametrize(("key", "value", "beside", "scene", "expected"), SCENES, ids=[scene[0] for scene in SCENES])
def test_a_changed_key_decides_what_happens_next(
    tmp_path: Path, key: str, value: Any, beside: dict[str, Any], scene: Scene, expected: Any
) -> None:
    """With the reload the scene ends as the new value says, without it otherwise."""
    before = configured(START | beside, tmp_path)
    planned = plan_reload(before, configured(START | beside | {key: value}, tmp_path))
    assert planned.updated == (key,)
    seen = []
    for reloads in (True, False):
        stage = Stage(policy_of(before.config))

        def reload(stage: Stage = stage, reloads: bool = reloads) -> None:
            if reloads:
                stage.fleet.policy = policy_of(planned.loaded.config)

        seen.append(scene(stage, reload))
    assert seen[0] == expected
    assert seen[1] != expected
