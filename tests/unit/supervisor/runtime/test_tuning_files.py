"""What measuring leaves on the disk: tuned profiles in TOML, results of benchmarks in JSON."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lmx_protocol import limits
from lmx_supervisor.core.autotune import Metrics, TunedRecord
from lmx_supervisor.core.benchmark import BenchmarkResult, stats_of
from lmx_supervisor.core.load_profile import NOTHING, LoadProfile
from lmx_supervisor.runtime.backend_versions import installed_version
from lmx_supervisor.runtime.benchmark_files import read_results, write_result
from lmx_supervisor.runtime.tuned_profiles import FILE_NAME, TunedProfiles, read_tuned
from lmx_worker.backends.llamacpp.backend import LlamaCppBackend
from lmx_worker.backends.scripted.backend import ScriptedBackend
from tests.unit.supervisor.core.test_benchmark import sample

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def record(model_id: str = "org/m", version: str = "1", ts: float = 1.0, **profile: Any) -> TunedRecord:
    """The scripted backend's version is 1."""
    return TunedRecord(
        ts=ts, model_id=model_id, backend="scripted", backend_version=version, profile=profile, metrics=Metrics(), score=1.5
    )


def result(model_id: str, at: datetime) -> BenchmarkResult:
    """One result."""
    return BenchmarkResult(
        model_id=model_id,
        backend="scripted",
        timestamp=at.isoformat(),
        status="ok",
        hardware="a machine",
        lmx_version="1",
        prompt_preview="go",
        stats=stats_of([sample()], warmup_runs=0),
    )


async def test_a_record_is_used_by_the_version_it_was_made_with(tmp_path: Path) -> None:
    """Also after a restart; another version, backend or model knows nothing of it; the newest is found where none is named."""
    profiles = TunedProfiles(tmp_path, None, pytest.fail)
    await profiles.keep(record(slots=8, temperature=0.5))
    await profiles.keep(record(version="2", ts=2.0, slots=2))
    await profiles.close()
    again = TunedProfiles(tmp_path, read_tuned(tmp_path).document, pytest.fail)

    for known in (profiles, again):
        assert known.profile_for("org/m", "scripted").slots == 8
        assert known.profile_for("org/m", "llamacpp") is NOTHING is known.profile_for("other", "scripted")
        assert known.find("org/m", None, None) == record(version="2", ts=2.0, slots=2)
        assert known.find("org/m", "scripted", "1") == record(slots=8, temperature=0.5)
        assert known.find("org/m", "mlx", None) is None
    await again.close()
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


async def test_a_profile_that_cannot_be_is_left_out(tmp_path: Path) -> None:
    """Somebody edited it: the load goes on without, the record is still shown."""
    profiles = TunedProfiles(tmp_path, None, pytest.fail)
    await profiles.keep(record(slotz=8))

    assert profiles.profile_for("org/m", "scripted") == LoadProfile()
    assert profiles.find("org/m", None, None) is not None
    await profiles.close()


async def test_the_oldest_records_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry is bounded."""
    monkeypatch.setattr(limits, "TUNED_PROFILES_MAX", 2)
    profiles = TunedProfiles(tmp_path, None, pytest.fail)
    for number, ts in enumerate((3.0, 1.0, 2.0)):
        await profiles.keep(record(f"m{number}", ts=ts))

    assert [profiles.find(f"m{number}", None, None) is None for number in range(3)] == [False, True, False]
    await profiles.close()


@pytest.mark.parametrize("text", ["", "schema = [", "schema = 2", "schema = 1\nrecords = 3", "\xff"])
def test_an_unusable_file_is_set_aside(tmp_path: Path, text: str) -> None:
    """Empty, no TOML, of another schema or shape: the evidence stays, the service starts afresh."""
    (tmp_path / FILE_NAME).write_text(text, encoding="latin-1")
    found = read_tuned(tmp_path)

    assert found.document is None
    assert found.set_aside is not None
    assert found.set_aside.name.startswith(f"{FILE_NAME}.corrupt-")


def test_results_come_back_the_newest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one model or of all; strange names make safe files; what is no result is left out, and the oldest make room."""
    monkeypatch.setattr(limits, "BENCHMARKS_KEPT_MAX", 3)
    assert read_results(tmp_path, None) == []
    results = [result(model_id, NOON + timedelta(seconds=at)) for at, model_id in enumerate(("../x_y", "b", "b", "..."))]
    paths = [write_result(tmp_path, each, NOON + timedelta(seconds=at)) for at, each in enumerate(results)]
    (tmp_path / "benchmarks" / "other_1.json").write_text("{}")

    assert [path.parent for path in paths] == [tmp_path / "benchmarks"] * 4
    assert [path.name.split("_")[0] for path in paths] == ["x-y", "b", "b", "model"]
    assert not paths[0].exists()
    assert read_results(tmp_path, None) == results[:0:-1]
    assert read_results(tmp_path, "b") == [results[2], results[1]]


def test_the_versions_are_those_that_workers_tell() -> None:
    """Read from what is installed, without importing it; a record is found only by these very words."""
    assert installed_version("scripted") == ScriptedBackend().import_libraries()
    assert installed_version("llamacpp") == LlamaCppBackend().import_libraries()
    mlx = installed_version("mlx")
    assert mlx is not None
    assert mlx.startswith("mlx ")
    assert ", mlx-lm " in mlx
    assert installed_version("other") is None


def test_a_document_goes_there_and_back(tmp_path: Path) -> None:
    """Every figure of a result survives its file."""
    kept = result("m", NOON)
    path = write_result(tmp_path, kept, NOON)

    assert msgspec.json.decode(path.read_bytes(), type=BenchmarkResult) == kept
