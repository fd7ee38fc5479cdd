"""`lmx crashes` and `lmx crashes show` against a server that answers as told."""

import json
from typing import Any

import msgspec
import pytest

from lmx_supervisor.cli.crash_text import crash_table, report_lines
from lmx_supervisor.core.crashes import CrashedRequest, CrashReport, CrashSummary, MemorySample, TimelineEntry
from tests.unit.supervisor.cli.conftest import Lmx
from tests.unit.supervisor.cli.stand_in import StandIn


def crash(**changes: Any) -> CrashSummary:
    """A segmentation fault in mid-answer, but for the changes."""
    plain: dict[str, Any] = {
        "crash_id": "0a1b2c3d-7",
        "at": "2026-01-02T03:04:05Z",
        "at_unix_seconds": 1.0,
        "model_id": "tiny",
        "backend": "llamacpp",
        "incarnation": "0a1b2c3d-7",
        "pid": 4242,
        "state": "busy",
        "reason": "native_crash",
        "text": "native code crashed (SIGSEGV)",
        "exit_code": None,
        "signal": "SIGSEGV",
        "uptime_seconds": 125.0,
        "timeline": (TimelineEntry(seconds_before=1.5, text="ready → busy: leased a request"),),
        "memory_curve": (
            MemorySample(seconds_before=2.0, footprint_bytes=2 * 1024**3),
            MemorySample(seconds_before=1.0, footprint_bytes=1024**3),
        ),
        "requests": (
            CrashedRequest(
                request_id="req-1",
                prompt_characters=40,
                max_tokens=64,
                tokens_delivered=5,
                replays=0,
                on_trial=True,
                sampling={},
            ),
        ),
        "versions": {"lmx": "0.1.0", "python": "3.11.7", "platform": "Linux", "backend": "b1"},
    }
    return CrashSummary(**(plain | changes))


def listing(*crashes: CrashSummary) -> dict[str, Any]:
    """What GET /admin/crashes answers."""
    return {"crashes": [json.loads(msgspec.json.encode(one)) for one in crashes], "count": len(crashes)}


def test_crashes_lists_deaths(lmx: Lmx, server: StandIn) -> None:
    """One line per death with its id, model, exit and reason; the newest one's sentence is a remark."""
    server.answer(
        "/admin/crashes?limit=20", listing(crash(), crash(crash_id="0a1b2c3d-3", model_id=None, signal=None, exit_code=3))
    )
    result = lmx("crashes", "--url", server.url)
    lines = [line.split() for line in result.out.splitlines()]
    assert result.status == 0
    assert lines[1] == ["0a1b2c3d-7", "01-02", "03:04:05", "tiny", "SIGSEGV", "native_crash", "2m"]
    assert lines[2][:6] == ["0a1b2c3d-3", "01-02", "03:04:05", "(spare)", "code", "3"]
    assert result.err == "newest: native code crashed (SIGSEGV)\n"


def test_crashes_asks_for_one_model_and_a_number(lmx: Lmx, server: StandIn) -> None:
    """An id with a slash arrives as it is; `--json` prints the server's own document."""
    document = listing(crash())
    server.answer("/admin/crashes?limit=2&model_id=org%2Ftiny", document)
    result = lmx("crashes", "--model", "org/tiny", "--limit", "2", "--json", "--url", server.url)
    assert json.loads(result.out) == document


def test_no_crashes_is_good_news(lmx: Lmx, server: StandIn) -> None:
    """An empty archive is one sentence, not an empty table."""
    server.answer("/admin/crashes?limit=20", listing())
    result = lmx("crashes", "--url", server.url)
    assert (result.status, result.out) == (0, "no worker has crashed\n")


def test_show_prints_the_whole_report(lmx: Lmx, server: StandIn) -> None:
    """Reason, sentence, memory, requests, timeline, stacks and last output, with nothing that could drive a terminal."""
    report = CrashReport(summary=crash(), stack="Fatal Python error\n", stderr="\x1b[31mlast words\n", native=None)
    server.answer("/admin/crashes/0a1b2c3d-7", msgspec.to_builtins(report))
    out = lmx("crashes", "show", "0a1b2c3d-7", "--url", server.url).out
    for words in (
        "reason    native_crash (SIGSEGV)",
        "what      native code crashed (SIGSEGV)",
        "tiny, llamacpp b1, pid 4242",
        "1.0G at the last heartbeat, 2.0G at most",
        "req-1: prompt of 40 characters, 5 of at most 64 tokens answered, in flight at an earlier crash too",
        "    -1.500  ready → busy: leased a request",
        "--- stacks ---\nFatal Python error",
        "--- last output ---\n\N{REPLACEMENT CHARACTER}[31mlast words",
    ):
        assert words in out
    assert "native report" not in out


def test_an_unknown_crash_is_the_servers_refusal(lmx: Lmx, server: StandIn) -> None:
    """The server's words and status 1; an id cannot become another path."""
    server.refuse("/admin/crashes/..%2Fstatus", 404, "not_found", "There is no crash.")
    result = lmx("crashes", "show", "../status", "--url", server.url)
    assert (result.status, result.err) == (1, "error: There is no crash. (not_found)\n")


@pytest.mark.parametrize("arguments", [("--limit", "0"), ("--limit", "21"), ("show",)])
def test_impossible_limits_and_missing_ids_are_usage_errors(lmx: Lmx, arguments: tuple[str, ...]) -> None:
    """They never reach a server."""
    assert lmx("crashes", *arguments).status == 2


def test_another_form_of_answer_is_told(lmx: Lmx, server: StandIn) -> None:
    """Whatever answers there, the command ends with one line."""
    server.answer("/admin/crashes?limit=20", [1])
    result = lmx("crashes", "--url", server.url)
    assert result.status == 1
    assert "does not know" in result.err


def test_the_table_fits_into_eighty_columns() -> None:
    """The model's name gives way; ids, exits and reasons stay whole, because they are what one copies."""
    long = crash(
        model_id="mlx-community/Qwen2.5-Coder-32B-Instruct-8bit", reason="protocol_violation", crash_id="0a1b2c3d-12345"
    )
    lines = crash_table([long], 80)
    assert max(map(len, lines)) <= 80
    assert {"0a1b2c3d-12345", "SIGSEGV", "protocol_violation"} <= set(lines[1].split())


def test_a_bare_report_has_no_empty_parts() -> None:
    """A spare that never started leaves no memory, requests or attachments behind; the report says so or leaves them out."""
    bare = crash(model_id=None, pid=None, signal=None, memory_curve=(), requests=(), timeline=(), versions={"backend": None})
    text = "\n".join(report_lines(CrashReport(summary=bare, stack=None, stderr="", native=None)))
    assert "none (a spare), llamacpp, pid -" in text
    assert "none in flight" in text
    assert "---" not in text
