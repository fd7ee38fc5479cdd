"""Live keys that only the whole service can show: what a client gets, a file says or the next worker is told after a reload."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.downloads import SCRIPT, progress, start_download, wait_for_end
from tests.support.fake_hub import FakeHub, serving
from tests.support.live import LiveServer, wait_until

ENDLESS = "answers: [{pieces: ['on '], tokens: 1000000, token_seconds: 0.02}]"
TO_ORDER = "answers: [{contains: long, pieces: ['on '], tokens: 1000000, token_seconds: 0.02}, {pieces: [brief]}]"


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    """A hub with two models whose downloads stand still."""
    with serving() as hub:
        for repo_id in ("org/one", "org/two"):
            hub.add(repo_id, {"it.script.yaml": SCRIPT}).stall_after_bytes["it.script.yaml"] = 1
        yield hub


@pytest.fixture(scope="module")
def shared(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One server for all of them."""
    home = tmp_path_factory.mktemp("live-keys") / "home"
    server = LiveServer(home, environment={"HF_ENDPOINT": hub.url, "LMX_MODELS__WARM_SPARE": "false"})
    (home / "config.yaml").write_text("")
    try:
        yield server.start()
        assert server.stop() == 0, server.log()
    finally:
        server.abandon()


@pytest.fixture
def server(shared: LiveServer) -> Iterator[LiveServer]:
    """The same, and afterwards as it was at its start."""
    yield shared
    reload(shared, "")
    for worker in shared.http.get("/admin/workers").json()["workers"]:
        shared.http.post("/admin/models/unload", json={"model_id": worker["model_id"]}).raise_for_status()


def reload(server: LiveServer, text: str) -> list[str]:
    """Write the file and have it read; what that changed."""
    (server.home / "config.yaml").write_text(text)
    response = server.http.post("/admin/config/reload")
    assert response.status_code == 200, response.text
    updated: list[str] = response.json()["updated"]
    return updated


def told(server: LiveServer, model_id: str, *names: str) -> list[Any]:
    """What the worker of a model was told with its load, as the home keeps it for the next start."""
    file = server.home / "runtime-state.json"

    def specs() -> list[dict[str, Any]]:
        models = json.loads(file.read_text())["models"]
        return [model["spec"] for model in models if model["spec"]["model_id"] == model_id]

    wait_until(lambda: len(specs()) == 1, 10.0, "the load to be written down")
    (spec,) = specs()
    return [spec[name] for name in names]


@pytest.mark.live_keys("models.slots", "models.threads", "models.gpu_layers", "models.prefill_chunk_tokens")
def test_how_the_next_worker_is_loaded(server: LiveServer) -> None:
    """A loaded model goes on as it is; the next load is told the new values, and has as many slots."""
    names = ("slots", "threads", "gpu_layers", "prefill_chunk_tokens")
    server.script("before", ENDLESS)
    server.script("after", ENDLESS)
    server.load("before")
    pid = server.worker("before")["pid"]
    updated = reload(server, "models: {slots: 1, threads: 3, gpu_layers: 7, prefill_chunk_tokens: 64}")
    server.load("after")
    streams = {name: [server.stream(name) for _ in range(2)] for name in ("before", "after")}
    for stream in (*streams["before"], streams["after"][0]):
        next(stream)
    running = server.worker("before")["requests_active"]
    places = [server.worker(name)["concurrent_limit"] for name in streams]
    for stream in (*streams["before"], *streams["after"]):
        stream.close()

    assert updated == [f"models.{name}" for name in ("slots", "prefill_chunk_tokens", "gpu_layers", "threads")]
    assert told(server, "before", *names) == [4, 0, -1, 256]
    assert told(server, "after", *names) == [1, 3, 7, 64]
    assert (server.worker("before")["pid"], running, places) == (pid, 2, [4, 1])


@pytest.mark.live_keys("models.inference_timeout_sec")
def test_how_long_an_answer_may_take(server: LiveServer) -> None:
    """One that runs already is held to it too: an error event ends its stream, and its place is free; whole, it is a 504."""
    server.script("m", TO_ORDER)
    server.load("m", performance_overrides={"slots": 1})
    stream = server.stream("m", "a long one")
    next(stream)
    updated = reload(server, "models: {inference_timeout_sec: 1}")
    *_, last = stream
    whole = server.chat("m", "a long one")
    sooner = server.http.post(
        "/v1/chat/completions", json=server.chat_body("m", "a long one"), headers={"Request-Timeout-Ms": "300"}
    )
    brief = server.chat("m", "brief")

    assert updated == ["models.inference_timeout_sec"]
    error = json.loads(last)["error"]
    assert (error["code"], "models.inference_timeout_sec" in error["message"]) == ("deadline_exceeded", True)
    assert (whole.status_code, whole.json()["error"]) == (504, error)
    assert (sooner.status_code, "the 0.3 s that its request allowed" in sooner.json()["error"]["message"]) == (504, True)
    assert brief.json()["choices"][0]["message"]["content"] == "brief"
    assert server.worker("m")["readiness"]["state"] == "routable"


@pytest.mark.live_keys("models.prefix_cache_enabled", "models.prefix_cache_disk_bytes_max")
def test_what_computed_prompts_may_take_on_the_disk(server: LiveServer) -> None:
    """A smaller bound deletes the one that was used longest ago; switched off, the other one goes too."""
    directory = server.home / "prefix-cache" / "a-model"
    directory.mkdir(parents=True)
    old, new = (directory / f"{name}.prefix" for name in ("old", "new"))
    for used_at, file in enumerate((old, new)):
        file.write_bytes(bytes(1000))
        os.utime(file, (used_at, used_at))

    def left() -> list[Path]:
        return sorted(directory.parent.glob("*/*"))

    assert reload(server, "models: {prefix_cache_disk_bytes_max: 1500}") == ["models.prefix_cache_disk_bytes_max"]
    wait_until(lambda: left() == [new], 10.0, "the older one to be deleted")
    assert "models.prefix_cache_enabled" in reload(server, "models: {prefix_cache_enabled: false}")
    wait_until(lambda: left() == [], 10.0, "the other one to be deleted")


@pytest.mark.live_keys("downloads.at_once", "downloads.disk_reserve_bytes", "security.downloads_enabled")
def test_how_downloads_are_made(server: LiveServer, hub: FakeHub) -> None:
    """No downloads, then none that would take the disk's last bytes, then one at a time, and then two."""
    allowed, one = "security: {downloads_enabled: true}", "downloads: {disk_reserve_bytes: 0, at_once: 1}"
    ask = {"repo_id": "org/one"}
    disabled = server.http.post("/admin/models/download", json=ask)
    reload(server, f"{allowed}\ndownloads: {{disk_reserve_bytes: {2**50}}}")
    too_full = server.http.post("/admin/models/download", json=ask)
    reload(server, f"{allowed}\n{one}")
    first, second = (start_download(server, repo_id) for repo_id in ("org/one", "org/two"))
    wait_until(lambda: progress(server, first)["status"] == "downloading", 30.0, "the first to run")
    waits = progress(server, second)["status"]
    assert reload(server, f"{allowed}\ndownloads: {{disk_reserve_bytes: 0}}") == ["downloads.at_once"]
    wait_until(lambda: progress(server, second)["status"] == "downloading", 30.0, "the second to run beside it")
    hub.stop_stalling()
    ends = [wait_for_end(server, download_id)["status"] for download_id in (first, second)]

    assert (disabled.status_code, disabled.json()["error"]["code"]) == (403, "downloads_disabled")
    assert (too_full.status_code, too_full.json()["error"]["code"]) == (507, "insufficient_disk")
    assert (waits, ends) == ("pending", ["completed", "completed"])
