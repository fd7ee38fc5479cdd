"""What outlives a supervisor that is killed: quarantine and loaded models; and disk trouble that does not become a fault."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmx_supervisor.catalog.demo import find_demo_model
from lmx_supervisor.runtime.boot_sweep import machine_boot_id, start_time_of
from tests.support.live import LiveServer, wait_until

Serve = Callable[..., LiveServer]

CRASHES = """
answers: [{echo: true}]
faults:
  - {when: token, number: 1, contains: crash, do: segfault}
"""
WRITTEN_SECONDS = 5.0


def state_of(server: LiveServer) -> dict[str, Any]:
    """The state file, as an operator reads it."""
    document: dict[str, Any] = json.loads((server.home / "runtime-state.json").read_text())
    return document


def until_state(server: LiveServer, fits: Callable[[dict[str, Any]], bool]) -> None:
    """Wait for the state file to say something."""
    wait_until(lambda: fits(state_of(server)), WRITTEN_SECONDS, "the state file")


def code_of(server: LiveServer, model_id: str, **order: Any) -> str | None:
    """The code that a load is refused with; None when it succeeds."""
    response = server.http.post("/admin/models/load", json={"model_id": model_id, **order})
    return None if response.status_code == 200 else response.json()["error"]["code"]


def streamed(model_id: str) -> dict[str, Any]:
    """The body of a streamed chat completion."""
    return {"model": model_id, "stream": True, "messages": [{"role": "user", "content": "hello"}]}


def listed(server: LiveServer, model_id: str) -> dict[str, Any]:
    """The entry of a model in GET /admin/models; empty when it has none."""
    models = server.http.get("/admin/models").json()["loaded"]
    return next((model for model in models if model["id"] == model_id), {})


def crash_into_quarantine(server: LiveServer, model_id: str) -> None:
    """Ask what crashes it, in ever new words, until it is quarantined."""
    for number in range(3):
        server.chat(model_id, f"crash {number}")
        if server.wait_for_state(model_id, "ready", "quarantined")["state"] == "quarantined":
            break
    assert server.worker(model_id)["consecutive_failures"] == 3


@pytest.fixture
def quarantined(serve: Serve) -> LiveServer:
    """A supervisor that was killed and started again after `bad` was quarantined beside `good`."""
    server = serve(LMX_SUPERVISION__RESTART_INITIAL_SECONDS="0.05")
    server.load(server.script("good"))
    server.load(server.script("bad", CRASHES))
    crash_into_quarantine(server, "bad")
    assert server.chat("good").status_code == 200
    until_state(server, lambda state: bool(state["quarantine"]))
    server.kill()
    return server.start()


def test_quarantine_survives_kill_9(quarantined: LiveServer) -> None:
    """Requests and loads are refused as before, with reason and crash id; the other model is back and never noticed."""
    server = quarantined
    server.wait_for_state("good", "ready")
    refused = server.chat("bad", "hello")
    (record,) = state_of(server)["quarantine"]

    assert (409, "model_unstable") == (refused.status_code, refused.json()["error"]["code"])
    assert "Model 'bad' is quarantined after instability" in refused.json()["error"]["message"]
    assert record["crash_id"] in refused.json()["error"]["message"]
    assert code_of(server, "bad") == "model_unstable"
    assert listed(server, "bad")["readiness"] == {"state": "quarantined", "reason": "crash_loop:3", "crash_count": 3}
    assert server.chat("good").status_code == 200
    assert [crash["model_id"] for crash in state_of(server)["crash_history"]] == ["bad"] * 3


def test_an_unload_does_not_end_a_quarantine(quarantined: LiveServer) -> None:
    """Nor does a second restart of the service."""
    assert quarantined.http.post("/admin/models/unload", json={"model_id": "bad"}).status_code == 200
    assert code_of(quarantined, "bad") == "model_unstable"
    quarantined.stop()
    quarantined.start()

    assert code_of(quarantined, "bad") == "model_unstable"


def test_changed_files_end_a_quarantine(quarantined: LiveServer) -> None:
    """What crashed is not what is loaded now."""
    quarantined.script("bad", CRASHES + "context_length: 2048\n")

    assert code_of(quarantined, "bad") is None
    until_state(quarantined, lambda state: state["quarantine"] == [])


def test_another_load_configuration_ends_a_quarantine(quarantined: LiveServer) -> None:
    """The digest covers how a model is loaded too."""
    assert code_of(quarantined, "bad", max_context_length=1024) is None


def test_a_forced_load_ends_a_quarantine_once_it_has_served(quarantined: LiveServer) -> None:
    """Before that the force was only a try."""
    assert code_of(quarantined, "bad", allow_unsupported_runtime=True) is None
    until_state(quarantined, lambda state: "bad" in state["loaded_models"])
    assert state_of(quarantined)["quarantine"] != []
    assert quarantined.chat("bad", "hello").status_code == 200

    until_state(quarantined, lambda state: state["quarantine"] == [])


@pytest.mark.parametrize("model_id", ["bad", None])
def test_an_operator_ends_a_quarantine(quarantined: LiveServer, model_id: str | None) -> None:
    """By name or altogether; the release outlives a kill too."""
    answer = quarantined.http.post("/admin/quarantine/clear", json={"model_id": model_id}).json()
    assert {"success": True, "released": ["bad"]} == answer
    until_state(quarantined, lambda state: state["quarantine"] == [])
    quarantined.kill()
    quarantined.start()

    assert listed(quarantined, "bad") == {}
    assert code_of(quarantined, "bad") is None


@pytest.mark.real
def test_another_backend_ends_a_quarantine(quarantined: LiveServer) -> None:
    """The runbook's option A: the same id, served by llama.cpp from a GGUF."""
    assert code_of(quarantined, "bad", backend="gguf", path=str(find_demo_model())) is None
    assert quarantined.worker("bad")["backend"] == "llamacpp"


def test_a_restart_by_an_operator_gives_a_fresh_worker(server: LiveServer) -> None:
    """The answer has the load's shape; the process is another; no failure is counted."""
    server.load(server.script("m"))
    before = server.worker("m")["pid"]
    answer = server.http.post("/admin/models/m/restart")

    assert (200, True, "m") == (answer.status_code, answer.json()["success"], answer.json()["model_id"])
    assert server.worker("m")["pid"] != before
    assert server.worker("m")["consecutive_failures"] == 0


def test_loaded_models_are_back_after_a_kill_as_they_were_loaded(serve: Serve, tmp_path: Path) -> None:
    """With path and context of the load, beside those of the configuration; a model unloaded before stays away."""
    server = serve(LMX_MODELS__AUTO_LOAD='["auto"]', LMX_MODELS__SLOTS="4")
    elsewhere = tmp_path / "elsewhere.script.yaml"
    elsewhere.write_text("{}")
    server.load("by-path", path=str(elsewhere), max_context_length=1024)
    server.load(server.script("gone"))
    server.http.post("/admin/models/unload", json={"model_id": "gone"})
    server.script("auto")
    until_state(server, lambda state: state["loaded_models"] == ["by-path"])
    server.kill()
    server.start()

    assert server.wait_for_state("by-path", "ready")["path"] == str(elsewhere)
    (saved,) = [model for model in state_of(server)["models"] if model["spec"]["model_id"] == "by-path"]
    assert (1024, 4) == (saved["spec"]["context_length"], saved["spec"]["slots"])
    server.wait_for_state("auto", "ready")
    assert server.worker("gone") == {}
    assert state_of(server)["startup_count"] == 2


def test_a_clean_restart_loads_what_the_configuration_says_and_no_more(serve: Serve) -> None:
    """A clean stop is an operator's decision; what was loaded by hand is not brought back."""
    server = serve()
    server.load(server.script("m"))
    assert server.stop() == 0
    assert (True, 0, []) == tuple(state_of(server)[key] for key in ("last_clean_shutdown", "startup_count", "loaded_models"))
    server.start()

    assert server.http.get("/admin/workers").json()["workers"] == []
    assert state_of(server)["startup_count"] == 1


def test_a_stop_before_the_start_has_completed_is_clean(serve: Serve) -> None:
    """A model still loads; the stop waits for nothing, exits 0 and leaves the mark."""
    home_models = {"LMX_MODELS__AUTO_LOAD": '["slow"]'}
    server = serve()
    server.script("slow", "load: {seconds: 60}")
    server.stop()
    server.environment |= home_models
    server.start()
    server.wait_for_state("slow", "loading")

    assert server.stop() == 0
    assert state_of(server)["last_clean_shutdown"] is True


def test_a_kill_in_the_middle_of_a_stop_is_no_clean_stop(serve: Serve) -> None:
    """What was loaded when the stop began is brought back: the stop has not come to its end."""
    server = serve()
    server.load(server.script("m", "answers: [{pieces: [x], tokens: 1000, token_seconds: 0.1}]"))
    until_state(server, lambda state: state["loaded_models"] == ["m"])
    with server.http.stream("POST", "/v1/chat/completions", json=streamed("m")) as response:
        lines = response.iter_lines()
        next(lines)
        assert server.process is not None
        server.process.terminate()
        wait_until(lambda: '"draining"' in server.log(), WRITTEN_SECONDS, "the drain")
        server.kill()
    server.start()

    server.wait_for_state("m", "ready")


def test_a_disk_that_takes_no_writes_stops_nothing(serve: Serve) -> None:
    """Loads and answers go on, it is told once, and the file is true again with the first change after the repair."""
    server = serve()
    path = server.home / "runtime-state.json"
    path.unlink()
    (path / "in the way").mkdir(parents=True)
    server.load(server.script("a"))
    server.load(server.script("b"))
    wait_until(lambda: "state_write_failed" in server.log(), WRITTEN_SECONDS, "the complaint")
    assert server.chat("a").status_code == 200
    server.http.post("/admin/models/unload", json={"model_id": "b"})
    (path / "in the way").rmdir()
    path.rmdir()
    server.load(server.script("c"))
    wait_until(path.is_file, WRITTEN_SECONDS, "the file to be back")

    until_state(server, lambda state: state["loaded_models"] == ["a", "c"])
    complaints = [line for line in server.log().splitlines() if "state_write_failed" in line and "runtime-state" in line]
    assert len(complaints) == 1


def test_unusable_files_are_set_aside_and_the_start_is_fresh(serve: Serve) -> None:
    """Every file is kept as evidence, operators are told, and the service is as if it had never run."""
    server = serve()
    server.load(server.script("m"))
    server.kill()
    names = ("runtime-state.json", "compatibility-registry.json", "registered-models.json")
    for name in names:
        (server.home / name).write_text('{"schema": 1, "loaded_mod')
    server.start()

    status = server.http.get("/admin/status").json()
    assert (1, False, 0) == (status["startup_count"], status["safe_mode"], status["loaded_models"])
    assert all(list(server.home.glob(f"{name}.corrupt-*")) for name in names)
    assert server.log().count('"file_set_aside"') == len(names)


def test_leftovers_are_swept_at_the_start_and_strangers_are_not(serve: Serve) -> None:
    """A worker that the last supervisor wrote down is gone; a stranger that has a written pid by now lives on."""
    server = serve()
    server.kill()
    waits = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with (
        subprocess.Popen([*waits, "[0ld-1]"], stdin=subprocess.PIPE, start_new_session=True) as leftover,
        subprocess.Popen([*waits, "stranger"], stdin=subprocess.PIPE, start_new_session=True) as stranger,
    ):
        workers = [
            {"pid": process.pid, "start_time": start_time_of(process.pid), "incarnation": "0ld-1"}
            for process in (leftover, stranger)
        ]
        state = state_of(server) | {"workers": workers, "boot_id": machine_boot_id()}
        (server.home / "runtime-state.json").write_text(json.dumps(state))
        server.start()

        assert leftover.wait(5) == -9
        assert stranger.poll() is None
        assert server.log().count("leftover_worker_killed") == 1


def test_the_registry_tells_passes_and_failures_with_the_backends_version(server: LiveServer) -> None:
    """A passed canary and a failed load; an unload during a load says nothing; the rows outlive a kill."""
    server.load(server.script("fine"))
    server.script("broken", "faults: [{when: load, do: segfault}]")
    assert code_of(server, "broken") == "model_loader_crashed"
    url = "/admin/models/compatibility?model_id=broken&outcome=fail&include_summary=true"
    answer = server.http.get(url).json()
    (row,) = answer["rows"]
    assert ("scripted", "1", "fail") == (row["backend"], row["backend_version"], row["outcome"])
    assert row["reason"].startswith("native_crash: ")
    assert answer["summary"]["broken"]["fail"] == 1
    assert server.http.get("/admin/models/compatibility?model_id=fine").json()["rows"][0]["outcome"] == "pass"
    path = server.home / "compatibility-registry.json"
    wait_until(lambda: path.exists() and "broken" in path.read_text(), WRITTEN_SECONDS, "the registry")
    server.kill()
    server.start()

    assert server.http.get(url).json()["total"] == 1
