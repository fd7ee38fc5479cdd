"""A: a worker dies while it serves. Its own clients are told the truth, the model comes back, and nobody else notices."""

import os
import time

import psutil
import pytest

from tests.fault.acts import (
    CRASH_DETECTION_SECONDS,
    LONG,
    NO_END_OF_DEMO_MODEL,
    SHORT_ANSWER,
    WARM_RESTART_SECONDS,
    Deathwatch,
    chat_text,
    ended_as_lost,
    error_code,
    signal_worker,
    stream_until,
    talker,
    wait_for_warm_spare,
)
from tests.fault.crowd import Crowd
from tests.support.crash_bundles import wait_for_bundle
from tests.support.live import LiveServer, wait_until
from tests.support.server_log import told, wait_told
from tests.support.world import World

METAL_OOM = (
    "[METAL] Command buffer execution failed: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
)


@pytest.mark.fault("F01", "its stream ends with an error and no [DONE]; the model is back by itself at once")
def test_f01_kill_9_in_mid_stream(world: World) -> None:
    """Death is known within 50 ms, and the model is READY again within 1.5 s from its warm spare (ADR 0004: no first delay)."""
    server = world.serve()
    victim = talker(server)
    with world.bystander():
        wait_for_warm_spare(server)
        killed: list[float] = []
        payloads = stream_until(server, victim, LONG, 6, lambda: killed.append(signal_worker(server, victim)))
        exited = wait_told(server, "worker_exited", model_id=victim)
        back = wait_told(server, "model_loaded", model_id=victim, count=2)

        assert ended_as_lost(payloads)
        assert exited.fields["reason"] == "oom_suspected"
        assert chat_text(server, victim) == SHORT_ANSWER
        assert server.worker(victim)["restarts"] == 1
    world.measure("crash detection", exited.at_unix_seconds - killed[0], "s", CRASH_DETECTION_SECONDS)
    world.measure("restart to READY, scripted", back.at_unix_seconds - killed[0], "s", WARM_RESTART_SECONDS)
    world.expect_crash("oom_suspected")


@pytest.mark.real
@pytest.mark.fault("F01", "the demo model is READY again at once after kill -9")
def test_f01_kill_9_of_the_demo_model(world: World) -> None:
    """With real weights the warm spare makes the restart as short as the load itself."""
    server = world.serve("--demo")
    model = "smollm2-135m-instruct"
    server.wait_for_state(model, "ready", seconds=60)
    wait_for_warm_spare(server)
    killed: list[float] = []
    with Deathwatch(server.worker(model)["pid"]) as death:
        payloads = stream_until(
            server,
            model,
            "Count to one hundred.",
            5,
            lambda: killed.append(signal_worker(server, model)),
            max_tokens=400,
            logit_bias=NO_END_OF_DEMO_MODEL,
        )
    exited = wait_told(server, "worker_exited", model_id=model)
    back = wait_told(server, "model_loaded", model_id=model, count=2)

    world.expect_crash("oom_suspected")
    assert ended_as_lost(payloads)
    # The kernel first takes the weights out of memory, on a busy machine for a tenth of a second; only then is it a death.
    world.measure("kill to death, demo model", death.at_unix_seconds - killed[0], "s")
    world.measure(
        "crash detection, demo model", max(0.0, exited.at_unix_seconds - death.at_unix_seconds), "s", CRASH_DETECTION_SECONDS
    )
    world.measure("restart to READY, demo model", back.at_unix_seconds - killed[0], "s", WARM_RESTART_SECONDS)


@pytest.mark.fault("F02", "a request without a token yet is replayed once and succeeds")
def test_f02_kill_9_before_the_first_token(world: World) -> None:
    """The client gets its whole answer from the next worker and notices nothing but time."""
    server = world.serve()
    victim = talker(server, faults='{when: request, contains: "fragile", do: kill, lives: 1}')
    with world.bystander():
        assert chat_text(server, victim, "fragile") == SHORT_ANSWER
    assert len(told(server, "request_replayed", model_id=victim)) == 1
    world.expect_crash("oom_suspected")


@pytest.mark.fault("F02", "a second death ends it with 503 worker_lost")
def test_f02_killed_again_during_the_replay(world: World) -> None:
    """One replay is all: the client is told, and when to come back."""
    server = world.serve()
    victim = talker(server, faults='{when: request, contains: "fragile", do: kill}')
    with world.bystander():
        answer = server.chat(victim, "fragile")

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "worker_lost")
    assert answer.headers["retry-after"]
    world.expect_crash("oom_suspected", count=2)


@pytest.mark.fault("F03", "as F01, and the stacks are kept")
def test_f03_segfault_on_the_nth_token(world: World) -> None:
    """The crash is called native, and the bundle says on which Python line."""
    server = world.serve()
    victim = talker(server, faults='{when: token, number: 5, contains: "crash", do: segfault, lives: 1}')
    with world.bystander():
        payloads = list(server.stream(victim, f"{LONG} and crash"))
        server.wait_for_state(victim, "ready")
        assert chat_text(server, victim) == SHORT_ANSWER
    summary, directory = wait_for_bundle(server, "native_crash")

    assert ended_as_lost(payloads)
    assert summary["model_id"] == victim
    assert "process_faults.py" in (directory / "stack.txt").read_text()
    world.expect_crash("native_crash")


@pytest.mark.fault("F04", "the second out-of-memory of the GPU halves the context, the third in a row is quarantine")
def test_f04_metal_out_of_memory(world: World) -> None:
    """The context that is served is told in GET /admin/models, and after the third abort requests get 409."""
    server = world.serve(LMX_SUPERVISION__RESTART_INITIAL_SECONDS="0.1")
    victim = talker(server, faults=f'{{when: token, number: 2, contains: "much", do: abort, line: "{METAL_OOM}"}}')
    contexts = []
    with world.bystander():
        for number in range(3):
            contexts.append(_context_length(server, victim))
            assert ended_as_lost(list(server.stream(victim, f"{LONG}, that much: {number}")))
            server.wait_for_state(victim, "ready", "quarantined")

    assert contexts == [4096, 4096, 2048]
    assert len(told(server, "model_stepped_down", model_id=victim)) == 1
    assert server.chat(victim).json()["error"]["code"] == "model_unstable"
    world.expect_crash("gpu_oom", count=3)


@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize("deed", ["exit", "sys_exit"])
@pytest.mark.fault("F08", "an exit nobody asked for is a crash: its requests fail, none hangs")
def test_f08_the_worker_leaves_by_itself(world: World, deed: str, code: int) -> None:
    """Even exit code 0 is no success when nobody said stop."""
    server = world.serve()
    victim = talker(server, faults=f'{{when: token, number: 4, contains: "leave", lives: 1, do: {deed}, code: {code}}}')
    with world.bystander():
        payloads = list(server.stream(victim, f"{LONG}, then leave"))
        server.wait_for_state(victim, "ready")
        assert chat_text(server, victim) == SHORT_ANSWER

    assert ended_as_lost(payloads)
    world.expect_crash("unexpected_exit")


@pytest.mark.fault("F09", "the request gets 500 generation_error; the worker survives and serves the next")
def test_f09_an_uncaught_exception_in_a_generation(world: World) -> None:
    """Before the first token it is a status, after it an event in the stream; the process is the same before and after."""
    server = world.serve()
    victim = talker(
        server,
        faults='{when: token, number: 1, contains: "early", do: raise, line: "boom"},'
        '{when: token, number: 5, contains: "late", do: raise, line: "boom"}',
    )
    pid = server.worker(victim)["pid"]
    with world.bystander():
        early = server.chat(victim, "early")
        late = list(server.stream(victim, f"{LONG}, late"))
        assert chat_text(server, victim) == SHORT_ANSWER

    assert (early.status_code, early.json()["error"]["code"]) == (500, "generation_error")
    assert (error_code(late), "[DONE]" in late) == ("generation_error", False)
    assert server.worker(victim)["pid"] == pid


@pytest.mark.fault("F13", "the running ones are told, the waiting ones are answered by the next worker")
def test_f13_death_with_32_running_and_64_waiting(world: World) -> None:
    """Nobody who had no text yet loses anything, and nobody is answered twice."""
    server = world.serve(LMX_MODELS__SLOTS="32")
    # Nobody's answer is over before all others wait, however long 64 clients take to come.
    endless = f'{{contains: "{LONG}", pieces: ["on "], tokens: 1000000, token_seconds: 0.02}}'
    victim = server.script("victim", f"answers: [{endless}, {{pieces: ['{SHORT_ANSWER}']}}]")
    server.load(victim)
    with world.bystander(), Crowd(server, victim) as crowd:
        crowd.start(32, lambda number: f"{LONG}, speaker {number}")
        crowd.wait_until_all_speak()
        crowd.start(64, lambda number: f"short, number {number}")
        wait_until(lambda: server.worker(victim)["requests_waiting"] == 64, 10.0, "64 requests to wait")
        signal_worker(server, victim)
        running, waiting = crowd.ends()[:32], crowd.ends()[32:]

    assert all(ended_as_lost(payloads) for payloads in running)
    assert [error_code(payloads) for payloads in waiting] == [None] * 64
    world.expect_crash("oom_suspected")


@pytest.mark.parametrize("token", [0, 3])
@pytest.mark.fault("F14", "a request in flight at two crashes is refused with 422; the model stays for the others")
def test_f14_a_request_that_kills_every_worker_it_meets(world: World, token: int) -> None:
    """Before the first token its replay is the second crash; after it, its second try is."""
    server = world.serve(LMX_SUPERVISION__RESTART_INITIAL_SECONDS="0.1")
    moment = "when: request" if token == 0 else f"when: token, number: {token}"
    victim = talker(server, faults=f'{{{moment}, contains: "poison", do: segfault}}')
    with world.bystander():
        for _ in range(1 if token == 0 else 2):
            if token == 0:
                assert server.chat(victim, "poison").status_code == 503
            else:
                assert ended_as_lost(list(server.stream(victim, f"{LONG}, poison")))
            server.wait_for_state(victim, "ready")
            assert chat_text(server, victim) == SHORT_ANSWER
        refused = server.chat(victim, "poison" if token == 0 else f"{LONG}, poison")
        assert chat_text(server, victim) == SHORT_ANSWER

    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "request_crashes_model")
    world.expect_crash("native_crash", count=2)


@pytest.mark.parametrize("end", ["crash", "stop"])
@pytest.mark.fault("F16", "what a worker started goes with it")
def test_f16_the_worker_leaves_children_behind(world: World, end: str) -> None:
    """A helper that was forked twice has no parent any more; the kill of the process group finds it all the same."""
    server = world.serve()
    victim = talker(server, faults='{when: request, contains: "spawn", do: helper}')
    assert chat_text(server, victim, "spawn") == SHORT_ANSWER
    workers = {process.pid: process for process in server.remember_workers()}
    group = workers[server.worker(victim)["pid"]].pid
    assert len(_members(group)) == 2
    if end == "crash":
        signal_worker(server, victim)
        world.expect_crash("oom_suspected")
    else:
        server.http.post("/admin/models/unload", json={"model_id": victim})
    began = time.monotonic()
    wait_until(lambda: not _members(group), 2.0, "the process group to be empty")
    world.measure(f"{end} to no process left", time.monotonic() - began, "s", 2.0)


def _context_length(server: LiveServer, model_id: str) -> int:
    loaded = server.http.get("/admin/models").json()["loaded"]
    return next(int(model["context_length"]) for model in loaded if model["id"] == model_id)


def _members(group: int) -> list[int]:
    members = []
    for pid in psutil.pids():
        try:
            if os.getpgid(pid) == group and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                members.append(pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return members
