"""A job process as the supervisor starts it, without the supervisor: its specification, what it says, how it ends."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Self

from lmx_protocol.jobs import (
    FetchModel,
    JobDone,
    JobFailed,
    JobFrames,
    JobMessage,
    JobPlanned,
    JobProbed,
    JobSpec,
    ProbeModel,
    Work,
    job_frame,
)
from lmx_protocol.messages import ModelSpec
from lmx_protocol.states import BackendName, ModelFormat
from lmx_protocol.version import PROTOCOL_VERSION


def fetch_work(models: Path, repo_id: str = "org/tiny", **changes: object) -> FetchModel:
    """The download of a repository into a models directory, impatient enough for a test."""
    values: dict[str, object] = {
        "repo_id": repo_id,
        "revision": None,
        "allow_patterns": (),
        "ignore_patterns": (),
        "target": str(models / repo_id),
        "staging": str(models / ".downloads" / repo_id.replace("/", "@")),
        "disk_reserve_bytes": 0,
        "stall_seconds": 20.0,
        "attempts_max": 3,
        "retry_initial_seconds": 0.01,
        "retry_max_seconds": 0.05,
    }
    return FetchModel(**(values | changes))  # type: ignore[arg-type]


def probe_work(path: Path, backend: BackendName, format_: ModelFormat, *, memory_bytes_max: int = 1024**3) -> ProbeModel:
    """The probe of a model."""
    spec = ModelSpec(model_id="m", path=str(path), format=format_)
    return ProbeModel(backend=backend, spec=spec, memory_bytes_max=memory_bytes_max)


class JobHarness:
    """One job, ended with the block."""

    def __init__(
        self,
        work: Work,
        directory: Path,
        hub_url: str = "",
        *,
        command: tuple[str, ...] = (),
        beat_seconds: float = 0.05,
        **environment: str,
    ) -> None:
        settings = {"HF_ENDPOINT": hub_url, "HF_HOME": str(directory / "hf"), **environment}
        spec = JobSpec(
            protocol=PROTOCOL_VERSION,
            job="test-job",
            supervisor_pid=os.getpid(),
            beat_interval_seconds=beat_seconds,
            c_watchdog_seconds=60.0,
            environment=settings,
            work=work,
        )
        self.crash_file = directory / "job.crash"
        self.stderr_path = directory / "job.stderr"
        self.said: list[JobMessage] = []
        with self.stderr_path.open("wb") as stderr:
            self.process = subprocess.Popen(
                [
                    *command,
                    sys.executable,
                    "-m",
                    "lmx_worker",
                    "--job",
                    "--incarnation",
                    "test-job",
                    "--crash-file",
                    self.crash_file,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
        assert self.process.stdin is not None
        self.process.stdin.write(job_frame(spec))
        self.process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def outcome(self) -> JobDone | JobProbed | JobFailed:
        """Hear it to its end, which must be an orderly one."""
        assert self.process.stdout is not None
        frames = JobFrames()
        while data := os.read(self.process.stdout.fileno(), 65536):
            self.said += frames.feed(data)
        assert self.process.wait() == 0, self.stderr_path.read_text()
        last = self.said[-1]
        assert isinstance(last, JobDone | JobProbed | JobFailed), last
        return last

    @property
    def plan(self) -> JobPlanned:
        """What it found there was to do."""
        return next(message for message in self.said if isinstance(message, JobPlanned))
