"""Section C, inside the supervisor's own process: a blocked loop and exceptions where none should be. F37, F38.

The whole service runs on the test's loop, with real workers; the faults are put where no signal and no file can reach.
"""

import asyncio
import os
import time
from pathlib import Path

import pytest

from lmx_protocol.messages import Failed, Finished
from lmx_supervisor.core import events as e
from lmx_supervisor.core.actions import Autopsy
from lmx_supervisor.core.exit_reason import ExitReason
from lmx_supervisor.core.fleet import Fleet
from lmx_supervisor.core.service import Origin
from lmx_supervisor.runtime.worker_process import WorkerProcess
from tests.support.inside import COUNTED_WORDS, ask, request, service
from tests.support.world import World

FULL = os.environ.get("LMX_FAULTS_FULL") == "1"
BLOCKED_SECONDS = 10.0 if FULL else 7.0
DEADLINE_SECONDS = 2.0
ANSWER_SECONDS = 6.0


@pytest.mark.fault("F37", "a blocked loop extends deadlines like a sleep: nobody is killed, and the lag is on record")
async def test_f37_a_blocked_loop_kills_nobody(world: World, tmp_path: Path) -> None:
    """The loop stands still for longer than every deadline while a model generates: same worker, whole answer, lag known."""
    deadlines = ("BEAT_DEAD", "PROGRESS_STALL", "HELLO")
    environment = {f"LMX_SUPERVISION__{name}_SECONDS": str(DEADLINE_SECONDS) for name in deadlines}
    environment |= {"LMX_SUPERVISION__BEAT_SUSPECT_SECONDS": "1", "LMX_SUPERVISION__BEAT_INTERVAL_SECONDS": "0.5"}
    async with service(tmp_path, **environment) as running:
        worker_before = running.service.fleet().worker("m")
        answer = asyncio.create_task(ask(running, "r1"))
        await asyncio.sleep(0.1)
        time.sleep(BLOCKED_SECONDS)  # noqa: ASYNC251 - the fault itself
        said, end = await asyncio.wait_for(answer, ANSWER_SECONDS)
        worker_after = running.service.fleet().worker("m")
        lag_seconds = running.service.status().loop_lag_max_seconds

    assert isinstance(end, Finished)
    assert len(said.split()) == COUNTED_WORDS
    assert worker_before is not None and worker_after is not None
    assert (worker_after.pid, worker_after.restarts) == (worker_before.pid, 0)
    assert lag_seconds >= BLOCKED_SECONDS - 1
    world.measure(f"lag on record after {BLOCKED_SECONDS:.0f} s without the loop", lag_seconds, "s")


@pytest.mark.fault("F38", "an exception in a decision is logged and the loop lives: everybody else is served")
async def test_f38_a_failed_decision_does_not_end_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One event makes the core raise; the next request of another client is answered as always."""
    async with service(tmp_path) as running:
        _raise_once(monkeypatch, e.RequestCancelled)
        running.service.submit(request("r1"), Origin()).cancel()
        said, end = await asyncio.wait_for(ask(running, "r2"), ANSWER_SECONDS)

    assert isinstance(end, Finished)
    assert len(said.split()) == COUNTED_WORDS
    assert "core_failed" in caplog.text


@pytest.mark.fault("F38", "a request whose decision failed gets its end all the same")
async def test_f38_a_request_the_core_failed_on_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The core raises on the arrival of a request: its client is told, and does not wait for ever."""
    async with service(tmp_path) as running:
        _raise_once(monkeypatch, e.RequestArrived)
        _, end = await asyncio.wait_for(ask(running, "r1"), ANSWER_SECONDS)

    assert isinstance(end, Failed)


@pytest.mark.fault("F38", "an exception in the execution of a decision costs that model's worker, not the loop")
async def test_f38_a_failed_execution_does_not_end_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sending to a worker raises once: the request ends, and the next one is answered."""
    async with service(tmp_path) as running:
        send, failures = WorkerProcess.send, iter([OSError(5, "injected")])

        def failing_once(process: WorkerProcess, message: object) -> None:
            for failure in failures:
                raise failure
            send(process, message)  # type: ignore[arg-type]

        with monkeypatch.context() as patched:
            patched.setattr(WorkerProcess, "send", failing_once)
            await asyncio.wait_for(ask(running, "r1"), ANSWER_SECONDS)
        _, end = await asyncio.wait_for(ask(running, "r2"), ANSWER_SECONDS)

    assert isinstance(end, Finished)


def _raise_once(monkeypatch: pytest.MonkeyPatch, kind: type[e.Event]) -> None:
    """The next event of this kind makes the core raise."""
    handle, failures = Fleet.handle, iter([RuntimeError("injected")])

    def failing_once(fleet: Fleet, event: e.Event, now: float) -> object:
        if isinstance(event, kind):
            for failure in failures:
                raise failure
        return handle(fleet, event, now)

    monkeypatch.setattr(Fleet, "handle", failing_once)


@pytest.mark.fault("F38", "three failed decisions within a minute end the service in order, with a bundle that says why")
async def test_f38_three_failures_in_a_minute_are_a_controlled_exit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third failure asks for the exit and leaves the stacks; two do not."""
    async with service(tmp_path) as running:
        told: list[Autopsy] = []
        running.supervisor.on_autopsy(told.append)
        for number in range(3):
            assert not running.supervisor.unsound.is_set()
            with monkeypatch.context() as patched:
                _raise_once(patched, e.RequestArrived)
                await asyncio.wait_for(ask(running, f"r{number}"), ANSWER_SECONDS)

        assert running.supervisor.unsound.is_set()
        assert [autopsy.verdict.reason for autopsy in told] == [ExitReason.SUPERVISOR_FAILED]
        assert "injected" in told[0].observation.crash_head
