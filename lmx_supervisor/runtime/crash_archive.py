"""The crash bundles in `<home>/crashes`: listing, reading, and forgetting the oldest. All calls block on the disk."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from lmx_protocol import limits
from lmx_supervisor.core.crashes import CrashHeadline, CrashReport, CrashSummary
from lmx_supervisor.runtime.crash_bundle import NATIVE, STACK, STDERR, SUMMARY, UNFINISHED_SUFFIX, remove_bundle

Headline = TypeVar("Headline", bound=CrashHeadline)

_CRASH_ID = r"[0-9a-z]{1,16}-[0-9]{1,9}"
_NAME = re.compile(rf"\d{{8}}T\d{{6}}\.\d{{3}}Z-[A-Za-z0-9._]+-(?P<crash_id>{_CRASH_ID})")


class CrashArchive:
    """One directory of bundles. Whatever else lies in it is left alone."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def headlines(self, model_id: str | None, at_most: int) -> list[CrashHeadline]:
        """The newest deaths first, of one model or of all; bundles that cannot be read are left out."""
        found: list[CrashHeadline] = []
        for bundle in self._newest_first():
            headline = _decoded(bundle / SUMMARY, CrashHeadline)
            if headline is not None and model_id in (None, headline.model_id):
                found.append(headline)
            if len(found) >= at_most:
                break
        return found

    def report(self, crash_id: str) -> CrashReport | None:
        """One whole bundle; None when there is none of that id, whatever the id looks like."""
        for bundle in self._newest_first():
            if _crash_id_of(bundle) == crash_id:
                summary = _decoded(bundle / SUMMARY, CrashSummary)
                return _report(bundle, summary) if summary is not None else None
        return None

    def prune(self) -> None:
        """Keep the newest bundles within `CRASH_BUNDLES_MAX` and `CRASH_BUNDLE_BYTES_TOTAL`."""
        total_bytes = 0
        for number, bundle in enumerate(self._newest_first(), start=1):
            total_bytes += _size_bytes(bundle)
            if number > limits.CRASH_BUNDLES_MAX or total_bytes > limits.CRASH_BUNDLE_BYTES_TOTAL:
                remove_bundle(bundle)

    def remove_unfinished(self) -> None:
        """Delete what a crash of the supervisor left half written. For the start only."""
        for leftover in self.directory.glob(f".*{UNFINISHED_SUFFIX}"):
            remove_bundle(leftover)

    def _newest_first(self) -> list[Path]:
        try:
            # Never through a link: what it leads to is not ours to delete.
            bundles = [path for path in self.directory.iterdir() if _NAME.fullmatch(path.name) and not path.is_symlink()]
        except OSError:
            return []
        return sorted(bundles, key=lambda path: path.name, reverse=True)


def _crash_id_of(bundle: Path) -> str | None:
    match = _NAME.fullmatch(bundle.name)
    return match["crash_id"] if match else None


def _report(bundle: Path, summary: CrashSummary) -> CrashReport:
    return CrashReport(
        summary=summary, stack=_text(bundle / STACK), stderr=_text(bundle / STDERR), native=_text(bundle / NATIVE)
    )


def _decoded(path: Path, kind: type[Headline]) -> Headline | None:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(limits.CRASH_SUMMARY_BYTES_MAX), type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _text(path: Path) -> str | None:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(limits.OS_REPORT_BYTES_MAX)
    except OSError:
        return None


def _size_bytes(bundle: Path) -> int:
    return sum(_file_sizes(bundle))


def _file_sizes(bundle: Path) -> Iterator[int]:
    try:
        for file in bundle.iterdir():
            yield file.lstat().st_size
    except OSError:
        return
