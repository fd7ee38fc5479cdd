"""Downloads through the whole of LMX and from a fake hub: every way a model comes onto this machine and leaves it."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.downloads import SCRIPT, available, hub_settings, progress, start_download, wait_for_end
from tests.support.fake_hub import FakeHub, serving
from tests.support.live import LiveServer, wait_until
from tests.unit.supervisor.catalog.model_files import gguf_bytes, write_mlx

COMMIT = "c" * 40


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """An empty hub."""
    with serving() as hub:
        yield hub


@pytest.fixture
def server(serve: Callable[..., LiveServer], hub: FakeHub) -> LiveServer:
    """A server that may download."""
    return serve(**hub_settings(hub))


def add_script(hub: FakeHub, repo_id: str) -> str:
    """Publish a scripted model; returns the id that its file has once it is here."""
    hub.add(repo_id, {"it.script.yaml": SCRIPT, "README.md": b"# it"})
    return f"{repo_id}/it"


def load(server: LiveServer, model_id: str, **order: object) -> httpx.Response:
    """Ask for a load, whatever comes of it."""
    return server.http.post("/admin/models/load", json={"model_id": model_id, **order})


def test_prompt_and_confirmation(server: LiveServer, hub: FakeHub) -> None:
    """A model that is not here is offered with its size; the token starts the download once."""
    hub.add("org/offered", {"weights.gguf": gguf_bytes()})
    offered = load(server, "org/offered")
    assert (offered.status_code, offered.json()["status"]) == (202, "download_required")
    assert offered.json()["estimated_size_bytes"] == len(gguf_bytes())
    token = {"confirmation_token": offered.json()["confirmation_token"]}
    assert "org/offered" not in available(server)
    confirmed = server.http.post("/admin/models/load/confirm", json=token)
    again = server.http.post("/admin/models/load/confirm", json=token)
    end = wait_for_end(server, confirmed.json()["download_id"])

    assert (confirmed.status_code, confirmed.json()["status"]) == (202, "downloading")
    assert (again.status_code, again.json()["error"]["code"]) == (404, "token_not_found")
    assert (end["status"], end["loads_model"]) == ("completed", True)
    assert "org/offered" in available(server)


def test_auto_download_loads_what_it_fetched(server: LiveServer, hub: FakeHub) -> None:
    """`auto_download` fetches without asking; the model of the repository is loaded when it has arrived, and answers."""
    directory = server.home / "models" / "org" / "auto"
    model_id = add_script(hub, "org/auto")
    end = wait_for_end(server, start_download(server, "org/auto"))
    assert end["local_path"] == str(directory)
    server.load(model_id)
    assert server.chat(model_id).json()["choices"][0]["message"]["content"] == "from the hub"
    hub.add("org/broken", {"weights.gguf": gguf_bytes()})
    started = load(server, "org/broken", auto_download=True)
    assert (started.status_code, started.json()["status"]) == (202, "downloading")
    wait_for_end(server, started.json()["download_id"])

    # The file is a model to the catalog and none to llama.cpp: that it was tried shows that the load followed by itself.
    wait_until(lambda: "load_after_download_failed" in server.log(), 60.0, "the load to be tried")


def test_one_download_for_all_who_ask(server: LiveServer, hub: FakeHub) -> None:
    """Requests at the same time, also loads that need it, share one download."""
    add_script(hub, "org/shared")
    hub.repositories["org/shared"].stall_after_bytes["README.md"] = 1
    first = start_download(server, "org/shared")
    hub.wait_until_stalled()
    ids: list[str] = []
    threads = [threading.Thread(target=lambda: ids.append(start_download(server, "org/shared"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    joined = load(server, "org/shared").json()
    in_use = server.http.delete("/admin/models/org/shared")
    listed = [item["download_id"] for item in server.http.get("/admin/models/downloads").json()["downloads"]]
    hub.stop_stalling()
    wait_for_end(server, first)

    assert set(ids) == {first} == {joined["download_id"]}
    assert (in_use.status_code, in_use.json()["error"]["code"]) == (409, "model_in_use")
    assert listed == [first]


def test_what_the_hub_does_not_have(server: LiveServer, hub: FakeHub) -> None:
    """404 for a download and for a load alike, 403 for a gated one, 400 for an id that is none: no record is left."""
    hub.add("org/gated", {}).refuse = (403, "GatedRepo")
    before = server.http.get("/admin/models/downloads?include_inactive=true").json()["count"]
    answers = [
        server.http.post("/admin/models/download", json={"repo_id": "org/nowhere"}),
        load(server, "org/nowhere"),
        server.http.post("/admin/models/download", json={"repo_id": "org/gated"}),
        server.http.post("/admin/models/download", json={"repo_id": "no-owner"}),
    ]

    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in answers] == [
        (404, "model_not_found"),
        (404, "model_not_found"),
        (403, "hub_access_denied"),
        (400, "invalid_value"),
    ]
    assert server.http.get("/admin/models/downloads?include_inactive=true").json()["count"] == before


def test_repairing_an_incomplete_model(server: LiveServer, hub: FakeHub, tmp_path: Path) -> None:
    """A shard is missing: the load offers to fetch it, and fetches nothing else."""
    whole = write_mlx(tmp_path / "whole", shards=2, index=True)
    files = {path.name: path.read_bytes() for path in whole.iterdir()}
    hub.add("org/mended", files)
    lacking = "model-00002-of-00002.safetensors"
    directory = server.home / "models/org/mended"
    directory.mkdir(parents=True)
    for name in files.keys() - {lacking}:
        (directory / name).write_bytes(files[name])
    hub.bytes_sent.clear()
    offered = load(server, "org/mended").json()
    assert offered["status"] == "download_required"
    assert lacking in offered["message"]
    assert offered["estimated_size_bytes"] == len(files[lacking])
    token = {"confirmation_token": offered["confirmation_token"]}
    wait_for_end(server, server.http.post("/admin/models/load/confirm", json=token).json()["download_id"])

    assert (directory / lacking).read_bytes() == files[lacking]
    assert set(hub.bytes_sent) == {lacking}


def test_snapshots_of_other_programs_are_here_already(server: LiveServer, hub: FakeHub) -> None:
    """A whole snapshot in the client's cache is listed and loads without the hub; one that is not whole is not listed."""
    cache = server.home / "huggingface/hub"
    for name, content in (("whole", gguf_bytes()), ("half", gguf_bytes()[:-20])):
        repository = cache / f"models--org--{name}"
        blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
        snapshot = repository / "snapshots" / COMMIT
        for directory in (blob.parent, snapshot, repository / "refs"):
            directory.mkdir(parents=True)
        blob.write_bytes(content)
        (snapshot / "weights.gguf").symlink_to(blob)
        (repository / "refs/main").write_text(COMMIT)
    tried = load(server, "org/whole")
    refused = server.http.delete("/admin/models/org/whole")

    assert "org/whole" in available(server)
    assert "org/half" not in available(server)
    # It went as far as llama.cpp, which takes it for no model: nothing had to be fetched.
    assert tried.status_code in (409, 422), tried.text
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "not_supported")


def test_deleting(server: LiveServer, hub: FakeHub) -> None:
    """409 while it is loaded, under whatever id; then it is gone, with everything the download brought; then 404."""
    model_id = add_script(hub, "org/gone")
    wait_for_end(server, start_download(server, "org/gone"))
    server.load(model_id)
    in_use = [server.http.delete(f"/admin/models/{name}").json()["error"]["code"] for name in (model_id, "org/gone")]
    server.http.post("/admin/models/unload", json={"model_id": model_id})
    deleted = server.http.delete("/admin/models/org/gone").json()
    again = server.http.delete("/admin/models/org/gone")

    assert in_use == ["model_in_use", "model_in_use"]
    assert deleted["freed_bytes"] >= len(SCRIPT)
    assert not (server.home / "models/org/gone").exists()
    assert (again.status_code, again.json()["error"]["code"]) == (404, "model_not_found")


def test_operators_are_told(server: LiveServer, hub: FakeHub) -> None:
    """Start, progress and arrival are events with their ids; progress is not in the log."""
    add_script(hub, "org/told")
    with httpx.Client(base_url=server.url, timeout=60.0) as http, http.stream("GET", "/admin/events") as stream:
        lines = stream.iter_lines()
        # The stream's first words: from here on nothing is missed.
        next(lines)
        download_id = start_download(server, "org/told")
        kinds: list[str] = []
        for line in lines:
            kinds += [line.removeprefix("event: ")] if line.startswith("event: ") else []
            if line.startswith("data: ") and kinds[-1].startswith("download_"):
                assert json.loads(line.removeprefix("data: "))["download_id"] == download_id
            if kinds[-1:] == ["download_completed"]:
                break

    assert [kind for kind in kinds if kind in ("download_started", "download_completed")] == [
        "download_started",
        "download_completed",
    ]
    assert "download_progress" in kinds
    assert "download_progress" not in server.log()


@pytest.mark.live_keys("security.downloads_enabled")
def test_downloads_can_be_switched_off(hub: FakeHub, tmp_path: Path) -> None:
    """Switched off by a reload: 403 for all that would fetch, 409 naming the missing file for what is not whole."""
    hub.add("org/late", {"weights.gguf": gguf_bytes()})
    server = LiveServer(tmp_path / "home", environment={"HF_ENDPOINT": hub.url})
    settings = server.home / "config.yaml"
    settings.write_text("security: {downloads_enabled: true}\ndownloads: {disk_reserve_bytes: 0}\n")
    server.start()
    try:
        token = load(server, "org/late").json()["confirmation_token"]
        settings.write_text("security: {downloads_enabled: false}\ndownloads: {disk_reserve_bytes: 0}\n")
        reloaded = server.http.post("/admin/config/reload").json()
        assert "security.downloads_enabled" in reloaded["updated"]
        broken = write_mlx(server.home / "models/org/holed", shards=2, index=True)
        (broken / "model-00002-of-00002.safetensors").unlink()
        answers = [
            load(server, "org/late"),
            load(server, "org/late", auto_download=True),
            server.http.post("/admin/models/download", json={"repo_id": "org/late"}),
            server.http.post("/admin/models/load/confirm", json={"confirmation_token": token}),
            load(server, "org/holed"),
        ]
    finally:
        assert server.stop() == 0

    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in answers] == [
        *[(403, "downloads_disabled")] * 4,
        (409, "model_incomplete"),
    ]
    assert "model-00002-of-00002.safetensors" in answers[-1].json()["error"]["message"]


def test_a_clean_stop_cancels_and_keeps_what_has_come(hub: FakeHub, tmp_path: Path) -> None:
    """Stopped in order the service leaves no process; the download is cancelled, and asked for again goes on."""
    repository = hub.add("org/long", {"big.script.yaml": SCRIPT * 4000})
    repository.stall_after_bytes["big.script.yaml"] = 100_000
    server = LiveServer(tmp_path / "home", environment=hub_settings(hub)).start()
    try:
        download_id = start_download(server, "org/long")
        hub.wait_until_stalled()
        part = server.home / "models/.downloads/org@long/parts"
        wait_until(lambda: sum(path.stat().st_size for path in part.iterdir()) >= 100_000, 30.0, "the bytes to be there")
        assert server.stop() == 0
        repository.stall_after_bytes.clear()
        hub.stop_stalling()
        server.start()
        stopped = progress(server, download_id)
        hub.starts.clear()
        end = wait_for_end(server, start_download(server, "org/long"))
    finally:
        server.stop()

    assert (stopped["status"], stopped["error_code"]) == ("cancelled", "shutting_down")
    assert end["status"] == "completed"
    assert hub.starts == [("big.script.yaml", 100_000)]
