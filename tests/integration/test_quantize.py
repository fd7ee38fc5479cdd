"""Quantized copies through the whole of LMX, with real processes and a real (tiny) model: made, served, cancelled, killed."""

import json
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.live import LiveServer, wait_until
from tests.support.mlx_models import write_tiny_mlx_model
from tests.unit.supervisor.catalog.model_files import gguf_bytes

pytestmark = pytest.mark.real

SOURCE = "org/tiny"
OVER = ("completed", "failed", "cancelled")
GONE_SECONDS = 5.0
SETTINGS = {"LMX_MODELS__WARM_SPARE": "false", "LMX_DOWNLOADS__DISK_RESERVE_BYTES": "0"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny MLX model."""
    return write_tiny_mlx_model(tmp_path_factory.mktemp("source") / "tiny")


def put_source(server: LiveServer, source: Path) -> None:
    """Have it in the models directory."""
    (server.home / "models" / "org").mkdir()
    (server.home / "models" / "org" / "tiny").symlink_to(source)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Iterator[LiveServer]:
    """One server for all that leave it alive."""
    running = LiveServer(tmp_path_factory.mktemp("quantize") / "home", environment=SETTINGS)
    put_source(running, source)
    running.start()
    yield running
    assert running.stop() == 0, running.log()


def post(server: LiveServer, **fields: Any) -> httpx.Response:
    """Ask for a copy."""
    return server.http.post("/admin/quantize", json={"source_model": SOURCE, **fields})


def start(server: LiveServer, **fields: Any) -> str:
    """Ask for a copy that can be had; returns the job's id."""
    response = post(server, **fields)
    assert response.status_code == 200, response.text
    assert response.json()["status"] == "queued"
    return str(response.json()["job_id"])


def job(server: LiveServer, job_id: str) -> dict[str, Any]:
    """How far it is."""
    return dict(server.http.get(f"/admin/quantize/{job_id}").json())


def wait_for_end(server: LiveServer, job_id: str) -> dict[str, Any]:
    """How it ended."""
    wait_until(lambda: job(server, job_id)["status"] in OVER, 120.0, f"{job_id} to be over")
    return job(server, job_id)


def stopped_process(server: LiveServer, job_id: str) -> psutil.Process:
    """The process of a job, with all nets, held where it is: what it imports takes far longer than it takes to find it."""
    wait_until(lambda: job(server, job_id)["worker_pid"] is not None, 30.0, "its process to be there")
    process = psutil.Process(job(server, job_id)["worker_pid"])
    # Its title comes after everything that ties it to its supervisor.
    wait_until(lambda: "(quantize" in " ".join(process.cmdline()), 30.0, "its title")
    process.suspend()
    assert job(server, job_id)["status"] == "running"
    return process


def staging(server: LiveServer) -> list[Path]:
    """What there is of copies that are not whole."""
    return list((server.home / "quantized").glob(".quantize-*"))


def available(server: LiveServer) -> set[str]:
    """The ids of all models that could be loaded."""
    return {model["repo_id"] for model in server.http.get("/admin/models/available").json()}


def test_a_copy_is_made_served_probed_and_deleted(server: LiveServer) -> None:
    """Four bits instead of 32, found by the catalog only when it is whole; it passes its probe, answers, and can be deleted."""
    job_id = start(server, bits=4, group_size=32)
    assert available(server) == {SOURCE}
    end = wait_for_end(server, job_id)
    model_id = "tiny-4bit-g32"
    assert (end["status"], end["failure_code"], end["model_id"]) == ("completed", None, model_id), end
    assert available(server) == {SOURCE, model_id}
    directory = server.home / "quantized" / model_id
    assert end["output_path"] == str(directory)
    assert 0 < end["output_size_bytes"] < sum(file.stat().st_size for file in (server.home / "models" / SOURCE).iterdir())
    assert json.loads((directory / "config.json").read_text())["quantization"] == {
        "group_size": 32,
        "bits": 4,
        "mode": "affine",
    }
    probed = server.http.post("/admin/models/probe", json={"model_id": model_id}).json()
    assert (probed["recommended_backend"], probed["candidates"][0]["architecture"]) == ("mlx", "llama"), probed
    server.load(model_id)
    answer = server.chat(model_id, temperature=0, max_tokens=4)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] > 0
    again = post(server, bits=4, group_size=32)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "output_path_exists")
    assert server.http.delete(f"/admin/models/{model_id}").json()["error"]["code"] == "model_in_use"
    server.http.post("/admin/models/unload", json={"model_id": model_id})
    assert server.http.delete(f"/admin/models/{model_id}").status_code == 200

    assert available(server) == {SOURCE}
    assert staging(server) == []


def test_the_place_can_be_chosen(server: LiveServer, tmp_path: Path) -> None:
    """Where an operator says, in another mode; events tell how far it is."""
    with server.http.stream("GET", "/admin/events") as events:
        output = tmp_path / "copy"
        end = wait_for_end(server, start(server, mode="mxfp4", output_path=str(output)))
        told = []
        for line in events.iter_lines():
            if line.startswith("data: ") and '"percent"' in line:
                told.append(json.loads(line.removeprefix("data: ")))
                if told[-1]["status"] == "completed":
                    break

    assert (end["status"], end["model_id"]) == ("completed", None), end
    assert json.loads((output / "config.json").read_text())["quantization"]["mode"] == "mxfp4"
    assert (told[-1]["model_id"], told[-1]["percent"], told[-1]["job_id"]) == (SOURCE, 100.0, end["job_id"])


def test_what_cannot_be_quantized(server: LiveServer, tmp_path: Path) -> None:
    """Every reason has its status, its field and what to do; nothing is queued."""
    before = server.http.get("/admin/quantize").json()["count"]
    (server.home / "models" / "file.gguf").write_bytes(gguf_bytes())
    script = server.script("script")
    sealed = tmp_path / "sealed"
    sealed.write_text("no directory")
    cases: list[tuple[dict[str, Any], int, str, str]] = [
        ({"source_model": "nothing"}, 404, "model_not_found", "source_model"),
        ({"source_model": "file"}, 400, "not_supported", "source_model"),
        ({"source_model": script}, 400, "not_supported", "source_model"),
        ({"output_path": "relative/place"}, 400, "invalid_value", "output_path"),
        ({"output_path": f"{tmp_path}/../place"}, 400, "invalid_value", "output_path"),
        ({"output_path": f"{tmp_path}/no/parent"}, 400, "invalid_value", "output_path"),
        ({"output_path": f"{sealed}/copy"}, 400, "invalid_value", "output_path"),
        ({"output_path": f"{tmp_path}/.hidden"}, 400, "invalid_value", "output_path"),
        ({"output_path": str(server.home / "models" / SOURCE / "within")}, 400, "invalid_value", "output_path"),
        ({"output_path": str(sealed)}, 409, "output_path_exists", "output_path"),
        ({"bits": 4, "group_size": 16}, 400, "invalid_request_error", "group_size"),
    ]
    for body, status, code, param in cases:
        refused = post(server, **body)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["param"]) == (status, code, param), (body, error)

    assert "llama-quantize" in post(server, source_model="file").json()["error"]["message"]
    assert server.http.get("/admin/quantize").json()["count"] == before


def test_a_job_refuses_what_only_it_can_see(server: LiveServer) -> None:
    """What is quantized already: the job fails with the reason and what to do, and nothing is left of it."""
    copy = wait_for_end(server, start(server))
    end = wait_for_end(server, start(server, source_model=copy["model_id"]))
    assert server.http.delete(f"/admin/models/{copy['model_id']}").status_code == 200

    assert (end["status"], end["failure_code"], end["exit_code"]) == ("failed", "quantize_failed", 0)
    assert "choose the original model" in end["error"]
    wait_until(lambda: staging(server) == [], GONE_SECONDS, "the staging directory to be gone")


def test_a_killed_job(server: LiveServer) -> None:
    """kill -9 of its process: failed with the signal, nothing left, evidence kept, and a healthy model does not notice."""
    bystander = server.script("bystander")
    server.load(bystander)
    pid = server.worker(bystander)["pid"]
    job_id = start(server)
    stopped_process(server, job_id).kill()
    end = wait_for_end(server, job_id)
    wait_until(lambda: staging(server) == [], GONE_SECONDS, "the staging directory to be gone")
    wait_until(lambda: bool(server.http.get(f"/admin/crashes?model_id={SOURCE}").json()["crashes"]), 10.0, "evidence")

    assert (end["status"], end["failure_code"], end["signal"], end["exit_code"]) == ("failed", "worker_crashed", 9, None)
    assert server.worker(bystander)["pid"] == pid
    assert server.chat(bystander).status_code == 200
    assert "tiny-4bit" not in available(server)
    server.http.post("/admin/models/unload", json={"model_id": bystander})


def test_a_cancelled_job_and_the_queue_behind_it(server: LiveServer) -> None:
    """The second waits for the first, whose source cannot be deleted meanwhile; a cancel ends each where it is."""
    first, second = start(server), start(server, bits=8)
    process = stopped_process(server, first)
    assert job(server, second)["queue_position"] == 1
    in_use = server.http.delete(f"/admin/models/{SOURCE}")
    assert (in_use.status_code, in_use.json()["error"]["code"]) == (409, "model_in_use")
    waiting = server.http.post(f"/admin/quantize/{second}/cancel")
    assert (waiting.status_code, waiting.json()["reason"], waiting.json()["status"]) == (200, "cancelled", "cancelled")
    running = server.http.post(f"/admin/quantize/{first}/cancel")
    assert (running.status_code, running.json()["reason"], running.json()["status"]) == (202, "cancelling", "cancelling")
    process.resume()
    end = wait_for_end(server, first)
    again = server.http.post(f"/admin/quantize/{first}/cancel").json()

    assert (end["status"], end["failure_code"], end["signal"]) == ("cancelled", "cancelled_by_user", signal.SIGTERM)
    assert (again["reason"], again["cancelled"]) == ("already_terminal", True)
    assert not process.is_running()
    wait_until(lambda: staging(server) == [], GONE_SECONDS, "the staging directory to be gone")


def test_jobs_and_a_supervisor_that_is_killed(serve: Callable[..., LiveServer], source: Path, tmp_path: Path) -> None:
    """kill -9 of the supervisor takes the process along; the next start says that the jobs were interrupted, and cleans up."""
    put_source(LiveServer(tmp_path / "home"), source)
    server = serve(**SETTINGS)
    running, waiting = start(server), start(server, bits=8)
    process = stopped_process(server, running)
    file = server.home / "quantize-jobs.json"
    wait_until(lambda: file.exists() and waiting in file.read_text(), 10.0, "the jobs to be written down")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    document = json.loads(file.read_text())
    assert (document["version"], [each["status"] for each in document["jobs"]]) == (2, ["running", "queued"])
    half = Path(document["jobs"][0]["staging_path"])
    half.mkdir(exist_ok=True)
    (half / "model.safetensors").write_bytes(b"half")
    server.kill()
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, GONE_SECONDS, "no orphan")
    server.may_end = False
    server.start()
    jobs = {each["job_id"]: each for each in server.http.get("/admin/quantize").json()["jobs"]}

    assert {running, waiting} == set(jobs)
    assert {("failed", "interrupted_by_restart")} == {(each["status"], each["failure_code"]) for each in jobs.values()}
    assert staging(server) == []
    assert available(server) == {SOURCE}


def test_jobs_and_a_stop(serve: Callable[..., LiveServer], source: Path, tmp_path: Path) -> None:
    """A clean stop ends the job with its process; a file that is no jobs file is set aside, and the service starts afresh."""
    put_source(LiveServer(tmp_path / "home"), source)
    server = serve(**SETTINGS)
    job_id = start(server)
    process = stopped_process(server, job_id)
    assert server.stop() == 0, server.log()
    assert not process.is_running()
    assert staging(server) == []
    file = server.home / "quantize-jobs.json"
    assert [each["failure_code"] for each in json.loads(file.read_text())["jobs"]] == ["interrupted_by_restart"]
    file.write_text("{half")
    server.may_end = False
    server.start()

    assert server.http.get("/admin/quantize").json() == {"jobs": [], "count": 0}
    assert len(list(server.home.glob("quantize-jobs.json.corrupt-*"))) == 1
