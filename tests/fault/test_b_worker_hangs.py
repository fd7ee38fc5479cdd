"""B: a worker stands still: stopped, with the interpreter locked, in its engine, in its load, or before its first word.

With LMX_FAULTS_FULL=1 (scripts/faults sets it) the deadlines are the defaults; otherwise shorter ones, so that a test run does
not wait for minutes. The bounds are the deadlines plus one heartbeat and one second.
"""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from lmx_protocol import limits
from lmx_protocol.messages import LoadProgress
from lmx_protocol.states import WorkerState
from tests.fault.acts import LONG, SHORT_ANSWER, chat_text, ended_as_lost, signal_worker, stream_until, talker
from tests.support.crash_bundles import wait_for_bundle
from tests.support.live import LiveServer, wait_until
from tests.support.server_log import told, wait_told
from tests.support.stage import Stage
from tests.support.world import World

FULL = os.environ.get("LMX_FAULTS_FULL") == "1"
HELLO_SECONDS = limits.SPAWN_HELLO_SECONDS if FULL else 3.0
BEAT_SUSPECT_SECONDS = limits.BEAT_SUSPECT_SECONDS if FULL else 1.5
BEAT_DEAD_SECONDS = limits.BEAT_DEAD_SECONDS if FULL else 3.0
ABORT_GRACE_SECONDS = limits.HANG_ABORT_GRACE_SECONDS if FULL else 0.5
C_WATCHDOG_SECONDS = limits.C_WATCHDOG_SECONDS if FULL else 3.0
PROGRESS_STALL_SECONDS = limits.PROGRESS_STALL_SECONDS if FULL else 2.0
LOAD_STALL_SECONDS = 2.0
SLACK_SECONDS = limits.BEAT_INTERVAL_SECONDS + 1.0

ORPHAN_SECONDS = 2.0


def impatient(world: World, **supervision: float) -> LiveServer:
    """A server with the deadlines of this file."""
    seconds = {
        "hello_seconds": HELLO_SECONDS,
        "beat_suspect_seconds": BEAT_SUSPECT_SECONDS,
        "beat_dead_seconds": BEAT_DEAD_SECONDS,
        "hang_abort_grace_seconds": ABORT_GRACE_SECONDS,
        **supervision,
    }
    return world.serve(**{f"LMX_SUPERVISION__{name.upper()}": str(value) for name, value in seconds.items()})


@pytest.mark.fault("F17", "suspect, then killed; its clients are told and the model is back")
def test_f17_sigstop_in_mid_stream(world: World) -> None:
    """A stopped process hears no SIGABRT, so the ladder must end in SIGKILL."""
    server = impatient(world)
    victim = talker(server)
    stopped: list[float] = []

    def stop_and_watch() -> None:
        stopped.append(signal_worker(server, victim, signal.SIGSTOP))
        wait_until(lambda: bool(server.worker(victim)["suspect"]), BEAT_SUSPECT_SECONDS + SLACK_SECONDS, "a suspicion")
        world.measure("stop to suspect", time.time() - stopped[0], "s", BEAT_SUSPECT_SECONDS + SLACK_SECONDS)

    with world.bystander():
        payloads = stream_until(server, victim, LONG, 5, stop_and_watch)
        exited = wait_told(server, "worker_exited", model_id=victim)
        server.wait_for_state(victim, "ready")
        assert chat_text(server, victim) == SHORT_ANSWER
    bound_seconds = BEAT_DEAD_SECONDS + ABORT_GRACE_SECONDS + SLACK_SECONDS
    world.measure("stop to kill", exited.at_unix_seconds - stopped[0], "s", bound_seconds)

    assert ended_as_lost(payloads)
    assert (exited.fields["reason"], exited.fields["signal"]) == ("hung", signal.SIGKILL)
    world.expect_crash("hung")


@pytest.mark.fault("F17", "a stopped worker does not outlive its supervisor")
def test_f17_sigstop_and_then_the_supervisor_dies(world: World) -> None:
    """The kernel ends it with its parent, stopped or not; nobody has to continue it."""
    server = impatient(world)
    victim = talker(server)
    signal_worker(server, victim, signal.SIGSTOP)
    server.kill()
    began = time.monotonic()
    server.assert_no_worker_is_left(ORPHAN_SECONDS)
    world.measure("supervisor killed to stopped worker gone", time.monotonic() - began, "s", ORPHAN_SECONDS)


@pytest.mark.parametrize("who", ["ladder", "watchdog"])
@pytest.mark.fault("F18", "ended by the ladder or by its own C watchdog, and the stacks are kept")
def test_f18_the_interpreter_lock_is_held_for_ever(world: World, who: str) -> None:
    """No Python code of that process runs any more, yet it tells in which line it stood."""
    watchdog_only = {"beat_dead_seconds": 600.0, "c_watchdog_seconds": C_WATCHDOG_SECONDS}
    server = impatient(world, **(watchdog_only if who == "watchdog" else {}))
    victim = talker(server, faults='{when: token, number: 5, contains: "freeze", do: hold_gil}')
    began: list[float] = []
    reason = "hung" if who == "ladder" else "hung_self"
    bound_seconds = C_WATCHDOG_SECONDS if who == "watchdog" else BEAT_DEAD_SECONDS + ABORT_GRACE_SECONDS
    with world.bystander():
        payloads = stream_until(server, victim, f"{LONG} and freeze", 4, lambda: began.append(time.time()))
        exited = wait_told(server, "worker_exited", model_id=victim)
        server.wait_for_state(victim, "ready")
        assert chat_text(server, victim) == SHORT_ANSWER
    world.measure(f"lock held to {who}", exited.at_unix_seconds - began[0], "s", bound_seconds + SLACK_SECONDS)
    _, directory = wait_for_bundle(server, reason)

    assert ended_as_lost(payloads)
    assert exited.fields["reason"] == reason
    assert "_hold_gil" in (directory / "stack.txt").read_text()
    world.expect_crash(reason)


@pytest.mark.fault("F19", "ended by the progress rule although its heart beats")
def test_f19_the_engine_is_stuck_under_a_healthy_heartbeat(world: World) -> None:
    """A slow reader or a long prefill is no hang, a still engine is."""
    server = impatient(world, progress_stall_seconds=PROGRESS_STALL_SECONDS)
    victim = talker(server, faults='{when: token, number: 5, contains: "stuck", do: stall}')
    began: list[float] = []
    with world.bystander():
        payloads = stream_until(server, victim, f"{LONG}, stuck", 4, lambda: began.append(time.time()))
        exited = wait_told(server, "worker_exited", model_id=victim)
    bound_seconds = PROGRESS_STALL_SECONDS + ABORT_GRACE_SECONDS + SLACK_SECONDS
    world.measure("stuck to kill", exited.at_unix_seconds - began[0], "s", bound_seconds)
    _, directory = wait_for_bundle(server, "hung")

    assert ended_as_lost(payloads)
    assert exited.fields["reason"] == "hung"
    assert "_stall" in (directory / "stack.txt").read_text()
    world.expect_crash("hung")


@pytest.mark.fault("F20", "killed when the load stands still; who ordered it and who waits for it are told")
def test_f20_the_load_makes_no_progress(world: World) -> None:
    """With 2 seconds instead of the default 120: the order gets model_load_timeout, the waiting request 503."""
    server = impatient(world, load_stall_seconds=LOAD_STALL_SECONDS)
    server.script("victim", "load: {seconds: 1}\nfaults: [{when: load, do: stall}]")
    waiting: list[int] = []
    client = threading.Thread(target=lambda: waiting.append(server.chat("victim").status_code))

    def ask_while_it_loads() -> None:
        server.wait_for_state("victim", "loading")
        client.start()

    asker = threading.Thread(target=ask_while_it_loads)
    with world.bystander():
        asker.start()
        began = time.monotonic()
        refused = server.http.post("/admin/models/load", json={"model_id": "victim"})
        elapsed_seconds = time.monotonic() - began
        asker.join()
        client.join()
    world.measure("load without progress to its refusal", elapsed_seconds, "s", 1.0 + LOAD_STALL_SECONDS + 3.0 + SLACK_SECONDS)

    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "model_load_timeout")
    assert waiting == [503]
    world.expect_crash("load_timeout")


@pytest.mark.fault("F21", "not killed")
def test_f21_a_slow_load_that_makes_progress(world: World) -> None:
    """Four seconds of load under a stall limit of two: every callback counts."""
    server = impatient(world, load_stall_seconds=LOAD_STALL_SECONDS)
    server.script("slow", "load: {seconds: 4, callbacks: 8}")
    with world.bystander():
        server.load("slow")

    assert told(server, "worker_ending") == []


@pytest.mark.fault("F21", "not killed in ten minutes of progress, under the default limits")
def test_f21_ten_minutes_of_progress() -> None:
    """On a virtual clock: a report every 100 seconds keeps a load of ten minutes alive, silence then ends it after 120."""
    stage = Stage()
    stage.load()
    stage.hello()
    for done in range(6):
        stage.tick(100)
        stage.say(LoadProgress(phase="weights", done=done, total=6))
    assert (stage.state(), stage.signals()) == (WorkerState.LOADING, [])
    stage.tick(limits.LOAD_STALL_SECONDS + 2)

    assert stage.signals() != []


@pytest.mark.fault("F22", "killed when it has said nothing, and the load is refused")
def test_f22_a_worker_that_never_says_hello(world: World, tmp_path: Path) -> None:
    """A socket that nobody binds reports nothing; only the clock tells."""
    server, boot = _server_with_boot_script(world, tmp_path)
    with world.bystander():
        boot.write_text("faults: [{when: hello, do: mute}]")
        server.script("victim")
        refused = server.http.post("/admin/models/load", json={"model_id": "victim"})
        boot.write_text("{}")
    spawned = wait_told(server, "worker_spawned", model_id="victim")
    exited = wait_told(server, "worker_exited", model_id="victim")
    seconds = exited.at_unix_seconds - spawned.at_unix_seconds
    world.measure("silence to kill", seconds, "s", HELLO_SECONDS + 1.0)

    assert refused.status_code == 409
    assert "never reported for duty" in refused.json()["error"]["message"]
    world.expect_crash("hung")


@pytest.mark.fault("F22", "a worker that is only late is waited for")
def test_f22_a_worker_that_says_hello_late(world: World, tmp_path: Path) -> None:
    """A second of delay costs a second."""
    server, boot = _server_with_boot_script(world, tmp_path)
    boot.write_text("faults: [{when: hello, do: stall, seconds: 1}]")
    server.script("late", "answers: [{pieces: ['here']}]")
    server.load("late")

    assert chat_text(server, "late") == "here"


def _server_with_boot_script(world: World, directory: Path) -> tuple[LiveServer, Path]:
    """A server without spares whose next workers boot by the script at this path."""
    boot = directory / "boot.yaml"
    boot.write_text("{}")
    server = world.serve(
        LMX_SCRIPTED_BOOT=boot, LMX_MODELS__WARM_SPARE="false", LMX_SUPERVISION__HELLO_SECONDS=str(HELLO_SECONDS)
    )
    return server, boot
