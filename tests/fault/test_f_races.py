"""F. Two things at the same moment, and keys that do not fit: F69-F71, F74. F72 is the kill soak, F73 downloads."""

import asyncio
import contextlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import zmq
import zmq.asyncio

from lmx_protocol import limits
from lmx_protocol.codec import decode_from_worker, encode
from lmx_protocol.messages import FromWorker, Hello
from lmx_protocol.version import PROTOCOL_VERSION
from lmx_supervisor.runtime.link import KeyPair, Link
from tests.support.live import LiveServer, wait_until
from tests.support.wire import Wire, chat_request
from tests.support.worker_harness import WorkerHarness, connect
from tests.support.world import World

FREE_SECONDS = limits.CANCEL_ACK_SECONDS
SEED = 20_069
RACES = 300
TOGETHER = 8
BRIEF = "answers: [{pieces: ['a ', 'b ', 'c ', 'd ', 'e '], token_seconds: 0.01}]"
BRIEF_SECONDS = 0.05
SLOW = "answers: [{pieces: ['tick ', 'tock '], tokens: 2000, token_seconds: 0.02}]"
TORRENT = f"answers: [{{pieces: ['{'x' * 4000}'], tokens: 4000}}]"
RESTARTS_WITHOUT_END = {
    "LMX_SUPERVISION__QUARANTINE_THRESHOLD": "100",
    "LMX_SUPERVISION__RESTART_MAX_IN_WINDOW": "100",
    "LMX_SUPERVISION__RESTART_INITIAL_SECONDS": "0.1",
    "LMX_SUPERVISION__RESTART_MAX_SECONDS": "0.1",
}


def serve_model(server: LiveServer, model_id: str, script: str) -> int:
    """Load a scripted model; returns the pid of its worker."""
    server.script(model_id, script)
    server.load(model_id)
    return int(server.worker(model_id)["pid"])


def seconds_until_free(world: World, server: LiveServer) -> None:
    """Every place must be free, soon: nothing runs and nothing waits."""

    def is_free() -> bool:
        status = server.http.get("/admin/status").json()
        return status["in_flight_requests"] == status["waiting_requests"] == 0

    started = time.monotonic()
    wait_until(is_free, FREE_SECONDS + 5.0, "every request to end")
    world.measure("left to free", time.monotonic() - started, "s", FREE_SECONDS)


# --- F69 ----------------------------------------------------------------------------------------------------------------------


async def _ask_and_leave(server: LiveServer, number: int, stay_seconds: float, places: asyncio.Semaphore) -> bytes:
    """Ask for a stream and leave after so long; what came until then."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    body = server.chat_body("brief", f"race {number}", stream=True)
    heard = b""
    async with places:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(chat_request(body, Connection="close"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(stay_seconds):
                while data := await reader.read(65536):
                    heard += data
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return heard


@pytest.mark.fault(
    "F69", "A request that is cancelled while it ends, while its worker dies or without credit ends exactly once."
)
def test_f69_cancel_against_the_end(world: World) -> None:
    """Clients leave around the very moment of the last token: no stream has two ends, the worker breaks no rule."""
    server = world.serve()
    pid = serve_model(server, "brief", BRIEF)
    moments = random.Random(SEED)

    async def race() -> list[bytes]:
        places = asyncio.Semaphore(TOGETHER)
        stays = [moments.uniform(0.2, 2.0) * BRIEF_SECONDS for _ in range(RACES)]
        return await asyncio.gather(*(_ask_and_leave(server, number, stay, places) for number, stay in enumerate(stays)))

    heard = asyncio.run(race())
    seconds_until_free(world, server)
    world.measure("left before the end", sum(b"[DONE]" not in answer for answer in heard), f"of {RACES}")

    assert all(answer.count(b"[DONE]") + answer.count(b'"error"') <= 1 for answer in heard)
    assert 0 < sum(b"[DONE]" in answer for answer in heard) < RACES, "the race was none: move the moments"
    worker = server.worker("brief")
    assert (worker["pid"], worker["restarts"]) == (pid, 0)


@pytest.mark.fault(
    "F69", "A request that is cancelled while it ends, while its worker dies or without credit ends exactly once."
)
def test_f69_cancel_against_death(world: World) -> None:
    """Clients leave before, while and after their worker is killed: counters at zero each time, nobody replayed for nobody."""
    rounds, clients = 5, 8
    server = world.serve(**RESTARTS_WITHOUT_END)
    serve_model(server, "slow", SLOW)
    world.expect_crash("oom_suspected", rounds)
    moments = random.Random(SEED)
    for number in range(rounds):
        wires = [Wire(server.url) for _ in range(clients)]
        for client, wire in enumerate(wires):
            wire.send(chat_request(server.chat_body("slow", f"round {number} of client {client}", stream=True)))
        # Half of them have had text and are lost with the worker, half may still be replayed.
        for wire in wires[: clients // 2]:
            wire.read_until(b"tick")
        pid = server.worker("slow")["pid"]
        deeds: list[Callable[[], None]] = [*(wire.reset for wire in wires), lambda pid=pid: os.kill(pid, signal.SIGKILL)]
        moments.shuffle(deeds)
        for deed in deeds:
            deed()
        seconds_until_free(world, server)
        wait_until(lambda pid=pid: server.worker("slow")["pid"] not in (None, pid), 10.0, "a new worker")
        server.wait_for_state("slow", "ready")

    assert server.worker("slow")["restarts"] == rounds


@pytest.mark.fault(
    "F69", "A request that is cancelled while it ends, while its worker dies or without credit ends exactly once."
)
def test_f69_cancel_against_credit(world: World) -> None:
    """A client that reads nothing leaves while its worker waits for credit: the worker hears of it all the same."""
    server = world.serve()
    pid = serve_model(server, "torrent", TORRENT)
    for _ in range(3):
        wire = Wire(server.url, receive_buffer_bytes=4096)
        wire.send(chat_request(server.chat_body("torrent", "go", stream=True, max_tokens=4000)))
        wire.read_until(b"\r\n\r\n")
        _wait_for_standstill(server)
        wire.reset()
        seconds_until_free(world, server)

    worker = server.worker("torrent")
    assert (worker["pid"], worker["restarts"]) == (pid, 0)


def _wait_for_standstill(server: LiveServer) -> None:
    """The worker runs a request and no token comes any more: it is out of credit."""
    seen: list[int] = []

    def stands_still() -> bool:
        worker = server.worker("torrent")
        seen.append(worker["tokens_total"])
        return bool(worker["requests_active"]) and seen[-1] > 0 and len(set(seen[-10:])) == 1 and len(seen) >= 10

    wait_until(stands_still, 20.0, "the worker to run out of credit")


# --- F70 ----------------------------------------------------------------------------------------------------------------------

LATE = "load: {seconds: 5}\nanswers: [{pieces: ['late but well']}]"


def _order(server: LiveServer, model_id: str) -> tuple[threading.Thread, list[httpx.Response]]:
    """A load in the background; its answer comes into the list."""
    answers: list[httpx.Response] = []

    def order() -> None:
        with httpx.Client(base_url=server.url, timeout=60.0) as http:
            answers.append(http.post("/admin/models/load", json={"model_id": model_id}))

    thread = threading.Thread(target=order)
    thread.start()
    server.wait_for_state(model_id, "loading")
    return thread, answers


@pytest.mark.fault(
    "F70", "A reload of the configuration, or an upgrade, during a load leaves the load whole or cancels it cleanly."
)
def test_f70_reload_during_a_load(world: World) -> None:
    """A good and a bad reload while a model loads: the same worker finishes its load and serves."""
    server = world.prepare()
    settings = server.home / "config.yaml"
    settings.write_text("models: {queue_per_model: 10}\n")
    server.start()
    server.script("late", LATE)
    thread, answers = _order(server, "late")
    pid = server.worker("late")["pid"]
    settings.write_text("models: {queue_per_model: 20}\n")
    good = server.http.post("/admin/config/reload")
    settings.write_text("models: {queue_per_modle: 30}\n")
    bad = server.http.post("/admin/config/reload")
    assert server.worker("late")["state"] == "loading", "the load was over before the reload"
    thread.join()

    assert (good.status_code, bad.status_code) == (200, 400), (good.text, bad.text)
    assert "models.queue_per_model" in json.dumps(good.json()["updated"])
    assert answers[0].status_code == 200
    assert server.worker("late")["pid"] == pid
    assert server.chat("late").json()["choices"][0]["message"]["content"] == "late but well"


@pytest.mark.fault(
    "F70", "A reload of the configuration, or an upgrade, during a load leaves the load whole or cancels it cleanly."
)
def test_f70_upgrade_during_a_load(world: World) -> None:
    """The model's file is replaced while it loads, unloaded and loaded again: the first caller is told, the second served."""
    server = world.serve()
    server.script("late", LATE)
    thread, answers = _order(server, "late")
    server.script("late", "answers: [{pieces: ['upgraded']}]")
    unloaded = server.http.post("/admin/models/unload", json={"model_id": "late"})
    server.load("late")
    thread.join()

    assert unloaded.status_code == 200
    assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (409, "model_load_cancelled")
    assert server.chat("late").json()["choices"][0]["message"]["content"] == "upgraded"
    assert server.worker("late")["consecutive_failures"] == 0


# --- F71 ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.fault(
    "F71", "Models that crash together, or while another waits to restart, are restarted each by its own policy."
)
def test_f71_crashes_together(world: World) -> None:
    """Two are killed in the same instant while a third is in backoff: both are back before it, and it keeps its own time."""
    backoff_seconds = 4.0
    server = world.serve(
        LMX_SUPERVISION__RESTART_INITIAL_SECONDS=str(backoff_seconds), LMX_SUPERVISION__RESTART_JITTER_RATIO="0"
    )
    for name in ("third", "first", "second"):
        serve_model(server, name, "answers: [{pieces: ['fine']}]")
    world.expect_crash("oom_suspected", 4)
    with world.bystander():
        os.kill(server.worker("third")["pid"], signal.SIGKILL)
        wait_until(lambda: server.worker("third")["restarts"] == 1, 10.0, "the third to be restarted")
        server.wait_for_state("third", "ready")
        os.kill(server.worker("third")["pid"], signal.SIGKILL)
        server.wait_for_state("third", "backoff")
        waits_since = time.monotonic()
        pids = [server.worker(name)["pid"] for name in ("first", "second")]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for name in ("first", "second"):
            wait_until(lambda name=name: server.worker(name)["restarts"] == 1, 10.0, f"the {name} to be restarted")
            server.wait_for_state(name, "ready")
        world.measure("two killed at once, both ready", time.monotonic() - waits_since, "s", backoff_seconds)
        assert server.worker("third")["state"] == "backoff"
        server.wait_for_state("third", "ready")
        world.measure("the third, back from its backoff", time.monotonic() - waits_since, "s", backoff_seconds + 2.0)

    restarts = {name: server.worker(name)["restarts"] for name in ("first", "second", "third")}
    assert restarts == {"first": 1, "second": 1, "third": 2}
    assert all(server.chat(name).status_code == 200 for name in restarts)


# --- F74 ----------------------------------------------------------------------------------------------------------------------

_HANDSHAKE_FAILURES = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
FAILURES_WANTED = 3


@pytest.mark.fault("F74", "A peer with a wrong or an old key is not admitted, on either side of a worker's socket.")
def test_f74_worker_admits_only_its_supervisor(world: World) -> None:
    """A client with any other key is refused by the worker, whichever it is, and hears nothing; the one with the key does."""
    public, secret = zmq.curve_keypair()
    with WorkerHarness(admitted_key=public) as worker, zmq.Context() as context:
        refused = 0
        for _ in range(FAILURES_WANTED):
            with connect(context, worker.spec, *zmq.curve_keypair()) as stranger:
                monitor = stranger.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
                refused += monitor.poll(10_000) != 0
                assert not stranger.poll(0), "a stranger was spoken to"
                stranger.disable_monitor()
                monitor.close(linger=0)
        assert worker.receive(within_seconds=0) is None, "the harness's own key is a stranger's too"
        with connect(context, worker.spec, public, secret) as supervisor:
            assert supervisor.poll(10_000), "the admitted key hears nothing"
            assert isinstance(decode_from_worker(supervisor.recv()), Hello)
    world.measure("refusals counted", refused, "")

    assert refused == FAILURES_WANTED


@pytest.mark.fault("F74", "A peer with a wrong or an old key is not admitted, on either side of a worker's socket.")
async def test_f74_supervisor_hears_only_the_worker_it_started(world: World, tmp_path: Path) -> None:
    """A worker of an earlier incarnation, with its old key, sits on the new endpoint: not one of its messages is heard."""
    old, new, ours = KeyPair.fresh(), KeyPair.fresh(), KeyPair.fresh()
    heard: list[FromWorker] = []
    arrived = asyncio.Event()

    def hear(message: FromWorker) -> None:
        heard.append(message)
        arrived.set()

    context = zmq.asyncio.Context()
    endpoint = f"ipc://{tmp_path}/s"
    assert len(endpoint) <= limits.IPC_PATH_BYTES_MAX + len("ipc://"), "the path of this test's directory is too long"
    replayed = _bind(context, endpoint, old)
    link = Link(context, endpoint, own_keys=ours, worker_public_key=new.public, on_message=hear, on_violation=heard.append)
    try:
        monitor = replayed.get_monitor_socket(_HANDSHAKE_FAILURES)
        await _say_hello(replayed, "replayed")
        async with asyncio.timeout(10):
            for _ in range(FAILURES_WANTED):
                await monitor.recv_multipart()
        assert heard == []
        replayed.disable_monitor()
        monitor.close(linger=0)
        replayed.close(linger=0)
        genuine = replayed = _bind(context, endpoint, new)
        await _say_hello(genuine, "genuine")
        async with asyncio.timeout(10):
            await arrived.wait()
    finally:
        await link.close()
        replayed.close(linger=0)
        context.destroy(linger=0)
    world.measure("refusals counted", FAILURES_WANTED, "")

    assert [message.incarnation for message in heard] == ["genuine"]


def _bind(context: zmq.asyncio.Context, endpoint: str, keys: KeyPair) -> zmq.asyncio.Socket:
    socket = context.socket(zmq.DEALER)
    socket.curve_server = True
    socket.curve_secretkey = keys.secret
    socket.bind(endpoint)
    return socket


async def _say_hello(socket: zmq.asyncio.Socket, incarnation: str) -> None:
    """Queue a Hello for whoever is admitted; nobody is waited for."""
    hello = Hello(protocol=PROTOCOL_VERSION, incarnation=incarnation, pid=os.getpid(), backend="scripted")
    socket.send(encode(hello, bytes_max=limits.FRAME_BYTES_MAX_UP))
