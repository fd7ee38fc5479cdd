"""Section D, inside the supervisor's own process: a jumping clock, memory that stays away, a silent disk. F49, F50, F52."""

import asyncio
import functools
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Finished
from lmx_supervisor.catalog import catalog
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.core.service import LoadOrder
from lmx_supervisor.host import Running
from lmx_supervisor.runtime import supervisor
from lmx_supervisor.runtime.memory_return import MemoryProbe, missing_until_back
from tests.support.inside import COUNTED_WORDS, ask, service
from tests.support.world import World

SECONDS_PER_HOUR = 3600.0
SECONDS_PER_YEAR = 365 * 24 * SECONDS_PER_HOUR
JUMPS_SECONDS = (SECONDS_PER_HOUR, -SECONDS_PER_HOUR, 10 * SECONDS_PER_YEAR, -10 * SECONDS_PER_YEAR)
ANSWER_SECONDS = 20.0
PATIENCE_SECONDS = 0.5
LARGE = f"load: {{ballast_bytes: {2 * limits.MEMORY_RETURN_MIN_BYTES}}}"


@pytest.mark.fault("F49", "the wall clock jumps by an hour or ten years, both ways: no restart, no deadline moves")
async def test_f49_jumps_of_the_wall_clock_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock jumps four times while a model generates: the same worker gives the whole answer."""
    real_time = time.time
    async with service(tmp_path) as running:
        before = running.service.fleet().worker("m")
        answer = asyncio.create_task(ask(running, "r1"))
        for jump_seconds in JUMPS_SECONDS:
            monkeypatch.setattr(time, "time", functools.partial(_jumped, real_time, jump_seconds))
            await asyncio.sleep(2 * limits.LOOP_TICK_SECONDS)
        said, end = await asyncio.wait_for(answer, ANSWER_SECONDS)
        after = running.service.fleet().worker("m")
        monkeypatch.undo()

    assert isinstance(end, Finished)
    assert len(said.split()) == COUNTED_WORDS
    assert before is not None and after is not None
    assert (after.pid, after.restarts, after.state) == (before.pid, 0, before.state)


@pytest.mark.fault(
    "F50", "memory that does not come back after a death: an alarm, no restart loop, and loads that do not fit are refused"
)
async def test_f50_memory_that_does_not_come_back_is_not_spent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The probe says that nothing has become free by the kill; when it says otherwise the model can be loaded again."""
    caplog.set_level("INFO")
    probe = _StubbornMemory()
    monkeypatch.setattr(supervisor, "MemoryProbe", lambda: probe)
    patience = functools.partial(missing_until_back, patience_seconds=PATIENCE_SECONDS)
    monkeypatch.setattr(supervisor, "missing_until_back", patience)
    async with service(
        tmp_path, LARGE, LMX_SUPERVISION__BEAT_INTERVAL_SECONDS="0.2", LMX_MODELS__WARM_SPARE="false"
    ) as running:
        await _until(lambda: (_footprint(running) or 0) > limits.MEMORY_RETURN_MIN_BYTES)
        _kill(running)
        await _until(lambda: "memory_not_reclaimed" in caplog.text)
        with pytest.raises(Refusal, match="memory_not_reclaimed"):
            await running.service.load(LoadOrder(model_id="m"))
        spawned = caplog.text.count("worker_spawned")
        await asyncio.sleep(4 * limits.LOOP_TICK_SECONDS)
        assert caplog.text.count("worker_spawned") == spawned
        probe.bytes = 2**40
        await _until(lambda: "memory_reclaimed" in caplog.text)
        await running.service.load(LoadOrder(model_id="m"))


@pytest.mark.fault("F52", "a disk that does not answer: the loop is not blocked, and whoever needs the disk is told in time")
async def test_f52_a_silent_disk_blocks_nobody_else(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look into the models directory never returns: loads end with 503, a loaded model is served as always."""
    released = threading.Event()
    monkeypatch.setattr(limits, "CATALOG_SECONDS", 1.0)
    async with service(tmp_path) as running:
        monkeypatch.setattr(catalog, "scan", lambda _: released.wait())
        began = time.monotonic()
        load = asyncio.create_task(running.service.load(LoadOrder(model_id="other")))
        _, end = await asyncio.wait_for(ask(running, "r1"), ANSWER_SECONDS)
        with pytest.raises(Refusal) as refused:
            await load
        released.set()
        lag_seconds = running.service.status().loop_lag_max_seconds

    assert isinstance(end, Finished)
    assert refused.value.code is ErrorCode.OVERLOADED
    assert time.monotonic() - began < ANSWER_SECONDS
    world.measure("loop lag meanwhile", lag_seconds, "s", limits.LOOP_LAG_SUSPECT_SECONDS)


class _StubbornMemory(MemoryProbe):
    """A machine that does not free memory before a process has gone, and maybe not afterwards."""

    frees_before_exit = False
    bytes = 0

    def available_bytes(self) -> int:
        return self.bytes


def _jumped(real_time: Callable[[], float], by_seconds: float) -> float:
    return real_time() + by_seconds


def _footprint(running: Running) -> int | None:
    worker = running.service.fleet().worker("m")
    return worker.footprint_bytes if worker is not None else None


def _kill(running: Running) -> None:
    worker = running.service.fleet().worker("m")
    assert worker is not None and worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(ANSWER_SECONDS):
        while not true():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(limits.LOOP_TICK_SECONDS / 5)
