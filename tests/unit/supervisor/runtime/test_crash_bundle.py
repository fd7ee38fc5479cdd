"""Crash bundles on a real disk: what is in them, how they appear, and how the oldest go."""

import logging
import stat
import threading
import time
from pathlib import Path

import msgspec
import pytest

from lmx_protocol import limits
from lmx_supervisor.core.crashes import CrashSummary
from lmx_supervisor.core.exit_reason import ExitObservation
from lmx_supervisor.observe.log_format import Redaction
from lmx_supervisor.runtime import native_report
from lmx_supervisor.runtime.crash_archive import CrashArchive
from lmx_supervisor.runtime.crash_bundle import bundle_name, write_bundle
from lmx_supervisor.runtime.crash_recorder import CrashRecorder
from tests.unit.supervisor.runtime.autopsies import STACK, autopsy

AT = 1_767_323_045.678
"""2026-01-02T03:04:05.678Z"""


def write(parent: Path, number: int = 1, at: float = AT, secrets: tuple[str, ...] = (), **changes: object) -> Path:
    """A bundle on the disk."""
    strike = Redaction(secrets).strike
    return write_bundle(parent, autopsy(number, **changes), at, strike, time.monotonic() + limits.CRASH_BUNDLE_SECONDS)


def test_a_bundle_has_everything_that_is_known(tmp_path: Path) -> None:
    """The summary, the stacks and the last output, readable by nobody else."""
    bundle = write(tmp_path / "crashes")
    summary = msgspec.json.decode((bundle / "summary.json").read_bytes(), type=CrashSummary)

    assert bundle.name == "20260102T030405.678Z-org_tiny-0a1b2c3d-1"
    assert (summary.crash_id, summary.at, summary.model_id) == ("0a1b2c3d-1", "2026-01-02T03:04:05Z", "org/tiny")
    assert (summary.reason, summary.signal, summary.exit_code) == ("native_crash", "SIGSEGV", None)
    assert summary.requests[0].sampling["temperature"] == 0.5
    assert summary.spec is not None
    assert summary.spec["path"] == "/models/tiny.gguf"
    assert set(summary.versions) == {"lmx", "python", "platform", "backend"}
    assert (bundle / "stack.txt").read_text() == STACK
    assert (bundle / "stderr.txt").read_text() == "last words\n"
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (bundle.parent, bundle, *bundle.iterdir())}
    assert {0o700 if path.is_dir() else 0o600 for path in modes} >= set(modes.values())


def test_what_is_empty_is_no_file(tmp_path: Path) -> None:
    """A worker killed by SIGKILL leaves neither stacks nor words."""
    bundle = write(tmp_path, observation=ExitObservation(signal_number=9))

    assert [path.name for path in bundle.iterdir()] == ["summary.json"]


def test_secrets_are_struck_out_everywhere(tmp_path: Path) -> None:
    """A key that a backend printed, that stands in a path, or that a story quotes is in no file; the form stays whole."""
    seen = ExitObservation(code=1, stderr_tail='key "hush"', crash_head="hush")
    bundle = write(tmp_path, secrets=("hush",), observation=seen, story=((1.0, "hush hush"),))
    summary = msgspec.json.decode((bundle / "summary.json").read_bytes(), type=CrashSummary)

    assert [path.name for path in bundle.iterdir() if "hush" in path.read_text()] == []
    assert summary.timeline[0].text == "[redacted] [redacted]"


def test_a_secret_that_looks_like_a_field_does_not_break_the_summary(tmp_path: Path) -> None:
    """Only values are searched: the names of fields are ours."""
    bundle = write(tmp_path, secrets=("pid", "1"))

    assert msgspec.json.decode((bundle / "summary.json").read_bytes(), type=CrashSummary).pid == 42


@pytest.mark.parametrize(
    ("model_id", "shown"),
    [(None, "spare"), ("../../etc", "etc"), ("a/b c:d", "a_b_c_d"), ("ü", "model"), ("x" * 500, "x" * 64), ("..", "model")],
)
def test_any_model_id_makes_a_safe_name(model_id: str | None, shown: str) -> None:
    """The name stays one path component, says which model, and ends with the crash id."""
    assert bundle_name(autopsy(model_id=model_id), AT) == f"20260102T030405.678Z-{shown}-0a1b2c3d-1"


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    """No half bundle is ever seen: the directory appears with its last step."""

    def fail(_: str) -> str:
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        write_bundle(tmp_path, autopsy(), AT, fail, time.monotonic() + 5)

    assert list(tmp_path.iterdir()) == []


def test_past_its_deadline_only_the_summary_is_written(tmp_path: Path) -> None:
    """A slow disk costs the attachments first, not the reason."""
    bundle = write_bundle(tmp_path, autopsy(), AT, str, time.monotonic())

    assert [path.name for path in bundle.iterdir()] == ["summary.json"]


def test_the_newest_bundles_stay(tmp_path: Path) -> None:
    """By number and by size; what else lies in the directory is never touched."""
    archive = CrashArchive(tmp_path)
    (tmp_path / "notes").mkdir()
    for number in range(1, limits.CRASH_BUNDLES_MAX + 3):
        write(tmp_path, number, at=AT + number)
    archive.prune()
    kept = archive.headlines(None, 100)

    assert [crash.crash_id for crash in kept][:2] == ["0a1b2c3d-22", "0a1b2c3d-21"]
    assert len(kept) == limits.CRASH_BUNDLES_MAX
    big = tmp_path / f"{bundle_name(autopsy(21), AT + 21)}" / "native.txt"
    with big.open("wb") as file:
        file.truncate(limits.CRASH_BUNDLE_BYTES_TOTAL)
    archive.prune()
    assert [crash.crash_id for crash in archive.headlines(None, 100)] == ["0a1b2c3d-22"]
    assert (tmp_path / "notes").exists()


def test_a_link_is_no_bundle(tmp_path: Path) -> None:
    """Whatever a link in the archive leads to is neither shown nor deleted."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "summary.json").write_text("{}")
    crashes = tmp_path / "crashes"
    for number in range(2, limits.CRASH_BUNDLES_MAX + 2):
        write(crashes, number, at=AT + number)
    (crashes / bundle_name(autopsy(1), AT)).symlink_to(precious)
    CrashArchive(crashes).prune()

    assert (precious / "summary.json").exists()
    assert len(CrashArchive(crashes).headlines(None, 100)) == limits.CRASH_BUNDLES_MAX


def test_headlines_of_one_model_and_broken_bundles(tmp_path: Path) -> None:
    """A model's deaths can be asked for; a bundle that somebody damaged is passed over, not in the way."""
    for number, model_id in ((1, "a"), (2, "b"), (3, "a")):
        write(tmp_path, number, at=AT + number, model_id=model_id)
    damaged = write(tmp_path, 4, at=AT + 4, model_id="a")
    (damaged / "summary.json").write_text("{")
    archive = CrashArchive(tmp_path)

    assert [crash.crash_id for crash in archive.headlines("a", 10)] == ["0a1b2c3d-3", "0a1b2c3d-1"]
    assert [crash.crash_id for crash in archive.headlines(None, 1)] == ["0a1b2c3d-3"]
    assert archive.report("0a1b2c3d-4") is None
    assert CrashArchive(tmp_path / "none").headlines(None, 10) == []


def test_a_report_is_found_by_its_id_alone(tmp_path: Path) -> None:
    """Ids that are paths, parts of names or empty find nothing."""
    write(tmp_path, 12)
    archive = CrashArchive(tmp_path)
    report = archive.report("0a1b2c3d-12")

    assert report is not None
    assert (report.stack, report.stderr, report.native) == (STACK, "last words\n", None)
    for wrong in ("", "2", "-12", "0a1b2c3d-1", "../0a1b2c3d-12", "tiny-0a1b2c3d-12", "0a1b2c3d-12/summary.json", "\0"):
        assert archive.report(wrong) is None, wrong


async def test_the_recorder_writes_what_waits_before_it_closes(tmp_path: Path) -> None:
    """Deaths at the very end of the service are kept too, and what an earlier crash left half written is removed."""
    leftover = tmp_path / ".20260102T030405.678Z-m-0a1b2c3d-9.lmx-tmp"
    leftover.mkdir()
    archive = CrashArchive(tmp_path)
    recorder = CrashRecorder(archive, str)
    for number in (1, 2, 3):
        recorder.record(autopsy(number))
    await recorder.close()

    assert {crash.crash_id for crash in archive.headlines(None, 10)} == {"0a1b2c3d-1", "0a1b2c3d-2", "0a1b2c3d-3"}
    assert not leftover.exists()


async def test_a_disk_that_takes_nothing_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every bundle is lost, nothing raises, and the log has one line for all of them."""
    (tmp_path / "crashes").write_text("a file where the directory should be")
    recorder = CrashRecorder(CrashArchive(tmp_path / "crashes"), str)
    with caplog.at_level(logging.WARNING):
        for number in (1, 2, 3):
            recorder.record(autopsy(number))
        await recorder.close()

    assert [record.getMessage() for record in caplog.records] == ["crash_bundle_lost"]


async def test_a_disk_that_hangs_delays_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recording returns at once however many wait, past the bound they are dropped, and closing gives up in time."""
    monkeypatch.setattr(limits, "CRASH_BUNDLE_SECONDS", 0.1)
    released = threading.Event()

    def hang(text: str) -> str:
        released.wait(10)
        return text

    earlier = set(threading.enumerate())
    recorder = CrashRecorder(CrashArchive(tmp_path), hang)
    began = time.monotonic()
    for number in range(2 * limits.CRASH_BUNDLES_WAITING_MAX):
        recorder.record(autopsy(number))
    recorded_seconds = time.monotonic() - began
    await recorder.close()
    closed_seconds = time.monotonic() - began
    released.set()
    # Or it would write on, and close its files, in the middle of another test.
    for writing in set(threading.enumerate()) - earlier:
        writing.join(10)
        assert not writing.is_alive()

    assert recorded_seconds < 0.1
    assert closed_seconds < 1.0


def test_the_systems_own_report_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where systemd collects crashes, what it says of the process is in the bundle."""
    program = tmp_path / "bin" / "coredumpctl"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "report of $3"\n')
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setattr(native_report.sys, "platform", "linux")

    assert (write(tmp_path / "crashes") / "native.txt").read_text() == "report of 42\n"


def test_a_diagnostic_report_is_found_by_its_process(tmp_path: Path) -> None:
    """The seam for macOS: the report that names the process, with the path where it lies."""
    report = tmp_path / "python3-2026-01-02-030405.ips"
    report.write_text('{"pid" : 42, "exception" : {}}')

    assert native_report.diagnostic_report(tmp_path, 42) == f"{report}\n{report.read_text()}"
    assert native_report.diagnostic_report(tmp_path, 4) is None
