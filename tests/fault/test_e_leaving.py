"""E. Clients that leave, in every way and at every moment, and clients that stay but do not read: F53-F55, F65."""

import asyncio
import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from lmx_protocol import limits
from tests.support.live import LiveServer, wait_until
from tests.support.wire import Wire, chat_request
from tests.support.world import World

MEBIBYTE = 1024**2
FULL = os.environ.get("LMX_FAULTS_FULL") == "1"
STORM_REQUESTS = 10_000 if FULL else 2_000
FREE_SECONDS = limits.CANCEL_ACK_SECONDS
SLOW_CLIENT_SECONDS = limits.SLOW_CLIENT_SECONDS if FULL else 2.0

SLOW = "answers: [{pieces: ['tick ', 'tock '], tokens: 2000, token_seconds: 0.02}]"
"""Forty seconds of speech."""

TORRENT = f"answers: [{{pieces: ['{'x' * 4000}'], tokens: 4000}}]"
"""16 MB as fast as they are taken: more than every buffer on the way together."""

LABOURED = "prefill: {chunk_seconds: 0.5}\ncontext_length: 100000"
"""Reads half a second per 256 words."""


def open_requests(server: LiveServer) -> int:
    """What the server counts as running or waiting."""
    status = server.http.get("/admin/status").json()
    return int(status["in_flight_requests"]) + int(status["waiting_requests"])


def seconds_until(true: Callable[[], bool], bound_seconds: float, what: str) -> float:
    """How long it takes until it is true; fails soon after the bound."""
    started = time.monotonic()
    wait_until(true, bound_seconds + 5.0, what)
    return time.monotonic() - started


# --- F53 ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F53", "A client that reads too slowly costs bounded memory, and its slot only until the stall limit.")
@pytest.mark.parametrize("bytes_per_second", [0, 1])
def test_f53_slow_reader(world: World, bytes_per_second: int) -> None:
    """A stalled and a one-byte-a-second reader of 16 MB: cut after the stall limit, memory bounded, others undisturbed."""
    server = world.serve(LMX_SERVER__SLOW_CLIENT_SECONDS=str(SLOW_CLIENT_SECONDS))
    server.script("torrent", TORRENT)
    server.load("torrent")
    supervisor = psutil.Process(server.pid)
    before_bytes = supervisor.memory_info().rss
    with world.bystander(), Wire(server.url, receive_buffer_bytes=4096) as wire:
        wire.send(chat_request(server.chat_body("torrent", "go", stream=True, max_tokens=4000)))
        wire.read_until(b"\r\n\r\n")
        wait_until(lambda: open_requests(server) >= 1, 5.0, "the torrent to run")
        started = time.monotonic()
        peak_bytes = 0
        while server.worker("torrent")["requests_active"]:
            assert time.monotonic() - started < SLOW_CLIENT_SECONDS + 10.0, "the slow client still holds its slot"
            peak_bytes = max(peak_bytes, supervisor.memory_info().rss)
            if bytes_per_second:
                wire.read_some(1)
            time.sleep(1.0 / (bytes_per_second or 10))
        world.measure("stall to free", time.monotonic() - started, "s", SLOW_CLIENT_SECONDS + 3.0)
        rest = wire.rest()

    world.measure("memory of the supervisor", (peak_bytes - before_bytes) / MEBIBYTE, "MiB", 16.0)
    assert b"[DONE]" not in rest
    assert "slow_client" in server.log()


# --- F54 ----------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def asked(server: LiveServer, moment: str) -> Iterator[Wire]:
    """A request that is just at this moment of its life."""
    wire = Wire(server.url)
    match moment:
        case "queued":
            _serve(server, "slow", SLOW)
            with Wire(server.url) as holder:
                holder.send(chat_request(server.chat_body("slow", "hold the only slot", stream=True)))
                holder.read_until(b"tick")
                wire.send(chat_request(server.chat_body("slow", "wait")))
                wait_until(lambda: server.worker("slow")["requests_waiting"] == 1, 5.0, "the request to wait")
                yield wire
                holder.read_until(b"tock")
        case "loading":
            server.script("late", "load: {seconds: 3}")
            order = threading.Thread(target=server.load, args=("late",))
            order.start()
            wait_until(lambda: bool(server.worker("late")), 5.0, "the load to begin")
            wire.send(chat_request(server.chat_body("late", "wait")))
            wait_until(lambda: server.worker("late")["requests_waiting"] == 1, 5.0, "the request to wait")
            yield wire
            order.join()
            assert server.worker("late")["tokens_total"] == 0
        case "prefill":
            server.load(server.script("laboured", LABOURED), max_context_length=100_000)
            wire.send(chat_request(server.chat_body("laboured", "word " * 20_000, stream=True)))
            wait_until(lambda: server.worker("laboured")["requests_active"] == 1, 5.0, "the prompt to be read")
            yield wire
        case "streaming":
            _serve(server, "slow", SLOW)
            wire.send(chat_request(server.chat_body("slow", "speak", stream=True)))
            wire.read_until(b"tock")
            yield wire
        case "answered":
            _serve(server, "brief", "answers: [{pieces: ['done']}]")
            wire.send(chat_request(server.chat_body("brief", "speak", stream=True)))
            wire.read_until(b"[DONE]")
            yield wire


def _serve(server: LiveServer, model_id: str, script: str) -> None:
    server.script(model_id, script)
    server.load(model_id)


@pytest.mark.fault("F54", "A client that leaves frees its place within two seconds, whatever it was waiting for.")
@pytest.mark.parametrize("way", ["RST", "FIN"])
@pytest.mark.parametrize("moment", ["queued", "loading", "prefill", "streaming", "answered"])
def test_f54_disconnect(world: World, moment: str, way: str) -> None:
    """Queued, loading, in prefill, streaming or just answered, by reset or in order: the slot is free at once."""
    server = world.serve(LMX_MODELS__SLOTS="1")
    with asked(server, moment) as wire:
        others = 1 if moment == "queued" else 0
        wire.reset() if way == "RST" else wire.close()
        freed_seconds = seconds_until(lambda: open_requests(server) == others, FREE_SECONDS, "the place to be free")
        world.measure(f"left to free, {moment}", freed_seconds, "s", FREE_SECONDS)


# --- F55 ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F55", "A client that closes its sending half has left: its request is cancelled, each time.")
@pytest.mark.parametrize("stream", [True, False])
def test_f55_half_close(world: World, stream: bool) -> None:
    """Five times the same: no answer, the connection closed, the slot free within two seconds."""
    server = world.serve()
    _serve(server, "slow", SLOW)
    for _ in range(5):
        with Wire(server.url) as wire:
            wire.send(chat_request(server.chat_body("slow", "speak", stream=stream)))
            wire.finish_sending()
            assert b"[DONE]" not in wire.rest()
            freed_seconds = seconds_until(lambda: open_requests(server) == 0, FREE_SECONDS, "the place to be free")
            world.measure("half-closed to free", freed_seconds, "s", FREE_SECONDS)


# --- F65 ----------------------------------------------------------------------------------------------------------------------


async def _start_and_leave(url: str, requests: list[bytes], together: int) -> None:
    """Send every request on a connection of its own and leave as soon as its answer begins, half of them sooner."""
    host, _, port = url.removeprefix("http://").partition(":")
    places = asyncio.Semaphore(together)

    async def one(number: int, data: bytes) -> None:
        async with places:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(data)
            await writer.drain()
            if number % 2:
                await reader.read(1)
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    await asyncio.gather(*(one(number, data) for number, data in enumerate(requests)))


@pytest.mark.fault("F65", "A storm of requests that are started and abandoned leaves every counter at zero.")
@pytest.mark.timeout(240)
def test_f65_abort_storm(world: World) -> None:
    """Thousands of starts and cancels in under a minute: nothing is left running, waiting, open or killed."""
    server = world.serve()
    _serve(server, "slow", SLOW)
    pid = server.worker("slow")["pid"]
    started = time.monotonic()
    requests = [chat_request(server.chat_body("slow", f"storm {number}", stream=True)) for number in range(STORM_REQUESTS)]
    asyncio.run(_start_and_leave(server.url, requests, together=48))
    world.measure(f"{STORM_REQUESTS} starts and cancels", time.monotonic() - started, "s", 60.0)
    settled_seconds = seconds_until(lambda: open_requests(server) == 0, FREE_SECONDS, "the last one to end")
    world.measure("storm to silence", settled_seconds, "s", FREE_SECONDS)

    worker = server.worker("slow")
    assert (worker["pid"], worker["restarts"], worker["requests_active"], worker["requests_waiting"]) == (pid, 0, 0, 0)
    assert json.loads(next(server.stream("slow", "still there?")))["choices"]
