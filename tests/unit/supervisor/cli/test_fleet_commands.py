"""`lmx ps`, `ls`, `status`, `load` and `unload` against a server that answers as told."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from lmx_protocol.states import WorkerState
from lmx_supervisor.core.views import LoadProgressView
from tests.unit.supervisor.cli.conftest import Lmx
from tests.unit.supervisor.cli.stand_in import Reply, StandIn, fleet_document, worker

STATUS = {
    "version": "1.2.3",
    "uptime_seconds": 100.0,
    "models": ["tiny"],
    "memory": {"total_gb": 64.0, "used_gb": 8.25, "usage_percent": 12.9},
    "in_flight_requests": 3,
}
LOADED = {"success": True, "model_id": "tiny", "memory_after_load_gb": 0.25, "time_to_load_ms": 1500.0}


def test_ps_shows_the_fleet(lmx: Lmx, server: StandIn) -> None:
    """The table has one line per worker, and the admin key travels in its header."""
    server.answer("/admin/workers", fleet_document(worker("tiny"), worker("big")))
    result = lmx("ps", "--url", server.url, "--admin-key", "secret")
    assert result.status == 0
    assert [line.split()[0] for line in result.out.splitlines()] == ["MODEL", "tiny", "big"]
    assert server.asked[0].headers["X-Admin-Key"] == "secret"


def test_ps_json_is_the_servers_document(lmx: Lmx, server: StandIn) -> None:
    """Scripts get everything the server says, in its own form."""
    document = fleet_document(worker("tiny"))
    server.answer("/admin/workers", document)
    assert json.loads(lmx("ps", "--json", "--url", server.url).out) == document


def test_ls_joins_the_disk_with_the_workers(lmx: Lmx, server: StandIn) -> None:
    """Models on disk show the state of their worker; a model that was loaded by path is listed after them."""
    on_disk = {"local_path": "/m/tiny.gguf", "size_bytes": 92 * 1024**2, "downloaded_at": "2026-01-02T03:04:05Z"}
    server.answer("/admin/models/available", [{"repo_id": "tiny", **on_disk}, {"repo_id": "idle", **on_disk}])
    server.answer("/admin/workers", fleet_document(worker("tiny"), worker("elsewhere")))
    lines = [line.split() for line in lmx("ls", "--url", server.url).out.splitlines()]
    assert lines[1:] == [
        ["tiny", "92M", "2026-01-02", "ready"],
        ["idle", "92M", "2026-01-02", "-"],
        ["elsewhere", "-", "-", "ready"],
    ]
    assert [model["state"] for model in json.loads(lmx("ls", "--json", "--url", server.url).out)] == ["ready", None, "ready"]


def test_status_shows_how_many_may_run_and_how_many_wait(lmx: Lmx, server: StandIn) -> None:
    """The limit in force and the line stand beside what runs, where the server tells them."""
    server.answer("/readyz", {"status": "ready"})
    server.answer("/admin/status", STATUS)
    older = lmx("status", "--url", server.url).out
    server.answer("/admin/status", {**STATUS, "concurrent_limit": 8, "waiting_requests": 2})
    assert "requests  3 in flight\n" in older
    assert "requests  3 in flight of at most 8, 2 waiting\n" in lmx("status", "--url", server.url).out


def test_status_says_why_the_service_is_not_ready(lmx: Lmx, server: StandIn) -> None:
    """An unready service still has a status, and its reason stands in the first line."""
    server.answer("/admin/status", STATUS)
    server.answer("/readyz", {"status": "unavailable", "reason": "no models loaded"}, 503)
    result = lmx("status", "--url", server.url)
    assert result.status == 0
    assert result.out.splitlines()[0] == f"LMX 1.2.3 at {server.url}, not ready: no models loaded"
    assert "8.2 of 64.0 GB used (13 %)" in result.out
    document = json.loads(lmx("status", "--json", "--url", server.url).out)
    assert (document["ready"], document["reason"], document["version"]) == (False, "no models loaded", "1.2.3")


def test_status_waits_for_a_server_to_come_up_and_get_ready(lmx: Lmx, server: StandIn, home: Path) -> None:
    """`--wait` looks again until a model is served, and tells each new reason once."""
    reasons = iter(["loading tiny", "loading tiny", None])

    def readiness(_: Any) -> Reply:
        reason = next(reasons, None)
        return (200, {"status": "ready"}) if reason is None else (503, {"status": "unavailable", "reason": reason})

    server.routes["/readyz"] = readiness
    server.answer("/admin/status", STATUS)
    (home / "server.json").write_text(json.dumps({"url": server.url, "pid": 1}))
    result = lmx("status", "--wait", "30")
    assert (result.status, result.err) == (0, "waiting: loading tiny\n")


def test_status_gives_up_waiting(lmx: Lmx, server: StandIn) -> None:
    """Past the deadline the reason is the failure."""
    server.answer("/readyz", {"status": "unavailable", "reason": "tiny failed"}, 503)
    result = lmx("status", "--wait", "0", "--url", server.url)
    assert (result.status, result.err) == (1, "error: not ready after 0 s: tiny failed\n")


def test_load_shows_the_states_while_the_server_works(lmx: Lmx, server: StandIn) -> None:
    """The request stays open while the fleet is looked at; the answer's figures end it."""
    loading = worker(state=WorkerState.LOADING, load_progress=LoadProgressView(phase="x", done=1, total=2, unit="bytes"))
    stages = iter([loading, worker(state=WorkerState.WARMING)])
    looked_twice = threading.Event()

    def workers(_: Any) -> Reply:
        stage = next(stages, None)
        if stage is None:
            looked_twice.set()
        return 200, fleet_document(*([stage] if stage else []))

    def load(_: Any) -> Reply:
        assert looked_twice.wait(30)
        return 200, LOADED

    server.routes |= {"/admin/workers": workers, "/admin/models/load": load}
    result = lmx("load", "tiny", "--path", "x/../tiny.gguf", "--context-length", "2048", "--url", server.url)
    assert (result.status, result.out) == (0, "tiny is served after 1.5 s, in 0.25 GB\n")
    assert result.err == "tiny: loading\ntiny: warming\n"
    [order] = server.bodies("/admin/models/load")
    assert order == {"model_id": "tiny", "path": str(Path.cwd() / "x/../tiny.gguf"), "max_context_length": 2048}


def test_load_by_force(lmx: Lmx, server: StandIn) -> None:
    """`--force` is the API's way past a quarantine; without it the order does not mention one."""
    server.answer("/admin/models/load", LOADED)
    server.answer("/admin/workers", fleet_document())
    lmx("load", "tiny", "--force", "--url", server.url)
    lmx("load", "tiny", "--url", server.url)
    assert server.bodies("/admin/models/load") == [
        {"model_id": "tiny", "allow_unsupported_runtime": True},
        {"model_id": "tiny"},
    ]


def test_a_refused_load_is_the_servers_words(lmx: Lmx, server: StandIn) -> None:
    """A refusal is one line with message and code, status 1, and no traceback."""
    server.refuse("/admin/models/load", 409, "model_unstable", "Model 'tiny' is quarantined after instability.")
    server.answer("/admin/workers", fleet_document())
    result = lmx("load", "tiny", "--url", server.url)
    assert (result.status, result.out) == (1, "")
    assert result.err == "error: Model 'tiny' is quarantined after instability. (model_unstable)\n"


def test_a_load_that_needs_a_download_is_no_success(lmx: Lmx, server: StandIn) -> None:
    """An answer that is a question, not a served model, fails with the server's message."""
    server.answer("/admin/models/load", {"status": "download_required", "message": "It must be downloaded."}, 202)
    server.answer("/admin/workers", fleet_document())
    result = lmx("load", "tiny", "--url", server.url)
    assert (result.status, result.err) == (1, "error: It must be downloaded.\n")


def test_unload_says_what_was_freed(lmx: Lmx, server: StandIn) -> None:
    """The model's id goes to the server, the freed memory to the user."""
    server.answer("/admin/models/unload", {"success": True, "model_id": "org/tiny", "memory_freed_gb": 0.5})
    assert lmx("unload", "org/tiny", "--url", server.url).out == "org/tiny is no longer served; 0.50 GB freed\n"
    assert server.bodies("/admin/models/unload") == [{"model_id": "org/tiny"}]


@pytest.mark.parametrize(
    "command", [("ps",), ("ls",), ("status",), ("load", "x"), ("unload", "x"), ("run", "x", "y"), ("chat", "x")]
)
def test_without_a_server_every_command_says_how_to_start_one(lmx: Lmx, server: StandIn, command: tuple[str, ...]) -> None:
    """One line, status 3."""
    closed = "http://127.0.0.1:1"
    result = lmx(*command, "--url", closed)
    assert (result.status, result.out) == (3, "")
    assert result.err.startswith(f"error: no LMX server at {closed}; start one with: lmx serve")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("status", "content", "words"),
    [
        (500, b"<html>oops</html>", "HTTP 500 without an explanation"),
        (404, b'{"detail": "Not Found"}', "HTTP 404 without an explanation"),
        (200, b"<html>hello</html>", "something else than JSON"),
        (200, b'{"workers": 7}', "does not know"),
        (200, b'{"workers": [' + b"[" * 5000, "something else than JSON"),
    ],
)
def test_a_server_that_is_not_lmx_is_told_from_one(lmx: Lmx, server: StandIn, status: int, content: bytes, words: str) -> None:
    """Whatever listens there, the answer is one line and status 1."""
    server.answer("/admin/workers", content, status)
    result = lmx("ps", "--url", server.url)
    assert result.status == 1
    assert words in result.err
    assert result.err.count("\n") == 1


def test_proxies_of_the_environment_are_not_asked(lmx: Lmx, server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy for the internet does not stand between the command and a local server."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    server.answer("/admin/workers", fleet_document())
    assert lmx("ps", "--url", server.url).status == 0
