"""A job's process from the supervisor's side, also one that is none of ours."""

import asyncio
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from lmx_protocol.jobs import JobMessage, JobProgress, JobSpec
from lmx_protocol.version import PROTOCOL_VERSION
from lmx_supervisor.core.exit_reason import ExitObservation
from lmx_supervisor.runtime import spawner
from lmx_supervisor.runtime.job_process import JobProcess
from lmx_supervisor.runtime.run_dir import RunDir
from tests.support.holdings import descriptor_kinds
from tests.support.job_harness import fetch_work
from tests.support.live import wait_until
from tests.support.orphans import adopted_orphans

Program = Callable[[str], None]
SAY_PROGRESS = r"printf '\000\000\000\015\224\250progress\007\001\300'"
"""The frame of a progress of 7 bytes and 1 file, without trouble."""


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[RunDir]:
    """A run directory of the test's own."""
    run_dir = RunDir(tmp_path / "run")
    yield run_dir
    run_dir.close()


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Makes a shell script stand in for Python, so that a process says what the test wants."""

    def use(text: str) -> None:
        path = tmp_path / "program"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(spawner.sys, "executable", str(path))

    return use


class Watched:
    """A job and everything that is heard of it."""

    def __init__(self, run_dir: RunDir, tmp_path: Path) -> None:
        self.messages: list[JobMessage] = []
        self.spoke = asyncio.Event()
        self.violations: list[str] = []
        self._end: asyncio.Future[ExitObservation] = asyncio.get_running_loop().create_future()
        spec = JobSpec(
            protocol=PROTOCOL_VERSION,
            job="job-1",
            supervisor_pid=os.getpid(),
            beat_interval_seconds=0.05,
            c_watchdog_seconds=60.0,
            environment={},
            work=fetch_work(tmp_path / "models"),
        )
        self.process = JobProcess(
            spec,
            run_dir,
            on_message=self._hear,
            on_violation=self.violations.append,
            on_exit=self._end.set_result,
        )

    def _hear(self, message: JobMessage) -> None:
        self.messages.append(message)
        self.spoke.set()

    async def first_words(self) -> None:
        """Return when it has said something."""
        async with asyncio.timeout(60):
            await self.spoke.wait()

    async def end(self) -> ExitObservation:
        """How it ended."""
        async with asyncio.timeout(60):
            return await self._end


async def test_words_and_end_of_a_job(run_dir: RunDir, tmp_path: Path, program: Program) -> None:
    """What it said last is heard before its exit, stderr is kept apart, and nothing of ours is left."""
    before = descriptor_kinds(os.getpid())
    program(f"{SAY_PROGRESS}; echo oh no >&2; exit 3")
    watched = Watched(run_dir, tmp_path)
    seen = await watched.end()

    assert watched.messages == [JobProgress(done_bytes=7, files_done=1)]
    assert (seen.code, seen.signal_number, seen.stderr_tail) == (3, None, "oh no\n")
    assert watched.violations == []
    assert descriptor_kinds(os.getpid()) == before


async def test_a_flood_of_what_is_no_message(run_dir: RunDir, tmp_path: Path, program: Program) -> None:
    """One violation, however much follows, and the pipe is drained: the process can end."""
    program("head -c 1000000 /dev/zero | tr '\\0' '\\377'")
    watched = Watched(run_dir, tmp_path)
    seen = await watched.end()

    assert seen.code == 0
    assert len(watched.violations) == 1
    assert watched.messages == []


async def test_a_kill_reaches_what_a_job_has_started(run_dir: RunDir, tmp_path: Path, program: Program) -> None:
    """The whole group ends, and a kill after the end hits nobody."""
    program(f"sleep 600 & echo $! > {tmp_path}/child; {SAY_PROGRESS}; wait")
    watched = Watched(run_dir, tmp_path)
    await watched.first_words()
    watched.process.kill()
    seen = await watched.end()
    watched.process.kill()

    assert seen.signal_number == 9
    child = int((tmp_path / "child").read_text())

    def is_gone() -> bool:
        adopted_orphans(frozenset())  # where they come to us, the dead among them are reaped by that
        return not psutil.pid_exists(child)

    wait_until(is_gone, 10.0, "the child to be gone")


async def test_a_real_job_that_is_killed(run_dir: RunDir, tmp_path: Path) -> None:
    """A real one beats until it is killed; its crash file is gone with it."""
    watched = Watched(run_dir, tmp_path)
    await watched.first_words()
    watched.process.kill()
    seen = await watched.end()

    assert seen.signal_number == 9
    assert isinstance(watched.messages[0], JobProgress)
    assert not run_dir.crash_file("job-1").exists()
