"""A: a worker dies before it serves, at the turning points of its life, or while it is being stopped."""

import json
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.fault.acts import (
    LONG,
    SHORT_ANSWER,
    TALKER,
    chat_text,
    ended_as_lost,
    error_code,
    pieces_in,
    signal_worker,
    stream_until,
    talker,
)
from tests.support.live import LiveServer, text_of
from tests.support.mlx_models import smollm2_gguf
from tests.support.server_log import told, wait_told
from tests.support.world import World

IMPORT_FAILURE_SECONDS = 15.0
PATIENT = {"LMX_SUPERVISION__QUARANTINE_THRESHOLD": "100", "LMX_SUPERVISION__RESTART_MAX_IN_WINDOW": "1000"}
"""For cases that need many deaths of one model."""


@pytest.mark.parametrize(
    ("deed", "reason", "told_to_the_operator"),
    [
        ('{when: import, do: raise, line: "no such symbol: frobnicate"}', "config", "no such symbol: frobnicate"),
        ("{when: import, do: sys_exit, code: 1}", "unexpected_exit", "exit code 1"),
        ("{when: import, do: segfault}", "native_crash", "SIGSEGV"),
    ],
)
@pytest.mark.fault("F06", "the load fails within 15 s with the reason, for the person who asked")
def test_f06_crash_at_import(world: World, deed: str, reason: str, told_to_the_operator: str) -> None:
    """ADR 0004: a first load is not tried again behind the operator's back."""
    server, boot = _server_with_boot_script(world)
    with world.bystander():
        boot.write_text(f"faults: [{deed}]")
        server.script("victim")
        began = time.monotonic()
        refused = server.http.post("/admin/models/load", json={"model_id": "victim"})
        world.measure(f"load refused after {reason} at import", time.monotonic() - began, "s", IMPORT_FAILURE_SECONDS)
        boot.write_text("{}")

    assert refused.status_code in (409, 422)
    assert told_to_the_operator in refused.json()["error"]["message"]
    assert len(told(server, "worker_spawned", model_id="victim")) == 1
    world.expect_crash(reason)


@pytest.mark.fault("F06", "a model that is to be there from the start is tried three times, then quarantined")
def test_f06_crash_at_import_of_a_wanted_model(world: World, tmp_path: Path) -> None:
    """The third failure in a row is the last, and requests are told why."""
    boot = tmp_path / "boot.yaml"
    boot.write_text("faults: [{when: import, do: segfault}]")
    server = world.prepare(
        LMX_SCRIPTED_BOOT=boot, LMX_MODELS__AUTO_LOAD='["victim"]', LMX_SUPERVISION__RESTART_INITIAL_SECONDS="0.1"
    )
    server.script("victim", TALKER)
    server.start()
    server.wait_for_state("victim", "quarantined")
    refused = server.chat("victim")
    boot.write_text("{}")

    assert len(told(server, "worker_exited", model_id="victim", reason="native_crash")) == 3
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "model_unstable")
    world.expect_crash("native_crash", count=3)


@pytest.mark.fault("F07", "the load fails with the assertion's line; nobody else is affected")
def test_f07_native_abort_during_the_load(world: World) -> None:
    """The operator reads what llama.cpp said."""
    server = world.serve()
    server.script("victim", 'faults: [{when: load, do: abort, line: "GGML_ASSERT(n_dims <= 4) failed"}]')
    with world.bystander():
        refused = server.http.post("/admin/models/load", json={"model_id": "victim"})

    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "model_loader_crashed")
    assert "GGML_ASSERT(n_dims <= 4) failed" in refused.json()["error"]["message"]
    assert server.worker("victim")["state"] == "failed"
    world.expect_crash("native_assert")


@pytest.mark.real
@pytest.mark.parametrize("damage", ["37 bytes", "cut in half"])
@pytest.mark.fault("F07", "a damaged GGUF is refused before a worker is spent on it")
def test_f07_a_damaged_gguf(world: World, tmp_path: Path, damage: str) -> None:
    """Garbage with the right first bytes, and a real model that is half there."""
    whole = smollm2_gguf()
    broken = tmp_path / "broken.gguf"
    with whole.open("rb") as file:
        broken.write_bytes(b"GGUF" + b"\x99" * 33 if damage == "37 bytes" else file.read(whole.stat().st_size // 2))
    server = world.serve()
    with world.bystander():
        refused = server.http.post("/admin/models/load", json={"model_id": "broken", "path": str(broken)})

    assert 400 <= refused.status_code < 500, refused.text
    assert "broken.gguf" in refused.json()["error"]["message"]
    assert told(server, "worker_spawned", model_id="broken") == []


@pytest.mark.fault("F10", "at once, then 0.2, 0.4, 0.8 s ± 20 %, then quarantine; idle in between")
def test_f10_crash_loop(world: World) -> None:
    """ADR 0004: the first restart has no delay and what doubles follows; here from 0.2 s and up to the fifth death."""
    server = world.prepare(
        LMX_MODELS__AUTO_LOAD='["victim"]',
        LMX_SUPERVISION__BEAT_INTERVAL_SECONDS="0.1",
        LMX_SUPERVISION__RESTART_INITIAL_SECONDS="0.2",
        LMX_SUPERVISION__QUARANTINE_THRESHOLD="5",
    )
    server.script("victim", f"{TALKER}faults: [{{when: ready, do: exit, code: 3}}]")
    server.start()
    with world.bystander():
        wait_told(server, "worker_restarting", count=4, model_id="victim")
        used_before, began = _processor_seconds(server), time.monotonic()
        waiting: list[int] = []
        client = threading.Thread(target=lambda: waiting.append(server.chat("victim", LONG).status_code))
        client.start()
        server.wait_for_state("victim", "quarantined")
        ended = time.monotonic()
        client.join()
        world.measure("quarantine to the end of the queue", time.monotonic() - ended, "s", 1.0)
    busy_ratio = (_processor_seconds(server) - used_before) / (ended - began)
    delays = [line.fields["delay_seconds"] for line in told(server, "worker_restarting", model_id="victim")]

    assert delays[0] == 0
    for delay, planned in zip(delays[1:], (0.2, 0.4, 0.8), strict=True):
        assert abs(delay / planned - 1) <= 0.2
    assert waiting[0] in (409, 503)
    world.measure("supervisor's share of a processor in a crash loop", busy_ratio, "", 0.5)
    world.expect_crash("unexpected_exit", count=5)


@pytest.mark.fault("F11", "a death at the moment of READY costs a restart and nothing else")
def test_f11_death_exactly_at_ready(world: World) -> None:
    """Whether the canary had passed or not: the model is there in the end, and its first request is answered."""
    server = world.prepare(LMX_MODELS__AUTO_LOAD='["victim"]', LMX_SUPERVISION__BEAT_INTERVAL_SECONDS="0.1")
    server.script("victim", f"{TALKER}faults: [{{when: ready, do: kill, lives: 1}}]")
    server.start()
    with world.bystander():
        wait_told(server, "worker_exited", model_id="victim", reason="oom_suspected")
        server.wait_for_state("victim", "ready")
        assert chat_text(server, "victim") == SHORT_ANSWER
    world.expect_crash("oom_suspected")


@pytest.mark.fault("F11", "a death at the last token is no success")
def test_f11_death_exactly_at_the_last_token(world: World) -> None:
    """Fifty-nine of sixty tokens are not an answer."""
    server = world.serve()
    victim = talker(server, faults='{when: token, number: 60, contains: "last", do: kill, lives: 1}')
    with world.bystander():
        payloads = list(server.stream(victim, f"{LONG}, to the last"))

    assert ended_as_lost(payloads)
    world.expect_crash("oom_suspected")


@pytest.mark.fault("F11", "a death between the end and its delivery: the whole text and [DONE], or an error, never both")
def test_f11_death_between_finished_and_its_delivery(world: World) -> None:
    """Twelve blows at the moment the last words arrive, each a little later; what was complete is never lost half."""
    server = world.serve(**PATIENT, LMX_SUPERVISION__RESTART_INITIAL_SECONDS="0.01", LMX_SUPERVISION__RESTART_FACTOR="1")
    victim = talker(server)
    ends = []
    with world.bystander():
        for number in range(12):

            def blow(delay_seconds: float = number * 0.0005) -> None:
                time.sleep(delay_seconds)
                signal_worker(server, victim)

            payloads = stream_until(server, victim, f"short, number {number}", 1, blow)
            ends.append(payloads[-1])
            if payloads[-1] == "[DONE]":
                assert text_of(payloads) == SHORT_ANSWER
            else:
                assert error_code(payloads) == "worker_lost"
            wait_told(server, "model_loaded", count=number + 2, model_id=victim)

    assert len(ends) == 12
    world.expect_crash("oom_suspected", count=12)


@pytest.mark.parametrize("deed", ["kill", "segfault", "exit"])
@pytest.mark.fault("F12", "it counts as stopped, and nothing is started again")
def test_f12_death_while_being_stopped(world: World, deed: str) -> None:
    """The operator wanted it gone and it is gone: no failure, no crash bundle."""
    server = world.serve()
    victim = talker(server, faults=f"{{when: shutdown, do: {deed}}}")
    with world.bystander():
        unloaded = server.http.post("/admin/models/unload", json={"model_id": victim})
        exited = wait_told(server, "worker_exited", model_id=victim)

    assert unloaded.status_code == 200
    assert exited.fields["reason"] == "stopped"
    assert server.worker(victim) == {}


@pytest.mark.fault("F12", "a death during the drain ends the drain early, with exit code 0")
def test_f12_death_while_being_drained(world: World) -> None:
    """The stream that the drain waited for is told, and the service is gone long before the drain's 30 seconds."""
    server = world.serve()
    victim = talker(server, faults="")
    began: list[float] = []

    def drain_and_kill() -> None:
        workers = {worker.pid: worker for worker in server.remember_workers()}
        pid = server.worker(victim)["pid"]
        psutil.Process(server.pid).send_signal(signal.SIGTERM)
        server.may_end = True
        wait_told(server, "draining")
        began.append(time.monotonic())
        workers[pid].kill()

    payloads = stream_until(server, victim, LONG, 3, drain_and_kill)
    assert server.process is not None
    code = server.process.wait(30)
    world.measure("death in the drain to exit", time.monotonic() - began[0], "s", 5.0)

    world.expect_crash("oom_suspected")
    assert pieces_in(payloads)
    assert "error" in json.loads(payloads[-1])
    assert code == 0


def _server_with_boot_script(world: World) -> tuple[LiveServer, Path]:
    """A server without spares whose next workers boot by the script at this path."""
    server = world.prepare(LMX_MODELS__WARM_SPARE="false")
    boot = server.home / "boot.yaml"
    boot.write_text("{}")
    server.environment["LMX_SCRIPTED_BOOT"] = str(boot)
    return server.start(), boot


def _processor_seconds(server: LiveServer) -> float:
    times = psutil.Process(server.pid).cpu_times()
    return float(times.user + times.system)
