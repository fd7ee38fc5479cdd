"""Starting a worker leaves either a whole worker or nothing."""

import os
import signal
from pathlib import Path

import pytest

from lmx_protocol import limits
from lmx_protocol.messages import BootSpec
from lmx_supervisor.runtime import spawner
from tests.support.holdings import descriptor_kinds

_KEY = b"0" * 40
SPEC = BootSpec(
    protocol=1,
    incarnation="i",
    endpoint="ipc:///nowhere",
    backend="scripted",
    server_public_key=_KEY,
    server_secret_key=_KEY,
    client_public_key=_KEY,
    supervisor_pid=os.getpid(),
    beat_interval_seconds=1.0,
    c_watchdog_seconds=60.0,
)


def test_a_worker_killed_before_it_read_its_specification_is_reported_by_its_exit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reads the pipe any more; the start still hands over pid and pipes, for the exit to be seen."""
    before = descriptor_kinds(os.getpid())
    monkeypatch.setattr(spawner.sys, "executable", "/bin/false")
    popen = spawner._popen

    def popen_and_wait(*arguments: object) -> int:
        pid = popen(*arguments)  # type: ignore[arg-type]
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return pid

    monkeypatch.setattr(spawner, "_popen", popen_and_wait)
    spawned = spawner.spawn_worker(SPEC, tmp_path / "crash")
    spawned.abandon()

    assert descriptor_kinds(os.getpid())["pipe"] == before["pipe"]


@pytest.mark.parametrize("free", [0, 1, 2])
def test_a_failed_start_leaves_no_pipe_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """The system refuses the first pipe, the second pipe, or the process: what was opened before is closed again."""
    before = descriptor_kinds(os.getpid())
    pipe, pipes = os.pipe, iter(range(free))

    def limited_pipe() -> tuple[int, int]:
        if next(pipes, None) is None:
            raise OSError(24, "Too many open files")
        return pipe()

    monkeypatch.setattr(os, "pipe", limited_pipe)
    with pytest.raises(OSError, match="Too many open files"):
        spawner.spawn_worker(SPEC, tmp_path / "crash").abandon()

    assert descriptor_kinds(os.getpid()) == before


def test_an_abandoned_worker_is_gone_and_reaped(tmp_path: Path) -> None:
    """Nothing is left of it, not even a zombie."""
    spawned = spawner.spawn_worker(SPEC, tmp_path / "crash")
    spawned.abandon()

    with pytest.raises(ProcessLookupError):
        os.kill(spawned.pid, signal.SIG_DFL)


@pytest.mark.parametrize(("ours", "theirs"), [({}, str(limits.GOMP_SPIN_ROUNDS)), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_how_long_openmp_threads_spin_is_set_unless_the_operator_says(ours: dict[str, str], theirs: str) -> None:
    """Spinning threads take the processor from the very threads they wait for."""
    assert spawner.worker_environment(ours)["GOMP_SPINCOUNT"] == theirs
