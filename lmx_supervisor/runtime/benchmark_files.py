"""`<home>/benchmarks/<model>_<time>.json`: the results of benchmarks, a bounded number of them. All calls block on the disk."""

import re
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from lmx_protocol import limits
from lmx_supervisor.core.benchmark import BenchmarkResult
from lmx_supervisor.runtime.atomic_file import write_atomically

DIRECTORY = "benchmarks"

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9.-]+")
_SLUG_CHARACTERS_MAX = 64


def write_result(home: Path, result: BenchmarkResult, now: datetime) -> Path:
    """Keep a result; the oldest make room. Raises `FileWriteError`."""
    slug = _NOT_IN_NAMES.sub("-", result.model_id)[:_SLUG_CHARACTERS_MAX].strip(".-") or "model"
    path = home / DIRECTORY / f"{slug}_{now.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}.json"
    write_atomically(path, msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    for old in _files(home)[limits.BENCHMARKS_KEPT_MAX :]:
        with suppress(OSError):
            old.unlink()
    return path


def read_results(home: Path, model_id: str | None) -> list[BenchmarkResult]:
    """The kept results of one model, or of all (None), the newest first; what is no result is left out."""
    found = []
    for path in _files(home):
        with suppress(OSError, msgspec.DecodeError):
            if path.stat().st_size <= limits.BENCHMARK_FILE_BYTES_MAX:
                found.append(msgspec.json.decode(path.read_bytes(), type=BenchmarkResult))
    return sorted(
        (result for result in found if model_id in (None, result.model_id)), key=lambda result: result.timestamp, reverse=True
    )


def _files(home: Path) -> list[Path]:
    """The newest first, by the time in their names, which begins after the last underscore."""
    return sorted((home / DIRECTORY).glob("*_*.json"), key=lambda path: path.name.rpartition("_")[2], reverse=True)
