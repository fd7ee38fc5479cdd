"""Computed prompts that outlive their worker, through the whole service."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.live import LiveServer, wait_until

DEMO = "smollm2-135m-instruct"
SHARED = "Rivers, lakes and mountains are three kinds of places. " * 12
# A question whose answer leaves no doubt: whether a prompt is computed in one piece or two changes its last digits.
FIRST, SECOND = f"{SHARED}What is the capital of France? Answer in one sentence.", f"{SHARED}Name one lake in Italy."


def saved_files(server: LiveServer) -> list[Path]:
    """What lies in the cache of the home."""
    return sorted((server.home / "prefix-cache").glob("*/*"))


def ask(server: LiveServer, prompt: str) -> tuple[str, int, int]:
    """The greedy answer, how many tokens of the prompt were not computed, and how many it has."""
    answer: dict[str, Any] = server.chat(DEMO, prompt, temperature=0, max_tokens=7).json()
    usage = answer["usage"]
    return answer["choices"][0]["message"]["content"], usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"]


def metric(server: LiveServer, name: str) -> float:
    """The value of the demo model's counter."""
    lines = server.http.get("/admin/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f'{name}_total{{model="{DEMO}"}}'))


@pytest.mark.real
def test_a_model_that_comes_back_goes_on_where_it_was(serve: Callable[..., LiveServer]) -> None:
    """After a swap, and after a stop of the service, a prompt is read instead of computed, and the answer is the same."""
    server = serve("--demo")
    server.wait_for_state(DEMO, "ready", seconds=60)
    said, _, prompt_tokens = ask(server, FIRST)
    server.http.post("/admin/models/unload", json={"model_id": DEMO}).raise_for_status()
    other = server.script("other")
    server.load(other)
    assert [file.stat().st_mode & 0o777 for file in saved_files(server)] == [0o600]
    server.load(DEMO)
    assert said == "The capital of France is Paris."
    assert ask(server, FIRST) == (said, prompt_tokens - 1, prompt_tokens)
    assert prompt_tokens - 20 < ask(server, SECOND)[1] < prompt_tokens
    assert metric(server, "lmx_prefixes_restored") == 1
    assert metric(server, "lmx_prefixes_saved_bytes") > 0

    assert server.stop() == 0
    server.start()
    server.wait_for_state(DEMO, "ready", seconds=60)
    _, cached, prompt_tokens = ask(server, SECOND)
    assert cached == prompt_tokens - 1


@pytest.mark.real
@pytest.mark.live_keys("models.prefix_cache_enabled")
def test_what_may_not_outlive_a_model_does_not(serve: Callable[..., LiveServer]) -> None:
    """A worker that crashed leaves nothing; cleared is cleared; switched off, nothing is kept and what there was is deleted."""
    server = serve("--demo", home="strict")
    ready = server.wait_for_state(DEMO, "ready", seconds=60)
    ask(server, FIRST)
    server.expected_crashes.append(("external", 1))
    os.kill(ready["pid"], signal.SIGKILL)
    wait_until(lambda: server.worker(DEMO).get("restarts") == 1, 30, "the worker to be restarted")
    server.wait_for_state(DEMO, "ready", seconds=60)
    assert saved_files(server) == []

    assert ask(server, FIRST)[1] < 64
    server.http.post(f"/admin/models/{DEMO}/restart").raise_for_status()
    (file,) = saved_files(server)
    use = server.http.get("/admin/prefix-cache").json()
    assert (use["files"], use["bytes"]) == (1, file.stat().st_size)
    cleared = server.http.delete(f"/admin/prefix-cache/{DEMO}").json()
    assert cleared == {"success": True, "freed_bytes": use["bytes"]}
    assert ask(server, FIRST)[1] < 64

    server.http.post(f"/admin/models/{DEMO}/restart").raise_for_status()
    assert len(saved_files(server)) == 1
    (server.home / "config.yaml").write_text("models: {prefix_cache_enabled: false}\n")
    server.http.post("/admin/config/reload").raise_for_status()
    wait_until(lambda: not saved_files(server), 10, "the cache to be deleted")
    server.http.post("/admin/models/unload", json={"model_id": DEMO}).raise_for_status()
    assert saved_files(server) == []
