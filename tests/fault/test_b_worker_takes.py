"""B: a worker takes more than it may: memory, time to stop, room in the log."""

import os
import threading
import time

import psutil
import pytest

from lmx_protocol import limits
from tests.fault.acts import LONG, SHORT_ANSWER, chat_text, ended_as_lost, signal_worker, talker
from tests.support.crash_bundles import wait_for_bundle
from tests.support.live import LiveServer, text_of, wait_until
from tests.support.server_log import told, wait_told
from tests.support.world import World

FULL = os.environ.get("LMX_FAULTS_FULL") == "1"
STOP_GRACE_SECONDS = limits.STOP_GRACE_SECONDS if FULL else 1.5

WORKER_BYTES_MAX = 400 * 1024**2
LEAK_BYTES_PER_SECOND = 100 * 1024**2
OVERSHOOT_SECONDS = 1.0
"""Of leaking between two looks: a heartbeat and a tick here, and the machine's own delays."""

FLOOD_BYTES = 100 * 1024**2
SUPERVISOR_GROWTH_BYTES = 64 * 1024**2
LOG_GROWTH_BYTES = 1024**2

LEAK = f'{{when: request, contains: "leak", do: leak, bytes: 2000000000, bytes_per_second: {LEAK_BYTES_PER_SECOND}}}'


def watched_server(world: World) -> LiveServer:
    """A server whose workers may cost 400 MiB and tell five times a second what they do."""
    return world.serve(
        LMX_SUPERVISION__WORKER_MEMORY_BYTES_MAX=str(WORKER_BYTES_MAX), LMX_SUPERVISION__BEAT_INTERVAL_SECONDS="0.2"
    )


@pytest.mark.fault("F28", "warned at 85 % of its budget, replaced in order at 95 %")
def test_f28_a_leak_in_an_idle_worker(world: World) -> None:
    """100 MiB/s against 400 MiB: nobody loses a request, and the next worker serves."""
    server = watched_server(world)
    victim = talker(server, faults=LEAK)
    with world.bystander():
        assert chat_text(server, victim, "leak") == SHORT_ANSWER
        exited = wait_told(server, "worker_exited", model_id=victim)
        server.wait_for_state(victim, "ready")
        assert chat_text(server, victim) == SHORT_ANSWER
    marks = [line.fields["mark"] for line in told(server, "worker_memory", model_id=victim)]
    _measure_peak(world, server, victim)

    assert marks[0] == "soft"
    assert exited.fields["reason"] == "memory_exceeded"
    assert exited.fields["code"] == 0
    world.expect_crash("memory_exceeded")


@pytest.mark.fault("F28", "killed at the limit of its budget when its requests do not end before")
def test_f28_a_leak_under_a_long_stream(world: World) -> None:
    """The stream is told; a request that came in the meantime waits for the next worker and is answered by it."""
    server = watched_server(world)
    server.script(
        "victim",
        f"answers: [{{contains: leak, pieces: ['drip '], tokens: 3000, token_seconds: 0.02}}, {{pieces: ['fine']}}]\n"
        f"faults: [{LEAK}]",
    )
    server.load("victim")
    late: list[str] = []
    with world.bystander():
        asker = threading.Thread(target=lambda: late.append(_ask_when_marked(server)))
        asker.start()
        payloads = list(server.stream("victim", "leak at length"))
        asker.join()
    exited = wait_told(server, "worker_exited", model_id="victim")
    _measure_peak(world, server, "victim")

    assert ended_as_lost(payloads)
    assert exited.fields["reason"] == "memory_exceeded"
    assert late == ["fine"]
    world.expect_crash("memory_exceeded")


@pytest.mark.fault("F29", "SIGKILL after the grace")
def test_f29_a_worker_that_ignores_every_request_to_stop(world: World) -> None:
    """Neither Shutdown nor SIGTERM moves it; the unload succeeds all the same and the model can be loaded again."""
    server = world.serve(LMX_SUPERVISION__STOP_GRACE_SECONDS=str(STOP_GRACE_SECONDS))
    victim = talker(server, faults="{when: shutdown, do: ignore_shutdown, lives: 1}")
    with world.bystander():
        began = time.monotonic()
        unloaded = server.http.post("/admin/models/unload", json={"model_id": victim})
        seconds = time.monotonic() - began
        server.load(victim)
        assert chat_text(server, victim) == SHORT_ANSWER
    world.measure("stop asked to killed", seconds, "s", STOP_GRACE_SECONDS + 1.0)

    assert unloaded.status_code == 200
    assert seconds >= STOP_GRACE_SECONDS
    assert wait_told(server, "worker_exited", model_id=victim).fields["reason"] == "stop_timeout"
    world.expect_crash("stop_timeout")


@pytest.mark.parametrize(
    ("stream", "shape"), [("stdout", "lines"), ("stderr", "lines"), ("stderr", "one_line"), ("stdout", "binary")]
)
@pytest.mark.fault("F30", "neither it nor anybody else stalls, and neither memory nor log grows with it")
def test_f30_a_flood_of_output(world: World, stream: str, shape: str) -> None:
    """100 MiB while the same worker streams: the text is whole, and the last 64 KiB are there when it dies."""
    server = world.serve()
    victim = talker(
        server,
        faults=f'{{when: request, contains: "flood", do: flood, stream: {stream}, shape: {shape}, bytes: {FLOOD_BYTES}}}',
    )
    undisturbed = text_of(list(server.stream(victim, LONG)))
    worker = psutil.Process(server.worker(victim)["pid"])
    supervisor = psutil.Process(server.pid)
    before_bytes, log_before_bytes = supervisor.memory_info().rss, server.log_path.stat().st_size
    with world.bystander():
        began = time.monotonic()
        assert text_of(list(server.stream(victim, f"{LONG} and flood"))) == undisturbed
        wait_until(lambda: worker.io_counters().write_chars >= FLOOD_BYTES, 30.0, "the flood to end")
        world.measure(f"100 MiB of {shape} swallowed in", time.monotonic() - began, "s", 30.0)
    growth_bytes = supervisor.memory_info().rss - before_bytes
    world.measure("growth of the supervisor", growth_bytes / 1024**2, "MiB", SUPERVISOR_GROWTH_BYTES / 1024**2)

    assert server.log_path.stat().st_size - log_before_bytes < LOG_GROWTH_BYTES
    signal_worker(server, victim)
    world.expect_crash("oom_suspected")
    _, bundle = wait_for_bundle(server, "oom_suspected")
    assert 0 < (bundle / "stderr.txt").stat().st_size <= 3 * limits.STDERR_TAIL_BYTES


def _ask_when_marked(server: LiveServer) -> str:
    wait_told(server, "worker_memory", model_id="victim")
    return chat_text(server, "victim", "late")


def _measure_peak(world: World, server: LiveServer, model_id: str) -> None:
    peak_bytes = max(line.fields["memory_bytes"] for line in told(server, "worker_memory", model_id=model_id))
    bound_bytes = WORKER_BYTES_MAX + LEAK_BYTES_PER_SECOND * OVERSHOOT_SECONDS
    world.measure("largest footprint of the leaking worker", peak_bytes / 1024**2, "MiB", bound_bytes / 1024**2)
