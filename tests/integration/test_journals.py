"""Journals and workers' output of a real service: what a kill -9 leaves, a disk that takes nothing, what a worker printed."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.support.live import LiveServer, wait_until

Serve = Callable[..., LiveServer]
PROMPT = "the-prompt-nobody-may-read"
KEY = "hush-admin-key"


def session_logs(server: LiveServer) -> list[Path]:
    """The pages of all runs, the newest last."""
    return sorted((server.home / "session-logs").glob("*.md"), key=lambda path: path.stat().st_mtime_ns)


def rows(server: LiveServer) -> list[dict[str, Any]]:
    """Every line of every run's events."""
    logs = sorted((server.home / "session-logs").glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    return [json.loads(line) for path in logs for line in path.read_text().splitlines()]


def kinds(server: LiveServer) -> list[str]:
    """The types of all events that were written."""
    return [row["event_type"] for row in rows(server)]


def update_titles(server: LiveServer) -> list[str]:
    """The update logs, oldest first, without their dates."""
    pages = sorted((server.home / "update-logs").glob("*.md"), key=lambda path: int(path.name.partition("_")[0]))
    return [f"{path.name[:3]} {path.name.split('_')[2]}" for path in pages]


def test_a_kill_9_leaves_all_journals(serve: Serve) -> None:
    """Page, whole lines and numbered update logs of the run that was cut off; the next run has its own and counts on."""
    server = serve(LMX_JOURNALING__ENABLED="true", LMX_JOURNALING__AUTHOR="ann", LMX_SECURITY__ADMIN_KEY=KEY)
    server.http.headers["X-Admin-Key"] = KEY
    server.script("m", 'faults: [{when: request, contains: "poison", do: abort, line: "GGML_ASSERT(x) failed"}]')
    server.load("m")
    assert server.chat("m", PROMPT).status_code == 200
    server.chat("m", "poison")
    wait_until(lambda: kinds(server).count("model_loaded") == 2, 30.0, "the restart in the event log")
    wait_until(lambda: "`worker_exited`" in session_logs(server)[0].read_text(), 10.0, "the crash in the session log")
    server.kill()
    text = session_logs(server)[0].read_text()
    matter = yaml.safe_load(text.split("---")[1])

    assert ("ann", "m") == (matter["user"], matter["model"])
    assert "was cut off" in text
    assert {"worker_spawned", "worker_exited", "worker_restarting", "request_completed"} <= set(kinds(server))
    assert ["200 start.md", "201 load-m.md", "202 load-m.md"] == update_titles(server)

    server.close()
    server.assert_no_worker_is_left(seconds=10.0)
    server.start()
    server.http.headers["X-Admin-Key"] = KEY
    server.wait_for_state("m", "ready")
    wait_until(lambda: len(update_titles(server)) == 5, 10.0, "the restored model's page")
    listed = {kind: server.http.get(f"/admin/logs/{kind}").json() for kind in ("sessions", "updates")}
    served = server.http.get(f"/admin/logs/sessions/{session_logs(server)[0].name}")
    assert server.stop() == 0

    assert (4, 5) == (len(listed["sessions"]), len(listed["updates"]))
    assert text == served.text
    assert "it was stopped in order" in session_logs(server)[-1].read_text()
    assert ["203 start.md", "204 load-m.md"] == update_titles(server)[3:5]
    written = [path.read_text() for name in ("session-logs", "update-logs") for path in (server.home / name).iterdir()]
    assert not [page for page in written if PROMPT in page or KEY in page]


def test_a_disk_that_takes_nothing_is_told_once_and_stops_nothing(serve: Serve) -> None:
    """Loads and answers go on; when the disk takes files again the journal goes on too, and says what is missing."""
    server = serve(LMX_JOURNALING__ENABLED="true")
    for model_id in ("a", "b"):
        server.script(model_id)
    server.load("a")
    wait_until(lambda: "model_loaded" in kinds(server), 10.0, "the first load in the event log")
    _, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (0, hard))
    server.load("b")
    assert server.chat("a").status_code == 200

    def complaints() -> int:
        text = server.http.get("/admin/events", params={"last_event_id": 0, "follow": "false"}).text
        return text.count("event: journal_write_failed")

    wait_until(lambda: complaints() == 1, 10.0, "the complaint")
    assert server.chat("b").status_code == 200
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (hard, hard))
    server.http.post("/admin/models/unload", json={"model_id": "b"})
    wait_until(lambda: "model_unloaded" in kinds(server), 10.0, "the journal to go on")

    assert complaints() == 1
    assert "journal_gap" in kinds(server)


def test_what_workers_print_can_be_followed_over_their_deaths(server: LiveServer) -> None:
    """Last words of a crashed worker and the output of the next one, as a stream and with `lmx logs`."""
    server.script("org-m", 'faults: [{when: request, contains: "poison", do: abort, line: "GGML_ASSERT(x) failed"}]')
    server.load("org-m")
    first = server.worker("org-m")["incarnation"]
    server.chat("org-m", "poison")
    server.wait_for_state("org-m", "ready")
    text = server.http.get("/admin/workers/org-m/logs").text
    data = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    printed = [(part["incarnation"], line) for part in data if part.get("type") == "output" for line in part["lines"]]
    environment = {**os.environ, "LMX_HOME": str(server.home)}
    shown = subprocess.run(
        [sys.executable, "-m", "lmx_supervisor", "logs", "org-m"], env=environment, capture_output=True, text=True, check=True
    )
    places = subprocess.run(
        [sys.executable, "-m", "lmx_supervisor", "logs"], env=environment, capture_output=True, text=True, check=True
    )

    assert (first, "GGML_ASSERT(x) failed") in printed
    assert "GGML_ASSERT(x) failed" in shown.stdout.splitlines()
    assert str(server.log_path) in places.stdout
    assert "journaling.enabled is false" in places.stdout
