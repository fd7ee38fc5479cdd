"""Deaths of workers as text: a table of many, a report of one. Pure."""

from collections.abc import Iterator, Sequence

from lmx_supervisor.cli.quantities import short_duration, short_size
from lmx_supervisor.cli.terminal import table
from lmx_supervisor.core.crashes import CrashedRequest, CrashHeadline, CrashReport, CrashSummary

_HEADERS = ("CRASH", "WHEN (UTC)", "MODEL", "EXIT", "REASON", "UPTIME")
_MODEL_COLUMN = 2
_LABEL_CHARACTERS = 10


def crash_table(crashes: Sequence[CrashHeadline], columns: int | None) -> list[str]:
    """One line per death, shortened to `columns` characters where that is given."""
    rows = [
        (
            crash.crash_id,
            crash.at[5:19].replace("T", " "),
            crash.model_id or "(spare)",
            exit_text(crash),
            crash.reason,
            short_duration(crash.uptime_seconds),
        )
        for crash in crashes
    ]
    return table(_HEADERS, rows, shrink=(_MODEL_COLUMN,), columns=columns)


def exit_text(crash: CrashHeadline) -> str:
    """How the process ended: `SIGSEGV`, `code 3`, or `-` for one that never started."""
    if crash.signal is not None:
        return crash.signal
    return f"code {crash.exit_code}" if crash.exit_code is not None else "-"


def report_lines(report: CrashReport) -> list[str]:
    """Everything that was kept of a death, the verdict first."""
    return [*_verdict(report.summary), *_details(report.summary), *_attachments(report)]


def _verdict(crash: CrashSummary) -> Iterator[str]:
    backend = " ".join(filter(None, (crash.backend, crash.versions.get("backend"))))
    yield _labelled("crash", crash.crash_id)
    yield _labelled("model", f"{crash.model_id or 'none (a spare)'}, {backend}, pid {crash.pid or '-'}")
    yield _labelled("when", f"{crash.at}, {short_duration(crash.uptime_seconds)} after its start, while {crash.state}")
    yield _labelled("reason", f"{crash.reason} ({exit_text(crash)})")
    yield _labelled("what", crash.text)


def _details(crash: CrashSummary) -> Iterator[str]:
    if crash.memory_curve:
        last, most = crash.memory_curve[-1].footprint_bytes, max(sample.footprint_bytes for sample in crash.memory_curve)
        yield _labelled("memory", f"{short_size(last)} at the last heartbeat, {short_size(most)} at most in the minutes before")
    yield _labelled("versions", ", ".join(f"{name} {version}" for name, version in crash.versions.items() if version))
    yield _labelled("requests", f"{len(crash.requests)} in flight" if crash.requests else "none in flight")
    yield from (f"{'':{_LABEL_CHARACTERS}}{_request_text(request)}" for request in crash.requests)
    yield from ("", "timeline, in seconds before the death")
    yield from (f"{-entry.seconds_before:>10.3f}  {entry.text}" for entry in crash.timeline)


def _request_text(request: CrashedRequest) -> str:
    again = ", in flight at an earlier crash too" if request.on_trial else ""
    at_most = f" of at most {request.max_tokens}" if request.max_tokens is not None else ""
    answered = f"{request.tokens_delivered}{at_most} tokens answered"
    return f"{request.request_id}: prompt of {request.prompt_characters} characters, {answered}{again}"


def _attachments(report: CrashReport) -> Iterator[str]:
    for title, text in (("stacks", report.stack), ("last output", report.stderr), ("native report", report.native)):
        if text:
            yield from ("", f"--- {title} ---", *text.rstrip("\n").splitlines())


def _labelled(label: str, text: str) -> str:
    return f"{label:{_LABEL_CHARACTERS}}{text}"
