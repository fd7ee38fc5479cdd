"""Loads that were tuned: what is in force, what it does, and that it outlives the worker and the supervisor."""

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.live import LiveServer, wait_until

Serve = Callable[..., LiveServer]

OVERRIDES = {"slots": 2, "context_length": 1024, "max_tokens": 3, "temperature": 0}


def performance(server: LiveServer, model_id: str) -> dict[str, Any]:
    """What the model was tuned by, as it is shown."""
    return dict(server.http.get(f"/admin/models/{model_id}/performance").json())


def in_force(server: LiveServer, model_id: str) -> tuple[dict[str, Any], int, int, int]:
    """The settings, and what came of them: slots, context, and the length of an answer that asks for no length."""
    shown = performance(server, model_id)
    usage = server.chat(model_id, "one two three four five six seven").json()["usage"]
    return shown["performance"], shown["slots"], shown["context_length"], usage["completion_tokens"]


def test_a_tuned_load_stays_tuned_through_crashes_of_worker_and_supervisor(serve: Serve) -> None:
    """Overrides are in force at once, after the worker was killed, and after the supervisor was killed and started again."""
    server = serve(LMX_SUPERVISION__RESTART_INITIAL_SECONDS="0.05")
    server.load(server.script("m"), performance_overrides=OVERRIDES)
    seen = [in_force(server, "m")]

    server.expected_crashes.append(("external", 1))
    pid = server.worker("m")["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: server.worker("m")["pid"] not in (pid, None), 30, "another worker")
    server.wait_for_state("m", "ready")
    seen.append(in_force(server, "m"))

    server.kill()
    server.start()
    server.wait_for_state("m", "ready")
    seen.append(in_force(server, "m"))

    assert seen == [(OVERRIDES, 2, 1024, 3)] * 3


def test_what_no_backend_of_the_model_can_do_is_refused_by_name(serve: Serve) -> None:
    """Only llama.cpp keeps keys and values at fewer bits; the same settings without it load."""
    server = serve()
    order = {"model_id": server.script("m"), "performance_overrides": {"kv_bits": 8, "slots": 2}}
    refused = server.http.post("/admin/models/load", json=order)

    assert (400, "not_supported") == (refused.status_code, refused.json()["error"]["code"])
    assert "performance_overrides.kv_bits" == refused.json()["error"]["param"]
    server.load("m", performance_overrides={"kv_bits": 16, "slots": 2})
    assert {"kv_bits": 16, "slots": 2} == performance(server, "m")["performance"]


@pytest.mark.real
def test_llamacpp_obeys_every_setting_of_a_load(serve: Serve) -> None:
    """Quantized keys and values answer as well; without the prefix cache nothing of an equal prompt is reused, with it is."""
    server = serve("--demo")
    model = "smollm2-135m-instruct"
    server.wait_for_state(model, "ready", seconds=60)
    question = "What is the capital of France? Answer in one sentence."

    def cached() -> list[int]:
        usages = [server.chat(model, question, temperature=0).json()["usage"] for _ in range(2)]
        return [usage["prompt_tokens_details"]["cached_tokens"] for usage in usages]

    assert cached()[1] > 0
    full_bytes = server.worker(model)["reserved_bytes"]
    server.http.post("/admin/models/unload", json={"model_id": model})
    tuned = {"kv_bits": 8, "prefix_cache": False, "threads": 1, "prefill_chunk_tokens": 32, "slots": 4}
    server.load(model, performance_overrides=tuned)

    assert cached() == [0, 0]
    assert "Paris" in server.chat(model, question, temperature=0).json()["choices"][0]["message"]["content"]
    assert server.worker(model)["reserved_bytes"] < full_bytes
