"""F. Unloading that races with requests and loads: F67 (idleness), F68 (an eviction for a load that then fails)."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.fault.acts import chat_text
from tests.support.live import LiveServer, wait_until
from tests.support.world import World

SEED = 20_067
GIB = 1024**3
KEEP_ALIVE_SECONDS = 1
ROUNDS = 8
LEAVING_SECONDS = 1.0
SERVED_AGAIN_SECONDS = 15.0
REFUSED_SECONDS = 15.0
ANSWER = "here I am"
QUIET = f"answers: [{{pieces: ['{ANSWER}']}}]"
SLOW_TO_LEAVE = f"{QUIET}\nfaults: [{{when: shutdown, do: stall, seconds: {LEAVING_SECONDS}}}]"
LARGE_SHARE = 0.6
"""Of what is free: one such model fits, two do not, whatever else the machine does meanwhile."""


def load_idling(server: LiveServer, model_id: str, script: str) -> int:
    """Load a model that may be idle for a second; returns the pid of its worker."""
    server.script(model_id, script)
    server.load(model_id, keep_alive_sec=KEEP_ALIVE_SECONDS)
    return int(server.worker(model_id)["pid"])


@pytest.mark.fault("F67", "An unload for idleness never loses a new request.")
def test_f67_a_request_while_the_model_leaves(world: World) -> None:
    """The request comes while the worker is on its way out: it waits for a fresh one, and is answered by that."""
    server = world.serve()
    old_pid = load_idling(server, "idler", SLOW_TO_LEAVE)
    server.wait_for_state("idler", "draining")
    began = time.monotonic()
    assert chat_text(server, "idler") == ANSWER
    world.measure("request to answer, over a fresh start", time.monotonic() - began, "s", SERVED_AGAIN_SECONDS)

    assert server.worker("idler")["pid"] != old_pid


@pytest.mark.fault("F67", "An unload for idleness never loses a new request.")
def test_f67_requests_around_the_very_moment(world: World) -> None:
    """Asked again and again when the time is just about up: served, or told that the model is gone when it is; never parked."""
    server = world.serve()
    load_idling(server, "idler", QUIET)
    moments = random.Random(SEED)
    longest_seconds, served = 0.0, 0
    for _ in range(ROUNDS):
        time.sleep(KEEP_ALIVE_SECONDS + moments.uniform(-0.1, 0.5))
        began = time.monotonic()
        response = server.chat("idler")
        longest_seconds = max(longest_seconds, time.monotonic() - began)
        if response.status_code == 404:
            # It had left before the request came: nothing was promised.
            assert response.json()["error"]["code"] == "model_not_found"
            server.load("idler", keep_alive_sec=KEEP_ALIVE_SECONDS)
        else:
            assert response.status_code == 200, response.text
            served += 1
    world.measure("longest answer", longest_seconds, "s", SERVED_AGAIN_SECONDS)
    world.measure("served", served, f"of {ROUNDS}")


def free_bytes(server: LiveServer) -> int:
    """What a load may still reserve."""
    return int(server.http.get("/admin/memory").json()["budget"]["free_gb"] * GIB)


def large_models(world: World, load_of_b: str) -> tuple[LiveServer, int]:
    """A server with model `a` loaded, and `b` on disk, which only fits when `a` has left; and the pid of `a`."""
    server = world.serve()
    size_bytes = int(free_bytes(server) * LARGE_SHARE)
    server.script("a", f"{SLOW_TO_LEAVE}\nload: {{bytes: {size_bytes}}}")
    server.script("b", f"{QUIET}\nload: {{bytes: {size_bytes}, {load_of_b}}}")
    server.load("a")
    return server, int(server.worker("a")["pid"])


def ask_while_it_leaves(server: LiveServer) -> tuple[httpx.Response, httpx.Response]:
    """Order `b`, and ask `a` as soon as it is on its way out; the answers to the load and to the request."""

    def order() -> httpx.Response:
        return server.http.post("/admin/models/load", json={"model_id": "b"})

    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(order)
        wait_until(lambda: server.worker("a").get("evicted_for") == "b", 10.0, "a to make room")
        answer = server.chat("a")
        return loading.result(), answer


def models_in_memory(server: LiveServer) -> dict[str, Any]:
    """Who holds or awaits memory."""
    return dict(server.http.get("/admin/memory").json()["models"])


@pytest.mark.fault("F68", "An eviction for a load that then fails is undone.")
def test_f68_eviction_for_a_load_that_fails(world: World) -> None:
    """The evicted model is loaded again by itself, and answers the request that came while it left; nobody waits for ever."""
    server, old_pid = large_models(world, "seconds: 1, fail: model_probe_failed")
    world.expect_crash("bad_model")
    began = time.monotonic()
    load, answer = ask_while_it_leaves(server)
    world.measure("eviction to answer", time.monotonic() - began, "s", SERVED_AGAIN_SECONDS)

    assert (load.status_code, load.json()["error"]["code"]) == (409, "model_probe_failed")
    assert (answer.status_code, answer.json()["choices"][0]["message"]["content"]) == (200, ANSWER)
    assert server.worker("a")["pid"] != old_pid
    assert set(models_in_memory(server)) == {"a"}


@pytest.mark.fault("F68", "An eviction for a load that then fails is undone.")
def test_f68_eviction_for_a_load_that_succeeds(world: World) -> None:
    """Then the request for the evicted model is refused, with the reason, as soon as that is certain."""
    server, _ = large_models(world, "seconds: 0.5")
    began = time.monotonic()
    load, answer = ask_while_it_leaves(server)
    world.measure("eviction to refusal", time.monotonic() - began, "s", REFUSED_SECONDS)

    assert load.status_code == 200, load.text
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "to make room for 'b'" in answer.json()["error"]["message"]
    assert set(models_in_memory(server)) == {"b"}
