"""The crash loop of the supervisor itself: exactly the runbook's walk through it, and what is not one."""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.support.live import LiveServer, wait_until

Serve = Callable[..., LiveServer]


def state_of(server: LiveServer) -> dict[str, Any]:
    """The state file, as an operator reads it."""
    document: dict[str, Any] = json.loads((server.home / "runtime-state.json").read_text())
    return document


def age_starts(server: LiveServer, *seconds_ago: float) -> None:
    """Write other times of the last starts into the file of a supervisor that is not running."""
    state = state_of(server) | {"recent_starts": [time.time() - ago for ago in seconds_ago]}
    (server.home / "runtime-state.json").write_text(json.dumps(state))


def status_of(server: LiveServer) -> dict[str, Any]:
    """GET /admin/status."""
    document: dict[str, Any] = server.http.get("/admin/status").json()
    return document


@pytest.fixture
def serving(serve: Serve) -> LiveServer:
    """A supervisor with one model from the configuration and one loaded by hand."""
    server = serve()
    server.script("auto")
    server.load(server.script("by-hand"))
    server.stop()
    server.environment["LMX_MODELS__AUTO_LOAD"] = '["auto"]'
    server.start()
    server.wait_for_state("auto", "ready")
    server.load("by-hand")
    wait_until(lambda: "by-hand" in state_of(server)["loaded_models"], 5.0, "the state file")
    return server


def kill_and_start(server: LiveServer) -> None:
    """What launchd or systemd do with a supervisor that dies."""
    server.kill()
    server.start()


def told_events(server: LiveServer, until: str) -> list[str]:
    """The kinds of the events so far, up to one that must come."""
    kinds = []
    with httpx.stream("GET", f"{server.url}/admin/events?last_event_id=0", timeout=10.0) as stream:
        for line in stream.iter_lines():
            if line.startswith("event: "):
                kinds.append(line.removeprefix("event: "))
            if kinds and kinds[-1] == until:
                return kinds
    return kinds


def test_the_third_start_in_a_minute_is_safe_and_a_clean_stop_clears_it(serving: LiveServer) -> None:
    """Diagnosis and resolution of the runbook's crash loop, step by step."""
    server = serving
    kill_and_start(server)
    server.wait_for_state("by-hand", "ready")
    assert (2, False) == (status_of(server)["startup_count"], status_of(server)["safe_mode"])
    kill_and_start(server)

    # Diagnosis: the file, the probe, the status, the log, the event.
    state = state_of(server)
    assert (False, 3) == (state["last_clean_shutdown"], state["startup_count"])
    assert time.time() - state["last_startup_at"] < 60
    assert set(state["loaded_models"]) == {"auto", "by-hand"}, "what was loaded before the crash can still be read"
    unready = server.http.get("/readyz")
    assert (503, "no models loaded") == (unready.status_code, unready.json()["reason"])
    status = status_of(server)
    assert (True, True, 3, 0) == tuple(
        status[key] for key in ("safe_mode", "crash_loop_detected", "startup_count", "loaded_models")
    )
    assert server.http.get("/healthz").status_code == 200
    assert {"crash_loop_detected", "auto_load_skipped_safe_mode"} <= set(told_events(server, until="safe_mode"))
    for told in ("crash_loop_detected", "auto_load_skipped_safe_mode", "safe_mode"):
        assert f'"message":"{told}"' in server.log()

    # Operators can work in it.
    server.load("by-hand")
    assert server.chat("by-hand").status_code == 200

    # Resolution: a clean stop clears the counter; the next start is a normal one.
    assert server.stop() == 0
    assert (True, 0) == (state_of(server)["last_clean_shutdown"], state_of(server)["startup_count"])
    server.start()
    server.wait_for_state("auto", "ready")
    assert (False, False, 1) == tuple(status_of(server)[key] for key in ("safe_mode", "crash_loop_detected", "startup_count"))
    assert server.worker("by-hand") == {}


def test_three_starts_spread_over_ten_minutes_are_no_crash_loop(serving: LiveServer) -> None:
    """Every one of them restores what was loaded."""
    server = serving
    server.kill()
    age_starts(server, 600, 300)
    server.start()

    server.wait_for_state("by-hand", "ready")
    server.wait_for_state("auto", "ready")
    assert (1, False) == (status_of(server)["startup_count"], status_of(server)["safe_mode"])


def test_five_starts_in_an_hour_are_one(serving: LiveServer) -> None:
    """However slowly they follow each other."""
    server = serving
    server.kill()
    age_starts(server, 3500, 2500, 1500, 500)
    server.start()

    assert (True, 0) == (status_of(server)["safe_mode"], status_of(server)["loaded_models"])


def test_an_empty_auto_load_for_this_start_loads_and_restores_nothing(serving: LiveServer) -> None:
    """The operators' own safe mode; it is not called a crash loop."""
    server = serving
    server.kill()
    server.environment["LMX_MODELS__AUTO_LOAD"] = "[]"
    server.start()

    status = status_of(server)
    assert (True, False, 0) == (status["safe_mode"], status["crash_loop_detected"], status["loaded_models"])
    assert server.http.get("/admin/workers").json()["workers"] == []
    assert told_events(server, until="safe_mode")[-1] == "safe_mode"
    assert state_of(server)["loaded_models"] == []
