"""One crash bundle: the directory `<utc>-<model>-<crash id>` that keeps what is known of a worker's death.

    summary.json    `core.crashes.CrashSummary`
    stack.txt       the stacks of all threads at the crash, if the worker could still write them
    stderr.txt      the end of what the worker printed
    native.txt      the operating system's report, if it has one

Configured secrets are struck out of all of it. Prompts cannot get into it: the summary has ids and counts only, and a worker
never prints what it is asked (what a native library of its own accord prints is kept as it is). A bundle appears whole or not
at all. All calls block on the disk.
"""

import platform
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from lmx_protocol import limits
from lmx_supervisor.core.actions import Autopsy
from lmx_supervisor.core.crashes import CrashedRequest, CrashSummary, MemorySample, TimelineEntry
from lmx_supervisor.core.exit_reason import signal_name
from lmx_supervisor.runtime.atomic_file import write_atomically
from lmx_supervisor.runtime.native_report import native_report

SUMMARY = "summary.json"
STACK = "stack.txt"
STDERR = "stderr.txt"
NATIVE = "native.txt"
UNFINISHED_SUFFIX = ".lmx-tmp"

_UNSAFE = re.compile(r"[^A-Za-z0-9._]+")
_SECONDS_DIGITS = 3


def write_bundle(parent: Path, autopsy: Autopsy, at_unix_seconds: float, strike: Callable[[str], str], deadline: float) -> Path:
    """Write a bundle below `parent` and return its directory.

    Args:
        parent: a private directory, made if it is missing.
        autopsy: what the core knows.
        at_unix_seconds: when the worker died.
        strike: removes secrets from text.
        deadline: monotonic second after which only the summary is written.

    Raises:
        OSError, FileWriteError: the disk does not take it; nothing of it is left.
    """
    name = bundle_name(autopsy, at_unix_seconds)
    unfinished = parent / f".{name}{UNFINISHED_SUFFIX}"
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished.mkdir(mode=0o700)
    try:
        for file_name, text in _contents(autopsy, at_unix_seconds, strike, deadline):
            write_atomically(unfinished / file_name, text.encode("utf-8", "replace"))
        return unfinished.rename(parent / name)
    except BaseException:
        remove_bundle(unfinished)
        raise


def remove_bundle(directory: Path) -> None:
    """Delete a bundle as far as that is possible; it has no directories in it."""
    try:
        for file in directory.iterdir():
            file.unlink(missing_ok=True)
        directory.rmdir()
    except OSError:
        return


def bundle_name(autopsy: Autopsy, at_unix_seconds: float) -> str:
    """The directory's name: sorts by time, says which model, ends with the crash id."""
    moment = datetime.fromtimestamp(at_unix_seconds, UTC)
    model = _UNSAFE.sub("_", autopsy.model_id or "spare").strip("._")[: limits.CRASH_NAME_MODEL_CHARACTERS_MAX] or "model"
    return f"{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03d}Z-{model}-{autopsy.crash_id}"


def summary_of(autopsy: Autopsy, at_unix_seconds: float) -> CrashSummary:
    """The autopsy in the form that is kept."""
    seen = autopsy.observation
    return CrashSummary(
        crash_id=autopsy.crash_id,
        at=f"{datetime.fromtimestamp(at_unix_seconds, UTC):%Y-%m-%dT%H:%M:%SZ}",
        at_unix_seconds=round(at_unix_seconds, _SECONDS_DIGITS),
        model_id=autopsy.model_id,
        backend=autopsy.backend,
        incarnation=autopsy.crash_id,
        pid=autopsy.pid,
        state=autopsy.state,
        reason=autopsy.verdict.reason,
        text=autopsy.verdict.text,
        exit_code=seen.code,
        signal=signal_name(seen.signal_number) if seen.signal_number is not None else None,
        uptime_seconds=round(autopsy.uptime_seconds, _SECONDS_DIGITS),
        timeline=tuple(TimelineEntry(seconds_before=round(ago, _SECONDS_DIGITS), text=text) for ago, text in autopsy.story),
        memory_curve=tuple(
            MemorySample(seconds_before=round(ago, _SECONDS_DIGITS), footprint_bytes=size_bytes)
            for ago, size_bytes in autopsy.memory_curve
        ),
        requests=tuple(
            CrashedRequest(
                request_id=trace.request_id,
                prompt_characters=trace.prompt_characters,
                max_tokens=trace.max_tokens,
                tokens_delivered=trace.tokens_delivered,
                replays=trace.replays,
                on_trial=trace.on_trial,
                sampling=msgspec.structs.asdict(trace.sampling),
            )
            for trace in autopsy.requests
        ),
        spec=msgspec.structs.asdict(autopsy.spec) if autopsy.spec is not None else None,
        facts=msgspec.structs.asdict(autopsy.facts) if autopsy.facts is not None else None,
        versions={**_own_versions(), "backend": autopsy.backend_version},
    )


@cache
def _own_versions() -> dict[str, str]:
    return {"lmx": metadata.version("lmx"), "python": platform.python_version(), "platform": platform.platform()}


def _contents(
    autopsy: Autopsy, at_unix_seconds: float, strike: Callable[[str], str], deadline: float
) -> Iterator[tuple[str, str]]:
    """Name and text of each file, the most important first; empty ones and those that time does not allow are left out."""
    summary = _struck(msgspec.to_builtins(summary_of(autopsy, at_unix_seconds)), strike)
    yield SUMMARY, msgspec.json.format(msgspec.json.encode(summary), indent=2).decode() + "\n"
    for name, text in ((STACK, autopsy.observation.crash_head), (STDERR, autopsy.observation.stderr_tail)):
        if text and time.monotonic() < deadline:
            yield name, strike(text)
    left_seconds = deadline - time.monotonic()
    if autopsy.pid is not None and autopsy.observation.signal_number is not None and left_seconds > 0:
        report = native_report(autopsy.pid, left_seconds)
        if report:
            yield NATIVE, strike(report)


def _struck(value: Any, strike: Callable[[str], str]) -> Any:
    """JSON data with `strike` applied to every text in it; the names of fields are ours."""
    if isinstance(value, str):
        # A path that is not UTF-8 comes with lone surrogates, which JSON cannot carry.
        return strike(value).encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {name: _struck(item, strike) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_struck(item, strike) for item in value]
    return value
