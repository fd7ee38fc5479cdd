"""The boot sweep ends what is certainly ours, and nobody else."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import msgspec
import pytest

from lmx_supervisor.runtime.boot_sweep import FoundProcess, find_process, is_leftover, machine_boot_id, start_time_of, sweep
from lmx_supervisor.runtime.state_file import SavedWorker

SAVED = SavedWorker(pid=100, start_time=12.34, incarnation="b007-1")

# Says that it runs, then waits for its standard input to end.
WAITS = "import sys; print('runs', flush=True); sys.stdin.read()"

Process = subprocess.Popen[str]
Start = Callable[..., Process]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts processes with arguments of the test's choice; all are gone afterwards."""
    started: list[Process] = []

    def start_one(*arguments: str) -> Process:
        process = subprocess.Popen(
            [sys.executable, "-c", WAITS, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        return process

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


def saved(process: Process, incarnation: str) -> SavedWorker:
    """The process as the state file would have it."""
    start_time = start_time_of(process.pid)
    assert start_time is not None
    return SavedWorker(pid=process.pid, start_time=start_time, incarnation=incarnation)


@pytest.mark.parametrize(
    ("found", "ours"),
    [
        (None, False),
        (FoundProcess(12.34, ("python", "-m", "lmx_worker", "--incarnation", "b007-1")), True),
        (FoundProcess(12.34, ("lmx-worker", "org/m", "[b007-1]")), True),
        (FoundProcess(12.34, ("lmx-worker", "org/m", "[b007-11]")), False),
        (FoundProcess(12.34, ("vi", "b007-1.txt")), False),
        (FoundProcess(12.35, ("lmx-worker", "org/m", "[b007-1]")), False),
        (FoundProcess(12.34, ()), False),
    ],
)
def test_a_process_is_ours_only_if_everything_matches(found: FoundProcess | None, ours: bool) -> None:
    """The pid led here; start time and the whole incarnation decide."""
    assert is_leftover(SAVED, found) is ours


def test_a_leftover_is_killed_and_gone_afterwards(start: Start) -> None:
    """A worker that outlived its supervisor does not outlive the next start."""
    process = start("lmx-worker", "m", "[b007-1]")
    worker = saved(process, "b007-1")

    assert sweep([worker], machine_boot_id()) == [worker]
    assert not is_leftover(worker, find_process(process.pid))
    assert process.wait(5) == -9


def test_a_stranger_with_a_reused_pid_lives(start: Start) -> None:
    """Right pid and even the right words, but started at another time; or started then, but with other words."""
    impostor, stranger = start("[b007-1]"), start("somebody", "else")
    wrong_time = msgspec.structs.replace(saved(impostor, "b007-1"), start_time=1.0)

    assert sweep([wrong_time, saved(stranger, "b007-1")], machine_boot_id()) == []
    assert (impostor.poll(), stranger.poll()) == (None, None)


def test_nothing_of_another_boot_of_the_machine_is_touched(start: Start) -> None:
    """Start times and pids of another boot say nothing."""
    process = start("[b007-1]")

    assert sweep([saved(process, "b007-1")], "another boot") == []
    assert process.poll() is None


def test_the_start_time_is_a_fact_of_the_process(start: Start) -> None:
    """Asked twice it is the same, exactly; a pid without a process has none."""
    process = start()
    first = start_time_of(process.pid)
    process.kill()
    process.wait()

    assert first is not None
    assert start_time_of(os.getpid()) == start_time_of(os.getpid())
    assert start_time_of(process.pid) is None
    assert find_process(process.pid) is None
