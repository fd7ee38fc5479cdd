"""Section D: the disk is full, read-only, slow or lies; the clock jumps. F41 to F43, F49 to F52."""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from lmx_supervisor.runtime.atomic_file import remove_leftovers
from tests.support.live import LiveServer, wait_until
from tests.support.server_log import wait_told
from tests.support.world import World

STATE_FILE = "runtime-state.json"
needs_mount = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="needs Linux and root, to mount a small file system"
)
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@pytest.fixture
def small_home(tmp_path: Path) -> Iterator[Path]:
    """The home of the world's server as a file system of its own, of 1 MiB."""
    home = tmp_path / "home"
    home.mkdir()
    _mount("-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(home))
    yield home
    subprocess.run(["umount", str(home)], check=True, timeout=30)


@needs_mount
@pytest.mark.fault("F41", "the disk is full: models are served, die and come back as before; the loss of evidence is told")
def test_f41_a_full_disk_stops_nothing(small_home: Path, world: World) -> None:
    """A home without a free byte: a crash, a restart, requests and a load; the old state file stays whole."""
    server = _on_small_disk(world)
    server.script("m")
    server.script("other")
    server.load("m")
    state = small_home / STATE_FILE
    with world.bystander():
        wait_until(lambda: '"bystander"' in state.read_text(), 5.0, "the state to be written")
        junk = small_home / "junk"
        _fill(junk)
        _crash_and_come_back(server, "m")
        server.load("other")
        assert server.chat("other").status_code == 200
        wait_until(lambda: "state_write_failed" in server.log(), 10.0, "the alarm")
        assert json.loads(state.read_text())["loaded_models"] == ["m", "bystander"]
        junk.unlink()
        wait_until(lambda: '"other"' in state.read_text(), 90.0, "the state to be written again")


@linux_only
@pytest.mark.fault("F41", "no file may grow any more (RLIMIT_FSIZE): the same")
def test_f41_a_file_size_limit_stops_nothing(world: World) -> None:
    """With a limit of no bytes at all a worker dies, comes back and answers, and another model is loaded."""
    server = world.serve()
    server.script("m")
    server.script("other")
    server.load("m")
    server.may_crash_anyhow = True
    _, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (0, hard))
    _crash_and_come_back(server, "m")
    server.load("other")
    assert server.chat("other").status_code == 200
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (hard, hard))


@pytest.mark.fault("F42", "an unusable state file is set aside with a warning, and the start is a clean one")
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), id="truncated"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(b"{]\xff"), id="no JSON"),
        pytest.param(
            lambda path: path.write_text(path.read_text().replace('"schema": 1', '"schema": 999')), id="future schema"
        ),
        pytest.param(lambda path: os.chown(path, 54321, -1), id="somebody else's"),
        pytest.param(lambda path: (path.unlink(), path.mkdir()), id="directory"),
    ],
)
def test_f42_an_unusable_state_file_is_set_aside(world: World, spoil: Callable[[Path], object]) -> None:
    """Whatever is wrong with it: the service starts and serves, the evidence is kept, and operators are told."""
    server = world.serve()
    server.script("m")
    server.load("m")
    path = server.home / STATE_FILE
    wait_until(lambda: '"m"' in path.read_text(), 5.0, "the state to be written")
    server.kill()
    spoil(path)
    server.start()

    assert list(server.home.glob(f"{STATE_FILE}.corrupt-*"))
    assert "file_set_aside" in server.log()
    server.load("m")
    assert server.chat("m").status_code == 200


_WRITER = """
import os, sys
from pathlib import Path
from lmx_supervisor.runtime import atomic_file
step, path = int(sys.argv[1]), Path(sys.argv[2])
calls = 0
def dying(function):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == step:
            os._exit(9)
        return function(*arguments, **options)
    return call
for name in ("open", "write", "fsync", "replace", "rename", "close"):
    setattr(os, name, dying(getattr(os, name)))
atomic_file.write_atomically(path, b"new" * 1000)
"""


@pytest.mark.fault("F43", "a crash at any step of writing a file leaves the old or the new content, never a mix")
def test_f43_a_crash_at_any_step_of_a_write_leaves_a_whole_file(world: World, tmp_path: Path) -> None:
    """The writing process dies before its first system call, its second, and so on until it gets through."""
    path = tmp_path / "state"
    deaths = 0
    contents: set[bytes] = set()
    for step in range(1, 20):
        path.write_bytes(b"old" * 1000)
        ended = subprocess.run([sys.executable, "-c", _WRITER, str(step), str(path)], check=False, timeout=30)
        contents.add(path.read_bytes())
        remove_leftovers(tmp_path)
        assert sorted(tmp_path.iterdir()) == [path]
        if ended.returncode == 0:
            break
        deaths += 1

    assert ended.returncode == 0
    assert contents == {b"old" * 1000, b"new" * 1000}
    world.measure("steps at which the writer died", deaths, "")


@pytest.mark.fault(
    "F51", "the model's file is deleted while its worker starts: the load fails and says so, others do not notice"
)
def test_f51_a_model_deleted_during_the_load_is_refused(world: World, tmp_path: Path) -> None:
    """The file goes after the catalog has seen it and before the worker opens it."""
    boot = tmp_path / "boot.yaml"
    boot.write_text("load: {import_seconds: 1}")
    server = world.serve(LMX_MODELS__WARM_SPARE="false", LMX_SCRIPTED_BOOT=str(boot))
    server.may_crash_anyhow = True
    server.script("gone")
    answers: list[httpx.Response] = []
    load = threading.Thread(target=lambda: answers.append(server.http.post("/admin/models/load", json={"model_id": "gone"})))
    load.start()
    server.wait_for_state("gone", "spawning")
    (server.home / "models" / "gone.script.yaml").unlink()
    load.join(30)

    assert answers[0].status_code in (404, 409, 422), answers[0].text
    assert "gone.script.yaml" in answers[0].json()["error"]["message"]
    assert server.worker("gone")["state"] == "failed"


@pytest.mark.parametrize("how", ["replaced by another file", "written anew"])
@pytest.mark.fault("F51", "the model's file is replaced during the load: the load fails and names it; the next one is whole")
def test_f51_a_model_replaced_during_the_load_is_refused(world: World, how: str) -> None:
    """What may be parts of two models must not serve; others do not notice, and the new file is loaded when asked."""
    server = world.serve()
    server.script("m", "load: {seconds: 4, callbacks: 40}\nanswers: [{pieces: ['old']}]")
    answers: list[httpx.Response] = []
    load = threading.Thread(target=lambda: answers.append(server.http.post("/admin/models/load", json={"model_id": "m"})))
    with world.bystander():
        load.start()
        wait_until(lambda: _quarter_loaded(server, "m"), 10.0, "a quarter of the load")
        path = server.home / "models" / "m.script.yaml"
        target = path if how == "written anew" else path.with_suffix(".new")
        target.write_text("answers: [{pieces: ['new']}]")
        target.replace(path)
        load.join(30)
        exited = wait_told(server, "worker_exited", model_id="m")
        server.load("m")
    answer = server.chat("m")

    assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (409, "model_probe_failed")
    assert f"m.script.yaml was {how}" in answers[0].json()["error"]["message"]
    assert exited.fields["reason"] == "model_changed"
    assert answer.json()["choices"][0]["message"]["content"] == "new"
    world.expect_crash("model_changed")


@pytest.mark.fault("F51", "the model's file is gone when its worker has to be restarted: it fails once, without a loop")
def test_f51_a_model_deleted_before_a_restart_fails_once(world: World) -> None:
    """The restart is not repeated for ever; the slot says what is missing."""
    server = world.serve()
    server.may_crash_anyhow = True
    server.script("m")
    server.load("m")
    (server.home / "models" / "m.script.yaml").unlink()
    os.kill(server.worker("m")["pid"], signal.SIGKILL)
    worker = server.wait_for_state("m", "failed", "quarantined")

    assert "m.script.yaml" in worker["last_exit"]["text"]
    assert server.chat("m").status_code in (404, 409, 503)


@needs_mount
@pytest.mark.fault("F52", "the home becomes read-only: serving goes on, deaths are survived, the loop is never late")
def test_f52_a_read_only_home_stops_nothing(small_home: Path, world: World) -> None:
    """A read-only file system with the same content takes the place of the home: every write fails with EROFS."""
    server = _on_small_disk(world)
    server.script("m")
    server.script("other")
    server.load("m")
    with _read_only(small_home):
        _crash_and_come_back(server, "m")
        server.load("other")
        assert server.chat("other").status_code == 200
        wait_until(lambda: "state_write_failed" in server.log(), 10.0, "the alarm")


@linux_only
@pytest.mark.fault("F52", "a log file that takes nothing delays neither requests nor the end")
def test_f52_a_stalling_log_delays_nothing(world: World, tmp_path: Path) -> None:
    """The log is a pipe nobody reads: loads, requests and the stop go on as always."""
    log = tmp_path / "log"
    os.mkfifo(log)
    server = world.serve(LMX_LOGGING__FILE=log)
    server.script("m")
    server.load("m")
    for _ in range(50):
        assert server.chat("m").status_code == 200
    began = time.monotonic()
    assert server.stop() == 0
    world.measure("stop", time.monotonic() - began, "s", 5.0)


@contextlib.contextmanager
def _read_only(home: Path) -> Iterator[None]:
    content = home.with_name("content")
    shutil.copytree(home, content)
    _mount("-t", "tmpfs", "tmpfs", str(home))
    try:
        shutil.copytree(content, home, dirs_exist_ok=True)
        _mount("-o", "remount,ro", str(home))
        yield
    finally:
        subprocess.run(["umount", str(home)], check=True, timeout=30)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, timeout=30)


def _on_small_disk(world: World) -> LiveServer:
    """A server whose log is elsewhere, so that the test still hears it."""
    server = world.prepare()
    server.log_path = server.home.with_name("server.log")
    server.may_crash_anyhow = server.may_leave_unfinished_files = True
    return server.start()


def _fill(junk: Path) -> None:
    """Take the last byte of the disk."""
    with contextlib.suppress(OSError), junk.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def _crash_and_come_back(server: LiveServer, model_id: str) -> None:
    worker = server.worker(model_id)
    os.kill(worker["pid"], signal.SIGKILL)
    wait_until(lambda: server.worker(model_id)["restarts"] > worker["restarts"], 5.0, "the restart")
    server.wait_for_state(model_id, "ready")
    assert server.chat(model_id).status_code == 200


def _quarter_loaded(server: LiveServer, model_id: str) -> bool:
    progress = server.worker(model_id).get("load_progress")
    return progress is not None and 4 * progress["done"] >= progress["total"]
