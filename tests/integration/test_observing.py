"""Events and metrics of a real service: what operators see while workers live, die and are replaced."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import psutil

from tests.support.live import LiveServer, wait_until
from tests.support.promql import Scrape, alert_rules, firing, scraped

SUPERVISOR_BYTES_MAX = 80 * 1024**2


class Follower(threading.Thread):
    """A client that follows the events and keeps them."""

    def __init__(self, server: LiveServer, **params: Any) -> None:
        super().__init__(daemon=True)
        self.events: list[dict[str, Any]] = []
        self.ended_well = False
        self._url, self._params = f"{server.url}/admin/events", params
        self._connected = threading.Event()

    def __enter__(self) -> "Follower":
        self.start()
        assert self._connected.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.join(10)
        assert not self.is_alive()

    def run(self) -> None:
        with httpx.stream("GET", self._url, params=self._params, timeout=60.0) as response:
            for line in response.iter_lines():
                # The first heartbeat: from here on nothing is missed.
                self._connected.set()
                if line.startswith("data: ") and "type" in (data := json.loads(line.removeprefix("data: "))):
                    self.events.append(data)
        self.ended_well = True

    def has(self, kind: str) -> bool:
        return any(event["type"] == kind for event in self.events)


def _scrape(server: LiveServer) -> Scrape:
    answer = server.http.get("/admin/metrics")
    assert answer.status_code == 200
    return scraped(answer.text)


def _sample(server: LiveServer, name: str, **labels: str) -> float | None:
    return _scrape(server).get((name, frozenset(labels.items())))


def _fires(samples: Scrape, alert: str) -> bool:
    """Whether a rule about this moment finds something."""
    return bool(firing(dict(alert_rules())[alert], {}, samples, 1.0))


def test_a_crash_is_told_as_it_happens_and_the_stream_ends_with_the_service(serve: Callable[..., LiveServer]) -> None:
    """kill -9 on a worker: exit, restart and readiness arrive in order, with rising ids; a stop ends the stream cleanly."""
    server = serve()
    server.script("m")
    server.load("m")
    with Follower(server) as follower:
        os.kill(server.worker("m")["pid"], signal.SIGKILL)
        wait_until(lambda: follower.has("model_loaded"), 30.0, "the model to be loaded again")
        assert server.stop() == 0
    kinds = [event["type"] for event in follower.events]
    story = ["worker_exited", "worker_restarting", "model_canary_started", "model_canary_passed", "model_loaded"]
    assert [kind for kind in kinds if kind in story][: len(story)] == story
    exited = follower.events[kinds.index("worker_exited")]
    assert (exited["model_id"], exited["signal"]) == ("m", 9)
    assert exited["crash_id"]
    ids = [event["id"] for event in follower.events]
    assert ids == sorted(set(ids))
    assert kinds[-1] == "service_stopped"
    assert follower.ended_well


def test_ids_go_on_after_a_restart_and_what_was_missed_is_a_gap(serve: Callable[..., LiveServer]) -> None:
    """A reader of the service before a kill -9 resumes at the service after it: a gap, then higher ids."""
    server = serve()
    server.script("m")
    server.load("m")
    seen = _listed(server, 0)[-1]["id"]
    server.kill()
    server.close()
    server.assert_no_worker_is_left(seconds=10.0)
    again = serve()
    again.load("m")
    gap, *rest = _listed(again, seen)
    assert (gap["type"], gap["from_id"]) == ("gap", seen)
    assert rest[0]["id"] == gap["to_id"] > seen


def _listed(server: LiveServer, last_id: int) -> list[dict[str, Any]]:
    text = server.http.get("/admin/events", params={"last_event_id": last_id, "follow": "false"}).text
    data = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    return [event for event in data if "type" in event]


def test_the_key_in_the_query_is_never_logged(serve: Callable[..., LiveServer]) -> None:
    """The request is logged by its path; neither the right key nor a wrong one is in any line."""
    server = serve(LMX_SECURITY__ADMIN_KEY="the-right-key")
    for key, status in (("the-right-key", 200), ("some-wrong-key", 403)):
        assert server.http.get("/admin/events", params={"admin_key": key, "follow": "false"}).status_code == status
    wait_until(lambda: server.log().count('"/admin/events"') == 2, 10.0, "both requests to be logged")
    assert "the-right-key" not in server.log()
    assert "some-wrong-key" not in server.log()


def test_metrics_tell_what_happened(server: LiveServer) -> None:
    """Answers, a cancelled stream, a crash and a quarantine show up in their numbers; the supervisor stays small."""
    server.script("m", "answers: [{pieces: ['a'], tokens: 500, token_seconds: 0.01}]")
    server.script("bad", 'faults: [{when: request, contains: "poison", do: abort, line: "GGML_ASSERT(x) failed"}]')
    for model_id in ("m", "bad"):
        server.load(model_id)
    assert server.chat("m", max_tokens=3).status_code == 200
    assert server.chat("nobody").status_code == 404
    stream = server.stream("m")
    next(stream)
    next(stream)
    stream.close()
    wait_until(lambda: _sample(server, "lmx_cancel_to_free_seconds_count", model="m") == 1.0, 10.0, "the cancel to count")
    server.chat("bad", "poison")
    while server.worker("bad")["state"] != "quarantined":
        server.wait_for_state("bad", "ready", "quarantined")
        server.chat("bad", f"poison {time.monotonic()}")
    samples = _scrape(server)

    def value(name: str, **labels: str) -> float | None:
        return samples.get((name, frozenset(labels.items())))

    assert value("lmx_stream_requests_total") == 1.0
    assert value("lmx_model_requests_total", model="m") == 2.0
    assert value("lmx_model_requests_total", model="other") == 1.0
    assert value("lmx_request_duration_seconds_count", model="m") == 1.0
    assert value("lmx_inter_token_seconds_count", model="m")
    assert value("lmx_crashes_total", model="bad", reason="native_assert") == 3.0
    assert value("lmx_worker_last_exit_info", model="bad", reason="native_assert") == 1.0
    assert value("lmx_model_readiness_state", model="bad", state="quarantined") == 1.0
    assert value("lmx_requests_replayed_total") >= 1.0
    assert value("lmx_errors_total") >= 1.0
    assert value("lmx_loaded_models") == 1.0
    assert 0.0 <= value("lmx_worker_heartbeat_age_seconds", model="m") < 5.0
    assert _fires(samples, "OptaLMXQuarantinedModelPresent")
    assert _fires(samples, "LMXWorkerCrashLoop")
    assert not _fires(samples, "OptaLMXCanaryPendingStuck")
    assert [event["outcome"] for event in _listed(server, 0) if event["type"] == "request_completed"][:2] == [
        "finished",
        "cancelled",
    ]
    assert psutil.Process(server.process.pid).memory_info().rss < SUPERVISOR_BYTES_MAX
