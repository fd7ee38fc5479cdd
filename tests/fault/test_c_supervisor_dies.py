"""Section C, first half: the supervisor is killed, started again, started twice. F31 to F34, F39."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import httpx
import psutil
import pytest

from lmx_protocol import limits
from tests.support.live import LiveServer, text_of, wait_until
from tests.support.world import World

ALL_GONE_SECONDS = 1.0
COUNTING = """
answers:
  - pieces: ["one ", "two ", "three ", "four ", "five "]
    tokens: 100000
    token_seconds: 0.02
faults:
  - {when: token, number: 3, contains: "stuck", do: hold_gil}
"""
SLOW_LOAD = "load: {seconds: 60, callbacks: 600}"


@pytest.mark.parametrize("doing", ["idle", "loading", "generating", "holding the GIL", "stopped"])
@pytest.mark.fault("F31", "kill -9 of the supervisor takes every worker with it, whatever the worker does")
def test_f31_no_worker_outlives_a_killed_supervisor(world: World, doing: str) -> None:
    """Idle, loading, generating, stuck in C with the interpreter's lock, stopped: all are gone within a second."""
    server = world.serve()
    server.script("m", COUNTING)
    server.script("slow", SLOW_LOAD)
    server.load("m")
    with _while_it_is(server, doing):
        server.remember_workers()
        killed_at = time.monotonic()
        server.kill()
        server.assert_no_worker_is_left(ALL_GONE_SECONDS)
    world.measure(f"last worker gone, {doing}", time.monotonic() - killed_at, "s", ALL_GONE_SECONDS)


@pytest.mark.fault("F32", "a start right after kill -9 finds the home free, sweeps up and serves what was loaded")
def test_f32_a_restart_right_after_a_kill_serves_again(world: World) -> None:
    """The lock is free, the dead run directory goes, the model comes back by itself and answers the same."""
    server = world.serve()
    server.script("m", "answers: [{pieces: [same, ' as', ' ever']}]")
    server.load("m")
    before, old_run_dir = server.chat("m").json()["choices"], server.run_dir
    assert old_run_dir is not None
    wait_until(lambda: '"m"' in (server.home / "runtime-state.json").read_text(), 5.0, "the load to be written down")
    server.kill()
    restarted_at = time.monotonic()
    server.start()
    server.wait_for_state("m", "ready")

    world.measure("restart to ready", time.monotonic() - restarted_at, "s", 10.0)
    assert not old_run_dir.exists()
    assert server.chat("m").json()["choices"] == before


@pytest.mark.fault("F33", "a second supervisor on the same home exits with a clear message and touches nothing of the first")
def test_f33_a_second_supervisor_leaves_the_first_alone(world: World) -> None:
    """One line naming the home and the holder, exit code 1; the first one's sockets and streams are untouched."""
    server = world.serve()
    with world.bystander():
        assert server.run_dir is not None
        sockets = sorted(server.run_dir.iterdir())
        second = _serve_once(server)

        assert (second.returncode, second.stderr.count("\n")) == (1, 1)
        assert f"already running with the home {server.home} (pid {server.pid})" in second.stderr
        assert sorted(server.run_dir.iterdir()) == sockets


@pytest.mark.fault("F34", "a process that only has the number of a dead worker is not killed by the next start")
def test_f34_a_stranger_with_the_pid_of_a_dead_worker_lives(world: World) -> None:
    """The state file names the stranger's pid as a worker of ours; the start that reads it lets the stranger be."""
    server = world.serve()
    server.script("m")
    pid = server.load("m") and server.worker("m")["pid"]
    state_path = server.home / "runtime-state.json"

    def is_written_down() -> bool:
        # The worker is when it starts, the model only when it serves.
        state = json.loads(state_path.read_text())
        return "m" in state["loaded_models"] and pid in [worker["pid"] for worker in state["workers"]]

    wait_until(is_written_down, 5.0, "the model and its worker to be written down")
    server.kill()
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        state = json.loads(state_path.read_text())
        for worker in state["workers"]:
            worker["pid"] = stranger.pid
        state_path.write_text(json.dumps(state))
        server.start()
        server.wait_for_state("m", "ready")

        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.fault("F34", "a worker that did outlive its supervisor is killed by the next start")
def test_f34_a_leftover_worker_is_swept_up(world: World) -> None:
    """A process whose pid, start time and arguments are those written down is ended before anything is loaded."""
    from lmx_supervisor.runtime.boot_sweep import start_time_of

    server = world.serve()
    server.script("m")
    server.load("m")
    state_path = server.home / "runtime-state.json"
    wait_until(lambda: len(json.loads(state_path.read_text())["workers"]) > 0, 5.0, "the worker to be written down")
    server.kill()
    leftover = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "left-0001"], start_new_session=True)
    state = json.loads(state_path.read_text())
    state["workers"] = [{"pid": leftover.pid, "start_time": start_time_of(leftover.pid), "incarnation": "left-0001"}]
    state_path.write_text(json.dumps(state))
    server.start()

    assert leftover.wait(limits.BOOT_SWEEP_SECONDS) == -signal.SIGKILL


@pytest.mark.fault("F39", "the third unclean start within a minute is a safe one: it loads nothing, until a clean stop")
def test_f39_a_crash_loop_of_the_supervisor_ends_in_safe_mode(world: World) -> None:
    """Two kills, and the third start serves operators only; the start after a clean stop is normal again."""
    server = world.prepare(LMX_MODELS__AUTO_LOAD='["m"]')
    server.script("m")
    for _ in range(limits.UNCLEAN_STARTS_MAX - 1):
        server.start()
        assert server.http.get("/admin/status").json()["safe_mode"] is False
        server.wait_for_state("m", "ready")
        server.kill()
    server.start()

    assert server.http.get("/admin/status").json()["safe_mode"] is True
    assert server.worker("m") == {}
    assert server.http.get("/healthz").status_code == 200
    assert server.stop() == 0
    server.start()
    server.wait_for_state("m", "ready")
    assert server.http.get("/admin/status").json()["safe_mode"] is False


def _serve_once(server: LiveServer) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "LMX_HOME": str(server.home)}
    command = [sys.executable, "-m", "lmx_supervisor", "serve", "--port", "0"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)


class _while_it_is:  # noqa: N801 - reads as a sentence
    """Brings a worker into a condition, and waits afterwards for the client that went down with the server."""

    def __init__(self, server: LiveServer, doing: str) -> None:
        self._server = server
        self._started = threading.Event()
        self._doing = doing
        self._client = threading.Thread(target=self._ignoring_the_end)

    def __enter__(self) -> None:
        if self._doing == "stopped":
            psutil.Process(self._server.worker("m")["pid"]).suspend()
        elif self._doing != "idle":
            self._client.start()
        if self._doing == "loading":
            self._server.wait_for_state("slow", "loading")
        elif self._doing in ("generating", "holding the GIL"):
            assert self._started.wait(10)

    def __exit__(self, *_: object) -> None:
        if self._client.ident is not None:
            self._client.join()

    def _ignoring_the_end(self) -> None:
        work: Callable[[], object] = self._read
        if self._doing == "loading":
            work = lambda: self._server.load("slow")  # noqa: E731
        try:
            work()
        except (httpx.HTTPError, AssertionError):  # the server is killed under it; this is not about its clients
            return

    def _read(self) -> None:
        payloads: list[str] = []
        for payload in self._server.stream("m", "stuck" if self._doing == "holding the GIL" else "go on"):
            payloads.append(payload)
            if text_of(payloads).startswith("one two"):
                self._started.set()
