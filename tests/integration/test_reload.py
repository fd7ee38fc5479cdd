"""POST /admin/config/reload against a running server: each kind of key is seen to change what the server does."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.live import LiveServer, wait_until

DEVICE = ("device.name", "device.purpose", "device.role")
ENDLESS = "answers: [{pieces: ['on '], tokens: 100000, token_seconds: 0.02}]"


@pytest.fixture
def configured(serve: Callable[..., LiveServer], tmp_path: Path) -> LiveServer:
    """A server that was started with an empty configuration file."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.yaml").write_text("")
    return serve(LMX_MODELS__SLOTS="1")


def reload(server: LiveServer, text: str) -> dict[str, Any]:
    """Write the file and have it read; it must be taken."""
    (server.home / "config.yaml").write_text(text)
    response = server.http.post("/admin/config/reload")
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.live_keys("supervision.quarantine_threshold")
def test_a_lower_quarantine_threshold_holds_for_the_next_crash(configured: LiveServer) -> None:
    """A model that would have been restarted is quarantined after its first crash; the reload itself leaves it alone."""
    configured.script("m")
    configured.load("m")
    pid = configured.worker("m")["pid"]
    answer = reload(configured, "supervision: {quarantine_threshold: 1}")

    assert answer == {"success": True, "updated": ["supervision.quarantine_threshold"], "ignored": []}
    assert configured.worker("m")["pid"] == pid
    os.kill(pid, signal.SIGSEGV)
    assert configured.wait_for_state("m", "quarantined", seconds=5.0)["readiness"]["reason"] == "crash_loop:1"


@pytest.mark.live_keys("models.queue_per_model")
def test_a_shorter_queue_holds_for_the_next_request(configured: LiveServer) -> None:
    """With no room to wait, a second request is told to come back while the first runs on."""
    configured.script("m", ENDLESS)
    configured.load("m")
    stream = configured.stream("m")
    next(stream)
    answer = reload(configured, "models: {queue_per_model: 0}")
    refused = configured.chat("m")
    still_streaming = next(stream)
    stream.close()

    assert answer["updated"] == ["models.queue_per_model"]
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert still_streaming != "[DONE]"


@pytest.mark.live_keys("security.admin_key")
def test_a_new_admin_key_is_needed_at_once_and_never_logged(configured: LiveServer) -> None:
    """The old way in is closed with the next request, the new key opens it, and logs know it as a secret from then on."""
    reload(configured, "security: {admin_key: sk-new-hush}")
    without = configured.http.get("/admin/workers")
    configured.http.headers["X-Admin-Key"] = "sk-new-hush"
    configured.http.get("/admin/workers/sk-new-hush")

    assert (without.status_code, without.json()["error"]["code"]) == (403, "invalid_admin_key")
    assert configured.http.get("/admin/workers").status_code == 200
    wait_until(lambda: "/admin/workers/[redacted]" in configured.log(), 5.0, "the request in the log")
    assert "sk-new-hush" not in configured.log()


@pytest.mark.live_keys("logging.level")
def test_the_log_level_changes(configured: LiveServer) -> None:
    """Lines below the new level are no longer written; `config_reloaded` told of it before."""
    configured.script("m")
    reload(configured, "logging: {level: DEBUG}")
    wait_until(lambda: '"config_reloaded"' in configured.log(), 5.0, "the event in the log")
    reload(configured, "logging: {level: ERROR}")
    configured.load("m")
    configured.http.post("/admin/models/unload", json={"model_id": "m"})

    assert "worker_spawned" not in configured.log()


@pytest.mark.live_keys(
    "server.body_bytes_max", "server.drain_seconds", "models.context_length", "security.inference_api_key", "security.admin_key"
)
def test_what_is_looked_at_each_time_changes_with_the_next_one(configured: LiveServer) -> None:
    """Request bodies, inference keys, the context of the loads to come, and the patience of a stop."""
    configured.script("m", ENDLESS)
    answer = reload(
        configured,
        """
server: {body_bytes_max: 2000, drain_seconds: 0.2}
models: {context_length: 1024}
security: {inference_api_key: sk-hush, admin_key: sk-admin}
""",
    )
    without_key = configured.chat("m")
    configured.http.headers["X-Admin-Key"] = "sk-admin"
    too_large = configured.chat("m", "x" * 3000)
    configured.load("m")
    [loaded] = configured.http.get("/admin/models").json()["loaded"]
    stream = configured.stream("m")
    next(stream)
    began = time.monotonic()
    code = configured.stop()
    seconds = time.monotonic() - began

    assert len(answer["updated"]) == 5
    assert (without_key.status_code, too_large.status_code, loaded["context_length"]) == (401, 413, 1024)
    assert (code, seconds < 5.0) == (0, True)


@pytest.mark.live_keys("models.warm_spare")
def test_spares_go_when_they_are_not_wanted_any_more(configured: LiveServer) -> None:
    """Switching warm spares off ends the one that waits; switching them on brings one back."""
    configured.script("m")
    configured.load("m")

    def spares() -> int:
        return len(configured.http.get("/admin/workers").json()["spares"])

    wait_until(lambda: spares() == 1, 10.0, "a spare")
    reload(configured, "models: {warm_spare: false}")
    wait_until(lambda: spares() == 0, 10.0, "no spare")
    reload(configured, "models: {warm_spare: true}")
    wait_until(lambda: spares() == 1, 10.0, "a spare again")


def test_what_needs_a_restart_is_named_and_left_alone(configured: LiveServer) -> None:
    """The port of the command line wins anyway; another host waits for the next start."""
    answer = reload(configured, "server: {host: 127.0.0.2, port: 1, body_seconds: 7}")

    assert (answer["updated"], answer["ignored"]) == (["server.body_seconds"], ["server.host"])
    assert configured.http.get("/healthz").status_code == 200


def test_a_file_that_cannot_be_used_changes_nothing(configured: LiveServer) -> None:
    """400 with file, key and reason; the keys before and after the bad one are not applied either."""
    path = configured.home / "config.yaml"
    path.write_text("security: {admin_key: k}\nmodels: {queue_per_modle: 5}")
    answer = configured.http.post("/admin/config/reload")
    path.unlink()
    gone = configured.http.post("/admin/config/reload")

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "models.queue_per_modle")
    assert str(path) in answer.json()["error"]["message"]
    assert "did you mean 'models.queue_per_model'" in answer.json()["error"]["message"]
    assert (gone.status_code, "no such file" in gone.json()["error"]["message"]) == (400, True)
    assert configured.http.get("/admin/workers").status_code == 200


@pytest.mark.live_keys(
    "routing.aliases", "routing.default_model", "models.default_model", "device.name", "device.purpose", "device.role"
)
def test_names_for_models_change_with_the_next_request(configured: LiveServer) -> None:
    """Aliases, what `auto` means, the model of a request that names none, and what the machine is called and for."""
    for model_id in ("a", "b"):
        configured.script(model_id)
        configured.load(model_id)

    def answers_to(name: str | None) -> tuple[int, Any]:
        named = {} if name is None else {"model": name}
        response = configured.http.post(
            "/v1/chat/completions", json={**named, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
        )
        return response.status_code, response.json().get("model")

    before = [answers_to(name) for name in ("mine", "auto", None)]
    answer = reload(
        configured,
        """
routing: {aliases: {mine: [b, a]}, default_model: b}
models: {default_model: mine}
device: {name: n, purpose: p, role: r}
""",
    )

    assert answer["updated"] == ["models.default_model", "routing.aliases", "routing.default_model", *DEVICE]
    assert configured.http.get("/admin/device").json()["identity"] == {"name": "n", "purpose": "p", "role": "r"}
    assert before == [(404, None), (200, "a"), (400, None)]
    assert [answers_to(name) for name in ("mine", "auto", None)] == [(200, "b")] * 3


def handshake(server: LiveServer) -> int:
    """What the server answers to a client that wants a WebSocket."""
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
    }
    with server.http.stream("GET", "/v1/chat/stream", headers=headers) as response:
        return response.status_code


@pytest.mark.live_keys("server.websocket_enabled", "server.sse_events_enabled")
def test_streams_that_are_switched_off_are_refused_at_once(configured: LiveServer) -> None:
    """No new event stream and no new WebSocket, each with what to do; discovery stops promising them, and back again."""
    assert configured.http.get("/admin/events", params={"follow": "false"}).status_code == 200
    answer = reload(configured, "server: {sse_events_enabled: false, websocket_enabled: false}")
    events = configured.http.get("/admin/events", params={"follow": "false"})
    said = configured.http.get("/v1/discovery").json()
    refused = handshake(configured)
    reload(configured, "")

    assert answer["updated"] == ["server.websocket_enabled", "server.sse_events_enabled"]
    assert (events.status_code, "server.sse_events_enabled" in events.json()["error"]["message"]) == (404, True)
    assert (said["endpoints"]["websocket_url"], said["continuity"]["event_resume_supported"]) == (None, False)
    assert (refused, handshake(configured)) == (404, 101)
    assert configured.http.get("/admin/events", params={"follow": "false"}).status_code == 200
