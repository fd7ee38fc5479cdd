"""Section D: descriptors and processes run out, or the sockets' directory goes. F44 to F48.

Limits are set on the running supervisor from outside (`prlimit`), so that it starts well and then runs into them.
"""

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from lmx_protocol import limits
from lmx_supervisor.runtime.run_dir import RunDir, RunDirError
from tests.support.live import LiveServer, wait_until
from tests.support.world import World

CONNECTIONS = 150
FEW_DESCRIPTORS = 256
STRANGER = 54321
"""A user id nobody has."""
REBIND_SECONDS = 2.0
_RESTARTS_SOON = {"LMX_SUPERVISION__RESTART_INITIAL_SECONDS": 0.2, "LMX_SUPERVISION__QUARANTINE_THRESHOLD": 100}
_RESTARTS_SOON |= {"LMX_SUPERVISION__RESTART_MAX_IN_WINDOW": 100, "LMX_SUPERVISION__RESTART_MAX_SECONDS": 0.5}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@pytest.fixture
def stranger() -> Iterator[None]:
    """Whatever the other user leaves in the common place for run directories is removed."""
    yield
    base = Path(f"/tmp/lmx-{STRANGER}")
    if base.is_symlink() or base.is_file():
        base.unlink()
    else:
        shutil.rmtree(base, ignore_errors=True)


@linux_only
@pytest.mark.fault(
    "F44", "clients take every descriptor they can while a worker reconnects: the supervisor lives, the worker comes back"
)
def test_f44_clients_cannot_take_the_descriptors_of_workers(world: World) -> None:
    """More connections than the process may open files; the worker killed meanwhile is READY again while they are held."""
    server = world.prepare(**_RESTARTS_SOON)
    server.command = ("prlimit", f"--nofile={FEW_DESCRIPTORS}:{FEW_DESCRIPTORS}")
    server.start()
    server.script("m")
    server.load("m")
    pid = server.worker("m")["pid"]
    world.expect_crash("oom_suspected")
    with _crowd(server, FEW_DESCRIPTORS * 2):
        os.kill(pid, signal.SIGKILL)
        killed_at = time.monotonic()
        wait_until(lambda: server.log().count('"model_loaded"') == 2, 10.0, "the worker to be READY again")
        world.measure("ready again with every connection held", time.monotonic() - killed_at, "s", 5.0)
        assert server.process is not None
        assert server.process.poll() is None
    wait_until(lambda: _answers(server), 10.0, "the service to answer again")
    assert server.chat("m").status_code == 200


@linux_only
@pytest.mark.fault(
    "F44", "no descriptor is left at all while a worker reconnects: the supervisor survives and recovers by itself"
)
def test_f44_the_supervisor_survives_with_no_descriptor_left(world: World) -> None:
    """The limit falls to what is open; connects and a restart run into it; when it rises again everything is served."""
    server = world.serve(**_RESTARTS_SOON)
    server.script("m")
    server.load("m")
    server.wait_for_state("m", "ready")
    server.may_crash_anyhow = server.may_leave_unfinished_files = True
    server.tolerated_log_lines.append("Too many open files")
    pid = server.worker("m")["pid"]
    with _limited(server, resource.RLIMIT_NOFILE, _descriptors(server)), _crowd(server, CONNECTIONS):
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: "worker_exited" in server.log(), 5.0, "the death to be seen")
        time.sleep(1.0)  # the fault lasts
        assert server.process is not None
        assert server.process.poll() is None, server.log()
    released_at = time.monotonic()
    server.wait_for_state("m", "ready")
    world.measure("ready again after the release", time.monotonic() - released_at, "s", 5.0)
    assert server.chat("m").status_code == 200


@linux_only
@pytest.mark.fault("F45", "a worker that cannot be started for want of descriptors costs nothing and is tried again")
def test_f45_a_start_without_descriptors_leaves_nothing_and_is_tried_again(world: World) -> None:
    """From none to a dozen free descriptors, wherever the restart breaks off: it serves again and no process is left over."""
    server = world.serve(LMX_MODELS__WARM_SPARE="false", **_RESTARTS_SOON)
    server.may_crash_anyhow = server.may_leave_unfinished_files = True
    server.script("m")
    server.load("m")
    slowest_seconds = 0.0
    for free in range(13):
        pid, restarts = server.worker("m")["pid"], server.worker("m")["restarts"]
        with _limited(server, resource.RLIMIT_NOFILE, _descriptors(server) + free):
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: server.worker("m")["restarts"] > restarts, 5.0, "a restart to be tried")  # noqa: B023
        released_at = time.monotonic()
        server.wait_for_state("m", "ready")
        slowest_seconds = max(slowest_seconds, time.monotonic() - released_at)
        wait_until(lambda: len(server.children()) == 1, 5.0, f"one worker to be there after {free} free descriptors")
    world.measure("ready again after the release", slowest_seconds, "s", 5.0)
    assert server.chat("m").status_code == 200


@linux_only
@pytest.mark.fault("F45", "a load without descriptors is told to come back, not that the model is missing")
def test_f45_a_load_without_descriptors_is_told_to_come_back(world: World) -> None:
    """503 with `Retry-After` while nothing can be opened; the same order succeeds after the release."""
    server = world.serve(LMX_MODELS__WARM_SPARE="false")
    server.script("m")
    server.http.get("/healthz")  # the connection that the orders below use
    with _limited(server, resource.RLIMIT_NOFILE, _descriptors(server)):
        refused = server.http.post("/admin/models/load", json={"model_id": "m"})
        listing = server.http.get("/admin/models/available")

    assert [(answer.status_code, answer.headers.get("retry-after")) for answer in (refused, listing)] == [(503, "10")] * 2
    assert "Too many open files" in refused.json()["error"]["message"]
    server.load("m")


@linux_only
@needs_root
@pytest.mark.fault("F46", "no process can be started: the model waits in backoff, says why, and comes back when there is room")
def test_f46_a_process_limit_is_survived(stranger: None, world: World) -> None:
    """`RLIMIT_NPROC` of an unprivileged user: the restart fails with EAGAIN until the limit is lifted."""
    server = world.prepare(LMX_MODELS__WARM_SPARE="false", **_RESTARTS_SOON)
    server.may_crash_anyhow = True
    server.command = _as_stranger(server.home)
    server.start()
    server.script("m")
    server.load("m")
    pid = server.worker("m")["pid"]
    _limit_processes_of_stranger(server, 1)
    try:
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: "Resource temporarily unavailable" in server.log(), 10.0, "the failed start to be told")
        assert server.worker("m")["state"] == "backoff"
        assert server.http.get("/readyz").status_code == 503
    finally:
        _limit_processes_of_stranger(server, 4096)
    released_at = time.monotonic()
    server.wait_for_state("m", "ready")
    world.measure("ready again after the release", time.monotonic() - released_at, "s", 5.0)
    assert server.chat("m").status_code == 200


@linux_only
@needs_root
@pytest.mark.fault("F46", "a stop while no thread can be started: in order, and the next start knows that it was")
def test_f46_a_stop_needs_no_new_thread(stranger: None, world: World) -> None:
    """With room for no thread more SIGTERM ends the service with code 0, and the state file says that it was a clean stop."""
    server = world.prepare(LMX_MODELS__WARM_SPARE="false")
    server.command = _as_stranger(server.home)
    server.start()
    server.script("m")
    server.load("m")
    wait_until(lambda: _state(server).get("loaded_models") == ["m"], 5.0, "the loaded model to be written down")
    _limit_processes_of_stranger(server, 1)

    assert server.stop() == 0
    assert (_state(server)["last_clean_shutdown"], _state(server)["loaded_models"]) == (True, [])


@pytest.mark.fault("F47", "the directory of the sockets is deleted: streams go on, and the next worker finds a new one")
def test_f47_a_deleted_socket_directory_is_made_anew(world: World) -> None:
    """The bystander's stream and the loaded model go on; a worker killed afterwards is READY again."""
    server = world.serve()
    server.script("m")
    server.load("m")
    world.expect_crash("oom_suspected")
    with world.bystander():
        assert server.run_dir is not None
        shutil.rmtree(server.run_dir)
        assert server.chat("m").status_code == 200
        os.kill(server.worker("m")["pid"], signal.SIGKILL)
        killed_at = time.monotonic()
        wait_until(lambda: server.worker("m")["restarts"] == 1, 5.0, "the restart")
        server.wait_for_state("m", "ready", seconds=10)
        server.script("new")
        server.load("new")
        world.measure("killed worker and a new one ready", time.monotonic() - killed_at, "s", REBIND_SECONDS)
        assert server.chat("m").status_code == 200


@linux_only
@needs_root
@pytest.mark.parametrize("problem", ["link", "file", "open to others", "somebody else's"])
@pytest.mark.fault("F48", "a run directory that cannot be trusted: the start is refused, and the message says which and why")
def test_f48_an_untrustworthy_run_directory_refuses_the_start(stranger: None, tmp_path: Path, problem: str) -> None:
    """A link, a file, a directory others may enter, one of another user: exit code 1 and one line that names it."""
    base = Path(f"/tmp/lmx-{STRANGER}")
    home = tmp_path / "home"
    home.mkdir()
    command = _as_stranger(home)
    wanted = _spoil(base, problem, tmp_path)
    ended = subprocess.run(
        [*command, sys.executable, "-m", "lmx_supervisor", "serve", "--port", "0"],
        env={**os.environ, "LMX_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert ended.returncode == 1, ended.stderr
    assert str(base) in ended.stderr
    assert wanted in ended.stderr


@pytest.mark.fault("F48", "a run directory whose path is too long for a socket is named, with the length that is allowed")
def test_f48_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    """The refusal says the path and the limit."""
    base = tmp_path / ("deep" * 20)
    run_dir = RunDir(base)
    try:
        with pytest.raises(RunDirError, match=f"{base}.*longer than {limits.IPC_PATH_BYTES_MAX} bytes"):
            run_dir.endpoint("incarnation")
    finally:
        run_dir.close()


@contextlib.contextmanager
def _crowd(server: LiveServer, count: int) -> Iterator[list[socket.socket]]:
    """So many clients connect, as far as they can, and hold on."""
    address = urlsplit(server.url)
    held: list[socket.socket] = []
    try:
        for _ in range(count):
            client = socket.socket()
            client.settimeout(0.2)
            held.append(client)
            with contextlib.suppress(OSError):
                client.connect((address.hostname, address.port))
        yield held
    finally:
        for client in held:
            client.close()


@contextlib.contextmanager
def _limited(server: LiveServer, which: int, soft: int) -> Iterator[None]:
    """A soft limit of the running supervisor, for as long as the block lasts."""
    before, hard = resource.prlimit(server.pid, which)
    resource.prlimit(server.pid, which, (soft, hard))
    try:
        yield
    finally:
        resource.prlimit(server.pid, which, (before, hard))


def _descriptors(server: LiveServer) -> int:
    """One more than the highest descriptor in use: with this limit none can be opened."""
    numbers = {int(entry.name) for entry in Path(f"/proc/{server.pid}/fd").iterdir()}
    return next(number for number in range(len(numbers) + 1) if number not in numbers)


def _state(server: LiveServer) -> dict[str, Any]:
    return json.loads((server.home / "runtime-state.json").read_text())


def _answers(server: LiveServer) -> bool:
    try:
        return server.http.get("/healthz", timeout=2.0).status_code == 200
    except httpx.HTTPError:
        return False


def _as_stranger(home: Path) -> tuple[str, ...]:
    """A command prefix: run as another user who may read everything, as root can, but is not privileged otherwise."""
    for entry in (home, *home.rglob("*")):
        os.chown(entry, STRANGER, -1)
    return ("setpriv", f"--reuid={STRANGER}", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")


def _limit_processes_of_stranger(server: LiveServer, processes: int) -> None:
    """The soft limit on processes; only the user itself may change it without privileges."""
    subprocess.run(
        ["setpriv", f"--reuid={STRANGER}", "prlimit", f"--pid={server.pid}", f"--nproc={processes}:"], check=True, timeout=10
    )


def _spoil(base: Path, problem: str, elsewhere: Path) -> str:
    """Put something untrustworthy where the run directory should be; returns what the message must say."""
    match problem:
        case "link":
            base.symlink_to(elsewhere)
            os.chown(base, STRANGER, -1, follow_symlinks=False)
            return "not a directory"
        case "file":
            base.touch(mode=0o600)
            return "not a directory"
        case "open to others":
            base.mkdir()
            base.chmod(0o755)
            os.chown(base, STRANGER, -1)
            return "open to others (mode 755)"
        case _:
            base.mkdir(mode=0o700)
            return "belongs to user 0"
