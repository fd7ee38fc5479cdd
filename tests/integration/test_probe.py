"""Probes through the whole of LMX: whatever a model does to its probe costs a process, and nobody notices."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.live import LiveServer, wait_until
from tests.unit.supervisor.catalog.model_files import write_mlx

BYSTANDER = "bystander"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One server for all of them, with a healthy model that must not notice anything."""
    home: Path = tmp_path_factory.mktemp("probe") / "home"
    running = LiveServer(home, environment={"LMX_MODELS__WARM_SPARE": "false"})
    running.start()
    running.load(running.script(BYSTANDER))
    pid = running.worker(BYSTANDER)["pid"]
    yield running
    assert pid == running.worker(BYSTANDER)["pid"]
    assert running.chat(BYSTANDER).status_code == 200
    assert running.stop() == 0, running.log()


def ask(server: LiveServer, model_id: str, **fields: Any) -> httpx.Response:
    """Have a model probed."""
    return server.http.post("/admin/models/probe", json={"model_id": model_id, **fields})


def probe(server: LiveServer, model_id: str, **fields: Any) -> dict[str, Any]:
    """The one candidate of a probe."""
    response = ask(server, model_id, **fields)
    assert response.status_code == 200, response.text
    (candidate,) = response.json()["candidates"]
    passed = candidate["backend"] if candidate["outcome"] == "pass" else None
    assert response.json()["recommended_backend"] == passed
    return dict(candidate)


def rows(server: LiveServer, model_id: str) -> list[dict[str, Any]]:
    """What the compatibility registry has of a model, the newest first."""
    found: list[dict[str, Any]] = server.http.get(f"/admin/models/compatibility?model_id={model_id}").json()["rows"]
    return found


def crashes_of(server: LiveServer, model_id: str) -> list[tuple[str, str]]:
    """What died of it, and why."""
    crashes = server.http.get(f"/admin/crashes?model_id={model_id}").json()["crashes"]
    return [(crash["backend"], crash["reason"]) for crash in crashes]


def probes_running(server: LiveServer) -> list[psutil.Process]:
    """The processes of probes."""
    return [child for child in server.children() if "(probe" in " ".join(child.cmdline())]


def test_a_model_that_is_well(server: LiveServer) -> None:
    """It passes without being loaded, and the registry knows that it was a probe."""
    candidate = probe(server, server.script("well"))
    wait_until(lambda: bool(rows(server, "well")), 10.0, "the registry to know")
    (row,) = rows(server, "well")

    assert ("scripted", "pass", None, "script") == (
        candidate["backend"],
        candidate["outcome"],
        candidate["reason"],
        candidate["architecture"],
    )
    assert ("pass", "scripted", "1") == (row["outcome"], row["backend"], row["backend_version"])
    assert "probe" in row["metadata"]
    assert server.worker("well") == {}
    assert probes_running(server) == []


def test_a_model_that_crashes_its_probe(server: LiveServer) -> None:
    """The reason says how the process died, evidence is kept, and the registry has a failure."""
    candidate = probe(server, server.script("crashes", "faults: [{when: probe, do: segfault}]"))
    wait_until(lambda: bool(rows(server, "crashes")), 10.0, "the registry to know")
    wait_until(lambda: bool(crashes_of(server, "crashes")), 10.0, "the evidence to be written")

    assert candidate["outcome"] == "fail"
    assert candidate["reason"].startswith("model_loader_crashed:native code crashed (SIGSEGV)")
    assert [row["outcome"] for row in rows(server, "crashes")] == ["fail"]
    assert crashes_of(server, "crashes") == [("probe", "native_crash")]


@pytest.mark.parametrize("how", ["stall", "stop"])
def test_a_model_that_hangs_its_probe(server: LiveServer, how: str) -> None:
    """After the time that was asked for its process is gone, even a stopped one; that is answered and not remembered."""
    model_id = server.script(f"hangs-{how}", f"faults: [{{when: probe, do: {how}}}]")
    candidate = probe(server, model_id, timeout_sec=2)

    assert candidate["outcome"] == "fail"
    assert candidate["reason"].startswith("model_load_timeout:it was not done after 2 s")
    assert probes_running(server) == []
    assert rows(server, model_id) == []


def test_a_model_that_is_broken(server: LiveServer) -> None:
    """The backend's own words, with the code that operators look up."""
    candidate = probe(server, server.script("broken", "answers: 7"))

    assert candidate["outcome"] == "fail"
    assert candidate["reason"].startswith("model_probe_failed:")
    assert "answers" in candidate["reason"]


def test_models_that_cannot_be_probed(server: LiveServer) -> None:
    """One that is not here is 404, one that is not whole says which files are missing."""
    directory = write_mlx(server.home / "models" / "org" / "part")
    next(directory.glob("*.safetensors")).unlink()
    (directory / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002-of-00002.safetensors"}}')
    unknown, absent, part = ask(server, "nothing"), ask(server, "org/absent"), ask(server, "org/part")

    assert [(404, "model_not_found", "model_id")] * 2 == [
        (response.status_code, response.json()["error"]["code"], response.json()["error"]["param"])
        for response in (unknown, absent)
    ]
    assert (409, "model_incomplete") == (part.status_code, part.json()["error"]["code"])
    assert "model-00002-of-00002.safetensors" in part.json()["error"]["message"]
