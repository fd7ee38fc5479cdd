"""What the journals say: names, pages and lines from events."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from lmx_protocol import limits
from lmx_supervisor.config.time_zones import time_zone
from lmx_supervisor.core.event_log import LoggedEvent
from lmx_supervisor.observe.journal import names
from lmx_supervisor.observe.journal.event_lines import event_line, lost_line
from lmx_supervisor.observe.journal.markdown import plain
from lmx_supervisor.observe.journal.session_log import Session, SessionLog
from lmx_supervisor.observe.journal.update_log import UpdateLogs

BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def session(**changes: Any) -> Session:
    """A run that began at a known moment."""
    known: dict[str, Any] = {
        "device": "Studio",
        "user": "ann",
        "version": "1.2",
        "started_at_unix_seconds": BEGAN.timestamp(),
        "zone": UTC,
        "metadata": {"pid": 7, "note": "a|b\nc"},
    }
    return Session(**(known | changes))


def event(kind: str, *, alarming: bool = False, after_seconds: float = 1.0, **fields: object) -> LoggedEvent:
    """Something that happened."""
    return LoggedEvent(1, kind, BEGAN.timestamp() + after_seconds, fields, alarming)


def sections(page: str) -> dict[str, str]:
    """The text below each heading of the second level."""
    return {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in page.split("\n## ")[1:]}


def matter_of(page: str) -> dict[str, Any]:
    """The block of YAML at the top."""
    return dict(yaml.safe_load(page.split("---")[1]))


def test_names_sort_and_say_what_they_are() -> None:
    """The predecessor's forms; numbers do not end at three digits, and nothing odd gets into a name."""
    assert "2026-01-02-0304-my-mac-lmx-service.md" == names.session_name(BEGAN, "My.Mac", 1)
    assert "2026-01-02-030405-my-mac-events-2.jsonl" == names.events_name(BEGAN, "My Mac", 2)
    assert "200_2026-01-02_load-org-model.md" == names.update_name(200, BEGAN, "load-org/Model")
    assert 1000 == names.update_number(names.update_name(1000, BEGAN, "../../etc"))
    assert BEGAN.replace(second=0) == names.began_at(names.session_name(BEGAN, "x", 3), UTC)
    assert BEGAN == names.began_at(names.events_name(BEGAN, "x", 1), UTC)


@pytest.mark.parametrize("name", ["../a.md", "a/b.md", ".a.md", "a.txt", "a.md\n", "", "a" * 300 + ".md", "ä.md"])
def test_a_name_that_is_no_plain_file_name_is_not_served(name: str) -> None:
    """Whatever it tries."""
    assert not names.may_be_served(name)


def test_a_page_tells_the_run(  # the sections that the predecessor's readers know
) -> None:
    """Each event stands where it belongs, and what is routine is only counted."""
    log = SessionLog(session())
    for each in (
        event("model_loaded", model_id="m", duration_sec=1.5),
        event("request_completed", model_id="m", outcome="finished"),
        event("worker_exited", alarming=True, model_id="m", text="it crashed", crash_id="boot-1"),
        event("worker_restarting", model_id="m"),
        event("model_quarantined", alarming=True, model_id="m", reason="crash_loop:3"),
        event("download_completed", repo_id="org/x"),
    ):
        log.take(each)
    page = log.text(BEGAN.timestamp() + 3725, "it was stopped in order")
    parts, matter = sections(page), matter_of(page)

    assert ("2026-01-02", "03:04", "Studio", "ann", "m", "1h 02m 05s") == tuple(
        matter[name] for name in ("date", "time", "device", "user", "model", "duration")
    )
    assert [
        "Summary",
        "Files Changed",
        "Status Changes",
        "Decisions Made",
        "Issues Encountered",
        "Next Steps",
        "Notes",
    ] == list(parts)
    assert "it was stopped in order" in parts["Summary"]
    assert "Workers that died: 1" in parts["Summary"]
    assert "Requests ended: 1 finished" in parts["Summary"]
    assert "- 03:04:06 `model_loaded` m: duration\\_sec 1.5" == parts["Status Changes"]
    assert "org/x" in parts["Files Changed"]
    assert 2 == parts["Decisions Made"].count("\n- ") + 1
    assert "it crashed" in parts["Issues Encountered"]
    assert "lmx crashes show boot-1" in parts["Next Steps"]
    assert "| request\\_completed | 1 |" in parts["Notes"]
    assert "| note | a\\|b c |" in parts["Notes"]
    assert "request_completed" not in parts["Status Changes"]


def test_a_page_of_a_run_that_goes_on_says_so() -> None:
    """What a crash leaves is not taken for an orderly end."""
    assert "was cut off" in SessionLog(session()).text(BEGAN.timestamp(), None)


def test_a_page_is_bounded_however_long_the_run_is() -> None:
    """Old lines give way, and are counted."""
    log = SessionLog(session())
    for number in range(5000):
        log.take(event("model_loaded", model_id=f"m{number}"))
        log.take(event(f"kind{number}", alarming=True, text="x" * 10_000))
    page = log.text(BEGAN.timestamp(), None)

    assert f"… {5000 - limits.JOURNAL_LINES_MAX} earlier ones" in page
    assert "m4999" in page
    assert len(page) < 400_000


def test_text_that_anybody_chose_stays_on_its_line() -> None:
    """No line break, cell, heading or link comes out of a model's name or a worker's last words."""
    shown = plain("# a\n## b | c `d` [e](f) <g>\u2028h\x1b[2J")
    assert "\n" not in shown
    assert "\x1b" not in shown
    assert "# a ## b \\| c \\`d\\` \\[e\\](f) \\<g\\> h \\[2J" == shown


def test_a_change_is_a_page_with_its_steps() -> None:
    """A load tells what was asked for and what came of it, step by step; the next page of that model begins anew."""
    updates = UpdateLogs(session())
    assert None is updates.take(event("worker_spawned", model_id="m", pid=1))
    assert None is updates.take(event("model_canary_passed", model_id="m", after_seconds=2))
    assert None is updates.take(event("request_completed", model_id="m"))
    loaded = updates.take(event("model_loaded", model_id="m", backend="scripted", duration_sec=1.5))
    unloaded = updates.take(event("model_unloaded", model_id="m", reason="manual"))
    assert loaded is not None
    assert unloaded is not None
    page = loaded.text(1000, session(), "1.1")
    matter, parts = matter_of(page), sections(page)

    assert (1000, "ann", "1.1", "1.2", "model", None) == tuple(
        matter[name] for name in ("id", "author", "version_before", "version_after", "category", "commit")
    )
    assert "- model_id: m\n- backend: scripted" == parts["Command Inputs"]
    assert ["worker_spawned", "model_canary_passed", "model_loaded"] == [
        line.split("`")[1] for line in parts["Step Results"].splitlines()[2:]
    ]
    assert ("load-m", "unload-m", 1) == (loaded.title, unloaded.title, len(unloaded.steps))


def test_a_reload_is_a_page_and_a_heartbeat_is_none() -> None:
    """What changes the service is written down, what only happens in it is not."""
    updates = UpdateLogs(session())
    reload = updates.take(event("config_reloaded", updated=["logging.level"], ignored=[]))

    assert reload is not None
    assert ("reload", "config") == (reload.title, reload.category)
    assert None is updates.take(event("clock_gap", seconds=9))


def test_a_line_is_the_predecessors_row() -> None:
    """Four fields, the time in the journal's zone and as a number; a gap is a row too."""
    zone = time_zone("UTC")
    row = json.loads(event_line(event("model_loaded", model_id="m\n\u2028"), zone))
    gap = json.loads(lost_line(3, BEGAN.timestamp(), zone))

    assert {"timestamp", "timestamp_unix", "event_type", "data"} == set(row)
    assert ("2026-01-02T03:04:06.000+00:00", BEGAN.timestamp() + 1, "model_loaded") == (
        row["timestamp"],
        row["timestamp_unix"],
        row["event_type"],
    )
    assert {"model_id": "m\n\u2028"} == row["data"]
    assert 1 == event_line(event("x", text="a\nb"), zone).count(b"\n")
    assert ("journal_gap", {"lost": 3}) == (gap["event_type"], gap["data"])


@pytest.mark.parametrize("name", ["Mars/Olympus", "../etc/passwd", "", "\0", "x" * 300])
def test_an_unknown_time_zone_is_refused(name: str) -> None:
    """With a reason, whatever the name looks like."""
    with pytest.raises(ValueError, match="time zone"):
        time_zone(name)
