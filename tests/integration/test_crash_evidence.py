"""Every kind of death leaves its evidence: real workers really die, and an operator can read why."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmx_protocol import limits
from lmx_supervisor.catalog.demo import find_demo_model
from tests.support.live import LiveServer, wait_until
from tests.support.memory_group import joined, memory_group

SECRET_OF_A_CLIENT = "xyzzyplugh"
"""In every prompt here, and in no file afterwards."""
DYING = 'faults: [{when: request, contains: "die", lives: 1, %s}]'


def newest_crash(server: LiveServer, model_id: str = "m") -> dict[str, Any]:
    """The newest crash of a model, as soon as it is written: within five seconds."""

    def listed() -> list[dict[str, Any]]:
        answer = server.http.get("/admin/crashes", params={"model_id": model_id})
        # While the memory of the host is full, this route is shed.
        return [] if answer.status_code == 503 else list(answer.json()["crashes"])

    wait_until(lambda: bool(listed()), 5.0, "the crash bundle")
    shown: dict[str, Any] = server.http.get(f"/admin/crashes/{listed()[0]['crash_id']}").json()
    return shown


def files_with(home: Path, word: str) -> list[Path]:
    """The files of all bundles that contain a word."""
    return [path for path in (home / "crashes").rglob("*") if path.is_file() and word in path.read_text(errors="replace")]


@pytest.mark.parametrize(
    ("deed", "reason", "ended", "evidence"),
    [
        (
            "do: segfault",
            "native_crash",
            "SIGSEGV",
            {"stack": "Segmentation fault", "text": "`lmx crashes show` has the stacks"},
        ),
        (
            'do: abort, line: "a.cpp:1: GGML_ASSERT(n > 0) failed"',
            "native_assert",
            "SIGABRT",
            {"stack": "Aborted", "stderr": "GGML_ASSERT(n > 0)", "text": "a.cpp:1: GGML_ASSERT(n > 0) failed"},
        ),
        ("do: exit, code: 3", "unexpected_exit", 3, {"text": "exit code 3"}),
        ("do: kill", "oom_suspected", "SIGKILL", {"text": "killed from outside"}),
        ("do: hold_gil", "hung_self", 1, {"stack": "Timeout (", "text": "its own watchdog"}),
    ],
)
def test_each_kind_of_death_leaves_its_evidence(
    serve: Callable[..., LiveServer], deed: str, reason: str, ended: str | int, evidence: dict[str, str]
) -> None:
    """The reason, how the process ended, the stacks that there are, the request in numbers - and no word of its prompt."""
    impatient = {"LMX_SUPERVISION__BEAT_INTERVAL_SECONDS": "0.2", "LMX_SUPERVISION__C_WATCHDOG_SECONDS": "2"}
    server = serve(**(impatient if deed == "do: hold_gil" else {}))
    server.script("m", DYING % deed)
    server.load("m")
    answer = server.chat("m", f"die {SECRET_OF_A_CLIENT}", temperature=0.25)
    report = newest_crash(server)
    summary = report["summary"]

    assert answer.status_code == 200, "replayed on the next worker"
    assert (summary["reason"], summary["signal"] or summary["exit_code"]) == (reason, ended)
    for name, words in evidence.items():
        assert words in (summary["text"] if name == "text" else report[name])
    assert ("stack" in evidence) == (report["stack"] is not None)
    [request] = summary["requests"]
    assert (request["prompt_characters"], request["sampling"]["temperature"]) == (len(f"die {SECRET_OF_A_CLIENT}"), 0.25)
    assert any("ready → busy" in entry["text"] for entry in summary["timeline"])
    assert server.worker("m")["last_exit"]["crash_id"] == summary["crash_id"]
    assert files_with(server.home, SECRET_OF_A_CLIENT) == []


def test_a_failed_load_leaves_evidence_too(server: LiveServer) -> None:
    """An exception while loading is a crash with its traceback; a model that is refused in order is one with a reason."""
    server.script("broken", "faults: [{when: load, do: exit, code: 9}]")
    server.script("refused", "load: {fail: model_unsupported_arch}")
    statuses = [server.http.post("/admin/models/load", json={"model_id": name}).status_code for name in ("broken", "refused")]

    assert statuses == [409, 422]
    assert newest_crash(server, "broken")["summary"]["state"] == "loading"
    assert newest_crash(server, "refused")["summary"]["reason"] == "bad_model"


def test_the_oldest_bundle_makes_room(serve: Callable[..., LiveServer], tmp_path: Path) -> None:
    """A full archive loses its oldest bundle to a new death, and nothing else of the operator's."""
    crashes = tmp_path / "home" / "crashes"
    for number in range(limits.CRASH_BUNDLES_MAX):
        (crashes / f"20260101T0000{number:02d}.000Z-m-0a1b2c3d-{number + 1}").mkdir(parents=True)
    (crashes / "my notes").mkdir()
    server = serve()
    server.script("m", DYING % "do: kill")
    server.load("m")
    server.chat("m", "die")
    newest_crash(server)
    wait_until(lambda: len(list(crashes.iterdir())) == limits.CRASH_BUNDLES_MAX + 1, 5.0, "the oldest bundle to go")

    assert not (crashes / "20260101T000000.000Z-m-0a1b2c3d-1").exists()
    assert (crashes / "my notes").exists()


def test_a_disk_that_takes_no_bundle_delays_no_restart(serve: Callable[..., LiveServer], tmp_path: Path) -> None:
    """The directory cannot be made: the model is back as fast as ever, and the log says once what was lost."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "crashes").write_text("in the way")
    server = serve()
    server.script("m")
    server.load("m")
    wait_until(lambda: server.http.get("/admin/workers").json()["spares"] != [], 10.0, "a warm spare")
    began = time.monotonic()
    os.kill(server.worker("m")["pid"], signal.SIGKILL)
    wait_until(lambda: server.worker("m").get("restarts") == 1 and server.worker("m")["state"] == "ready", 5.0, "the restart")
    seconds = time.monotonic() - began

    assert seconds < 1.5
    assert server.http.get("/admin/crashes").json() == {"crashes": [], "count": 0}
    wait_until(lambda: "crash_bundle_lost" in server.log(), 5.0, "the log line")
    assert server.log().count("crash_bundle_lost") == 1


def test_the_command_line_tells_the_story(server: LiveServer) -> None:
    """`lmx crashes` fits the death into a line, `lmx crashes show` prints stacks and last output."""
    server.script("m", DYING % 'do: abort, line: "GGML_ASSERT(n > 0) failed"')
    server.load("m")
    server.chat("m", f"die {SECRET_OF_A_CLIENT}")
    crash_id = newest_crash(server)["summary"]["crash_id"]

    def lmx(*arguments: str) -> str:
        environment = {**os.environ, "LMX_HOME": str(server.home)}
        command = [sys.executable, "-m", "lmx_supervisor", "crashes", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=True).stdout

    listed, shown = lmx().splitlines()[1], lmx("show", crash_id)

    assert listed.split()[0] == crash_id
    assert {"m", "SIGABRT", "native_assert"} <= set(listed.split())
    assert max(map(len, lmx().splitlines())) <= 80
    assert "--- stacks ---\nFatal Python error: Aborted" in shown
    assert "GGML_ASSERT(n > 0) failed" in shown
    assert SECRET_OF_A_CLIENT not in shown


def test_a_key_that_a_worker_prints_is_not_kept(serve: Callable[..., LiveServer]) -> None:
    """Configured secrets are struck out of the worker's last output."""
    server = serve(LMX_SECURITY__INFERENCE_API_KEY="sk-hush")
    server.script("m", "faults: [{when: ready, do: abort, line: 'my key is sk-hush', lives: 1}]")
    server.http.headers["Authorization"] = "Bearer sk-hush"
    server.http.post("/admin/models/load", json={"model_id": "m"})
    report = newest_crash(server)

    assert "my key is [redacted]" in report["stderr"]
    assert files_with(server.home, "sk-hush") == []


def test_a_truncated_model_stays_down_and_says_so(server: LiveServer) -> None:
    """SIGBUS with a file that became shorter: no restart, 422 with the cause for whoever asks, and the evidence."""
    server.script("m", "answers: [{pieces: ['a']}]")
    server.load("m")
    os.truncate(server.home / "models" / "m.script.yaml", 3)
    os.kill(server.worker("m")["pid"], signal.SIGBUS)
    failed = server.wait_for_state("m", "failed")
    answer = server.chat("m")

    assert (failed["restarts"], failed["last_exit"]["reason"]) == (0, "model_truncated")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "model_truncated")
    assert "download the model again" in answer.json()["error"]["message"]
    assert newest_crash(server)["summary"]["signal"] == "SIGBUS"


@pytest.mark.real
def test_a_gguf_file_that_is_cut_while_it_is_mapped(server: LiveServer) -> None:
    """The real thing: llama.cpp reads weights that are gone, and the file is named as the cause."""
    path = shutil.copy(find_demo_model(), server.home / "models" / "cut.gguf")
    server.load("cut")
    os.truncate(path, 4096)
    server.chat("cut", "Tell me a story.")
    failed = server.wait_for_state("cut", "failed")

    assert failed["last_exit"]["reason"] == "model_truncated"
    assert server.chat("cut").status_code == 422
    reload = server.http.post("/admin/models/load", json={"model_id": "cut"})
    assert (reload.status_code, reload.json()["error"]["code"]) == (409, "model_incomplete")


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group that a leaking worker fills in a moment."""
    with memory_group(256 * 1024**2) as group:
        yield group


def test_the_kernels_own_kill_is_confirmed(small_group: Path, serve: Callable[..., LiveServer]) -> None:
    """A worker that eats the memory of its control group is killed by the kernel, and the kernel's count says so."""
    with joined(small_group):
        server = serve()
    server.script("m", "faults: [{when: request, contains: eat, do: leak, bytes: 2000000000, bytes_per_second: 1000000000}]")
    server.load("m")
    server.chat("m", "eat")
    report = newest_crash(server)

    assert report["summary"]["reason"] == "oom_killed"
    assert "confirmed" in report["summary"]["text"]
