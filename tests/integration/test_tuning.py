"""Benchmarks and autotune of real workers: what is measured, what is kept, and what a model is left like."""

import http.client
import json
import os
import threading
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.live import LiveServer, wait_until

Serve = Callable[..., LiveServer]

SLOW = "answers: [{pieces: ['on ', 'and '], tokens: 10, token_seconds: 0.02}]"
"""A token takes its time whatever the machine does, and a step gives one to every slot: more slots are faster by so much."""
FOUR_AT_ONCE = {"concurrency": 4, "max_tokens": 10}
TUNE = "/admin/models/autotune"
FILE = "autotune-registry.toml"


def tune(server: LiveServer, model_id: str, *profiles: dict[str, Any], **fields: Any) -> httpx.Response:
    """Autotune over these candidates."""
    body = {"model_id": model_id, "profiles": profiles, **FOUR_AT_ONCE, **fields}
    return server.http.post(TUNE, json=body, timeout=120)


def in_force(server: LiveServer, model_id: str) -> dict[str, Any]:
    """What a loaded model was tuned by, and by whom."""
    shown = server.http.get(f"/admin/models/{model_id}/performance").json()
    return {name: (value, shown["performance_sources"][name]) for name, value in shown["performance"].items()}


def is_gone(server: LiveServer, model_id: str) -> bool:
    """Whether there is nothing of the model."""
    return server.http.get(f"/admin/workers/{model_id}").status_code == 404


def test_autotune_picks_the_profile_that_is_more_than_twice_as_fast_and_the_next_load_uses_it(serve: Serve) -> None:
    """Eight slots serve eight requests in an eighth of the time of one; the record outlives kill -9 and is used unasked."""
    server = serve()
    server.script("m", "answers: [{pieces: ['on ', 'and '], tokens: 8, token_seconds: 0.05}]")
    answer = tune(server, "m", {"slots": 1}, {"slots": 8}, concurrency=8).json()
    slow, fast = (candidate["metrics"] for candidate in answer["candidates"])

    assert {"slots": 8} == answer["best_profile"]
    assert answer["best_score"] == max(candidate["score"] for candidate in answer["candidates"])
    assert fast["avg_tokens_per_second"] > slow["avg_tokens_per_second"]
    assert slow["queue_wait_ms"] > fast["queue_wait_ms"]
    assert [0, 0] == [metrics["error_rate"] for metrics in (slow, fast)]
    assert is_gone(server, "m"), "it was not loaded before"

    server.kill()
    server.start()
    server.load("m")
    assert in_force(server, "m") == {"slots": (8, "autotune")}
    record = server.http.get("/admin/models/m/autotune").json()
    key = f"m::scripted::{record['backend_version']}"
    assert tomllib.loads((server.home / FILE).read_text())["records"][key] == record
    assert (server.home / FILE).stat().st_mode & 0o777 == 0o600


def test_whatever_becomes_of_the_candidates_the_model_is_left_as_it_was(serve: Serve) -> None:
    """Loaded as it was ordered, requests wait meanwhile; crashing candidates are no quarantine; no winner, no record."""
    server = serve(LMX_MODELS__SLOTS="2")
    server.load(server.script("loaded", SLOW), performance_overrides={"max_tokens": 7}, keep_alive_sec=0)
    answers: list[httpx.Response] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            answers.append(server.chat("loaded"))

    client = threading.Thread(target=ask)
    client.start()
    try:
        tuned = tune(server, "loaded", {"slots": 1, "max_tokens": 5}, {"slots": 4, "max_tokens": 5})
    finally:
        done.set()
        client.join()
    assert tuned.status_code == 200, tuned.text
    slots = tuned.json()["best_profile"]["slots"]
    assert in_force(server, "loaded") == {"max_tokens": (7, "override"), "slots": (slots, "autotune")}
    assert server.worker("loaded")["keep_alive_seconds"] == 0
    assert {200} == {response.status_code for response in answers}

    server.script("crashing", f"{SLOW}\nfaults: [{{when: token, number: 1, contains: crash, do: segfault, lives: 3}}]")
    server.expected_crashes.append(("native_crash", 3))
    profiles = [{"slots": 1}, {"slots": 2}, {"slots": 3}, {"slots": 4}]
    crashed = tune(server, "crashing", *profiles, prompt="crash", runs=2).json()
    assert {"slots": 4} == crashed["best_profile"]
    assert [True, True, True, False] == [bool(candidate["error"]) for candidate in crashed["candidates"]]
    assert [1, 1, 1, 0] == [candidate["metrics"]["error_rate"] for candidate in crashed["candidates"]]
    assert is_gone(server, "crashing")
    server.load("crashing")
    assert server.worker("crashing")["consecutive_failures"] == 0

    server.load(server.script("no-winner", SLOW))
    failed = tune(server, "no-winner", {"memory_estimate_gb": 100_000})
    assert (507, "insufficient_memory") == (failed.status_code, failed.json()["error"]["code"])
    assert server.chat("no-winner").status_code == 200
    missing = server.http.get("/admin/models/no-winner/autotune")
    assert (404, "autotune_not_found") == (missing.status_code, missing.json()["error"]["code"])


def begin_tuning(server: LiveServer, model_id: str) -> http.client.HTTPConnection:
    """Start an autotune that would take long, and wait until a candidate is measured."""
    server.load(server.script(model_id, "answers: [{pieces: ['on '], tokens: 4000, token_seconds: 0.05}]"))
    body = {"model_id": model_id, "profiles": [{"slots": 3}], "max_tokens": 4000, "concurrency": 1}
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=120)
    connection.request("POST", TUNE, json.dumps(body), {"Content-Type": "application/json"})
    wait_until(lambda: server.worker(model_id)["requests_active"] == 1, 30, "a candidate being measured")
    return connection


def test_an_autotune_may_end_in_the_middle(serve: Serve) -> None:
    """A client that leaves ends its autotune and gets the model back; an operator's unload is believed, and nothing is kept."""
    server = serve(LMX_MODELS__SLOTS="2", LMX_SERVER__DRAIN_SECONDS="0.5")
    connection = begin_tuning(server, "left")
    busy = tune(server, "other", {"slots": 1})
    assert (409, "model_in_use") == (busy.status_code, busy.json()["error"]["code"])
    connection.close()
    wait_until(lambda: slots_or_none(server, "left") == 2, 30, "the model as it was")
    server.wait_for_state("left", "ready")
    wait_until(lambda: tune(server, "unknown").status_code == 404, 30, "the end of the autotune")

    connection = begin_tuning(server, "taken")
    assert server.http.post("/admin/models/unload", json={"model_id": "taken"}, timeout=60).status_code == 200
    answer = connection.getresponse()
    assert (409, "model_load_cancelled") == (answer.status, json.loads(answer.read())["error"]["code"])
    connection.close()
    assert is_gone(server, "taken")
    assert [404, 404] == [server.http.get(f"/admin/models/{name}/autotune").status_code for name in ("left", "taken")]


def slots_or_none(server: LiveServer, model_id: str) -> int | None:
    """How many a model has, while it may come and go."""
    response = server.http.get(f"/admin/models/{model_id}/performance")
    return response.json()["slots"] if response.status_code == 200 else None


def test_a_benchmark_measures_real_generations_and_is_kept(serve: Serve) -> None:
    """Averages and runs at once; figures in files, the newest listed first; nothing for what is not loaded."""
    server = serve()
    (server.home / "models" / "bench").mkdir()
    server.load(server.script("bench/a", SLOW))
    measured = server.http.post("/admin/benchmark", json={"model_id": "bench/a", "runs": 2}).json()
    assert ([10, 10], "scripted") == ([run["tokens_generated"] for run in measured["results"]], measured["backend_type"])
    # Each token takes 20 ms or more.
    assert 0 < measured["avg_tokens_per_second"] <= 50
    assert measured["avg_total_time_ms"] >= 200 > 0 < measured["avg_time_to_first_token_ms"]

    kept = [server.http.post("/admin/benchmark/run", json={"model_id": "bench/a", "runs": 2}).json() for _ in range(2)]
    assert [("ok", 2, 1)] * 2 == [
        (each["status"], each["stats"]["runs_completed"], each["stats"]["warmup_runs_discarded"]) for each in kept
    ]
    assert kept[::-1] == server.http.get("/admin/benchmark/results", params={"model_id": "bench/a"}).json()
    assert [] == server.http.get("/admin/benchmark/results", params={"model_id": "b"}).json()
    files = sorted((server.home / "benchmarks").glob("bench-a_*.json"))
    assert [json.loads(file.read_text()) for file in files] == kept

    server.script("on-disk")
    for path in ("/admin/benchmark", "/admin/benchmark/run"):
        refused = [server.http.post(path, json={"model_id": name}) for name in ("on-disk", "unknown")]
        assert [(409, "model_not_loaded"), (404, "model_not_found")] == [
            (answer.status_code, answer.json()["error"]["code"]) for answer in refused
        ]


def test_an_unusable_registry_is_set_aside(serve: Serve, tmp_path: Path) -> None:
    """The service starts afresh; what somebody writes into a profile by hand is used with the next start."""
    home = tmp_path / "home"
    home.mkdir()
    (home / FILE).write_text("schema = [broken")
    server = serve()
    assert len(list(home.glob(f"{FILE}.corrupt-*"))) == 1
    tune(server, server.script("m", SLOW), {"slots": 2})
    server.stop()
    (home / FILE).write_text((home / FILE).read_text().replace("slots = 2", "slots = 3"))
    server.start()
    server.load("m")

    assert in_force(server, "m") == {"slots": (3, "autotune")}


@pytest.mark.alone
@pytest.mark.real
def test_autotune_picks_the_faster_profile_of_the_demo_model(serve: Serve) -> None:
    """Many threads for each core wait for each other, however fast the machine is: far slower than one thread each."""
    server = serve("--demo")
    model = "smollm2-135m-instruct"
    server.wait_for_state(model, "ready", seconds=60)
    cores = os.cpu_count() or 1
    crowded, fitting = {"threads": min(32 * cores, 1024)}, {"threads": cores}
    answer = tune(server, model, crowded, fitting, concurrency=2, max_tokens=16, temperature=0).json()

    assert fitting == answer["best_profile"]
    assert in_force(server, model) == {"threads": (cores, "autotune")}
