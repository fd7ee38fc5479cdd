"""The probe job as a real process: what it says of models that are well, and of those that are not."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.jobs import JobFailed, JobPhase, JobProbed
from lmx_protocol.states import BackendName, ModelFormat
from tests.support.job_harness import JobHarness, probe_work
from tests.support.live import wait_until
from tests.support.mlx_models import smollm2_gguf

SCRIPTED, SCRIPT = BackendName.SCRIPTED, ModelFormat.SCRIPT
MIB = 1024**2


def scripted(tmp_path: Path, text: str = "{}") -> Path:
    """A scripted model."""
    path = tmp_path / "m.script.yaml"
    path.write_text(text)
    return path


def run(path: Path, directory: Path, backend: BackendName, format_: ModelFormat) -> JobProbed | JobFailed:
    """One probe from start to end."""
    with JobHarness(probe_work(path, backend, format_), directory) as job:
        outcome = job.outcome()
    assert isinstance(outcome, JobProbed | JobFailed)
    return outcome


def test_a_scripted_model_passes(tmp_path: Path) -> None:
    """What the script says is told."""
    passed = run(scripted(tmp_path, "{context_length: 77}"), tmp_path, SCRIPTED, SCRIPT)

    assert JobProbed(backend_version="1", architecture="script", train_context_length=77, vocabulary_size=0) == passed


@pytest.mark.real
def test_a_gguf_file_is_opened_without_its_weights(tmp_path: Path) -> None:
    """Architecture, context and vocabulary of the demo model, in less memory than its weights take."""
    work = probe_work(smollm2_gguf(), BackendName.LLAMACPP, ModelFormat.GGUF)
    with JobHarness(work, tmp_path, beat_seconds=0.01) as job:
        passed = job.outcome()
    most_bytes = max(said.memory_bytes for said in job.said if isinstance(said, JobPhase))

    assert isinstance(passed, JobProbed)
    assert ("llama", 8192, 49152) == (passed.architecture, passed.train_context_length, passed.vocabulary_size)
    assert 0 < most_bytes < smollm2_gguf().stat().st_size + 40 * MIB


@pytest.mark.real
def test_a_gguf_file_that_lacks_a_tensor(tmp_path: Path) -> None:
    """It is whole to its last byte, and llama.cpp's own words say what it lacks."""
    data = smollm2_gguf().read_bytes()
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(data.replace(b"blk.3.ffn_up.weight", b"blk.3.ffn_up.weighs", 1))
    failed = run(broken, tmp_path, BackendName.LLAMACPP, ModelFormat.GGUF)

    assert isinstance(failed, JobFailed)
    assert ErrorCode.MODEL_PROBE_FAILED is failed.code
    assert "blk.3.ffn_up.weight" in failed.message


def test_a_script_that_is_none(tmp_path: Path) -> None:
    """The refusal says what is wrong with it."""
    failed = run(scripted(tmp_path, "answers: 7"), tmp_path, SCRIPTED, SCRIPT)

    assert isinstance(failed, JobFailed)
    assert ErrorCode.MODEL_PROBE_FAILED is failed.code
    assert "answers" in failed.message


def test_a_backend_that_is_none(tmp_path: Path) -> None:
    """It is told apart from a model that is broken."""
    work = probe_work(scripted(tmp_path), "nothing", SCRIPT)  # type: ignore[arg-type]
    with JobHarness(work, tmp_path) as job:
        failed = job.outcome()

    assert isinstance(failed, JobFailed)
    assert ErrorCode.NOT_SUPPORTED is failed.code


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="this system does not tell who sent a signal")
def test_only_its_supervisor_can_ask_it_to_leave(tmp_path: Path) -> None:
    """A SIGTERM to the whole service leaves it alone; one from its supervisor ends it at once, as the kernel does it."""
    path = scripted(tmp_path, "faults: [{when: probe, do: stall}]")
    with JobHarness(probe_work(path, SCRIPTED, SCRIPT), tmp_path) as job:
        assert job.process.stdout is not None
        os.read(job.process.stdout.fileno(), 4)  # the first beat: its signals are in place
        subprocess.run(["/bin/kill", "-TERM", str(job.process.pid)], check=True)
        os.read(job.process.stdout.fileno(), 65536)
        os.read(job.process.stdout.fileno(), 65536)  # it goes on beating
        assert job.process.poll() is None
        os.kill(job.process.pid, signal.SIGTERM)
        wait_until(lambda: job.process.poll() is not None, 20.0, "it to leave")

    assert -signal.SIGTERM == job.process.returncode
