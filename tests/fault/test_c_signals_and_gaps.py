"""Section C, second half: signals to the supervisor, and time in which it did not run. F35 to F37, F40."""

import json
import os
import secrets
import select
import signal
import socket
import sys
import threading
import time

import httpx
import psutil
import pytest

from lmx_protocol import limits
from tests.support.live import LiveServer, text_of, wait_until
from tests.support.world import World

ENDLESS = "answers: [{pieces: ['on ', 'and '], tokens: 100000, token_seconds: 0.02}]"
SHORT = "answers: [{pieces: ['on ', 'and '], tokens: 50, token_seconds: 0.02}]"
DRAIN_SECONDS = 2.0
WORKERS_STOP_SECONDS = 2.0
FULL = os.environ.get("LMX_FAULTS_FULL") == "1"
GAP_SECONDS = 60.0 if FULL else 8.0
DEADLINE_SECONDS = 30.0 if FULL else 3.0
"""Every deadline of a worker is shorter than the gap: a supervisor that counted the gap would kill."""
WATCHDOG_SECONDS = 30.0
STOPPED_SECONDS = 3.0


@pytest.mark.fault("F35", "SIGTERM: running streams may end within the drain time, then they are told, and the exit code is 0")
def test_f35_one_signal_ends_a_stream_after_the_drain_time(world: World) -> None:
    """A stream that does not end by itself gets its error event when the drain time is over, not before."""
    server = world.serve(LMX_SERVER__DRAIN_SECONDS=DRAIN_SECONDS)
    listener = _Listener(server, ENDLESS)
    seconds = _signal_and_wait(server, 0, signal.SIGTERM)
    payloads = listener.heard()

    assert seconds >= DRAIN_SECONDS
    world.measure("exit after one signal, drain time 2 s", seconds, "s", DRAIN_SECONDS + WORKERS_STOP_SECONDS)
    assert json.loads(payloads[-1])["error"]["code"] == "shutting_down"
    assert "[DONE]" not in payloads


@pytest.mark.fault("F35", "the second signal shortens the drain to two seconds")
def test_f35_a_second_signal_shortens_the_drain(world: World) -> None:
    """With half a minute of drain time, two signals end an endless stream in two seconds; the exit code is still 0."""
    server = world.serve()
    listener = _Listener(server, ENDLESS)
    seconds = _signal_and_wait(server, 0, signal.SIGTERM, signal.SIGINT)
    payloads = listener.heard()

    bound = limits.DRAIN_SECOND_SIGNAL_SECONDS + WORKERS_STOP_SECONDS
    world.measure("exit after two signals", seconds, "s", bound)
    assert "error" in json.loads(payloads[-1])


@pytest.mark.fault("F35", "the third signal ends the service at once, and its workers with it")
def test_f35_a_third_signal_ends_everything_at_once(world: World) -> None:
    """Exit code 1 without any drain; no worker is left."""
    server = world.serve()
    listener = _Listener(server, ENDLESS)
    server.was_killed = True
    seconds = _signal_and_wait(server, 1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    server.assert_no_worker_is_left(1.0)
    listener.heard()

    world.measure("exit after three signals", seconds, "s", 1.0)


@pytest.mark.fault("F40", "SIGHUP of a closed terminal drains like SIGTERM")
def test_f40_a_closed_terminal_drains(world: World) -> None:
    """The running stream comes to its own end and the exit code is 0."""
    server = world.serve()
    listener = _Listener(server, SHORT)
    _signal_and_wait(server, 0, signal.SIGHUP)

    assert listener.heard()[-1] == "[DONE]"


@pytest.mark.fault("F40", "Ctrl-C in a terminal drains: it reaches the supervisor and none of its workers")
def test_f40_ctrl_c_does_not_reach_the_workers(world: World) -> None:
    """SIGINT to the whole foreground group, as a terminal sends it: the stream comes to its own end, the exit code is 0."""
    server = world.prepare()
    server.own_session = True
    server.start()
    listener = _Listener(server, SHORT)
    _signal_and_wait(server, 0, signal.SIGINT, to_group=True)

    assert listener.heard()[-1] == "[DONE]"


@pytest.mark.fault("F36", "the supervisor was stopped for longer than every deadline: deadlines are extended, nobody is killed")
def test_f36_a_sleep_of_the_supervisor_kills_nobody(world: World) -> None:
    """SIGSTOP, a while, SIGCONT: a stream goes on to its whole text, a load to its end, all in the processes of before."""
    deadlines = ("BEAT_DEAD", "PROGRESS_STALL", "LOAD_STALL", "HELLO", "CANARY")
    server = world.serve(
        **{f"LMX_SUPERVISION__{name}_SECONDS": DEADLINE_SECONDS for name in deadlines},
        LMX_SUPERVISION__BEAT_SUSPECT_SECONDS=2,
        LMX_SUPERVISION__BEAT_INTERVAL_SECONDS=0.5,
    )
    server.script("slow", "load: {seconds: 6, callbacks: 60}")
    listener = _Listener(server, "answers: [{pieces: ['on ', 'and '], tokens: 400, token_seconds: 0.02}]")
    load = threading.Thread(target=lambda: server.load("slow"))
    load.start()
    server.wait_for_state("slow", "loading")
    before = {worker.pid for worker in server.children()}
    server.tolerated_lag_seconds = GAP_SECONDS + 1
    process = psutil.Process(server.pid)
    process.suspend()
    time.sleep(GAP_SECONDS)  # the fault itself
    process.resume()
    load.join(30)
    payloads = listener.heard()

    assert not load.is_alive()
    assert payloads[-1] == "[DONE]"
    assert len(text_of(payloads).split()) == 400
    assert before <= {worker.pid for worker in server.children()}
    assert [server.worker(name)["restarts"] for name in ("m", "slow")] == [0, 0]
    world.measure(f"workers killed after a gap of {GAP_SECONDS:.0f} s", 0, "", 0)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: systemd's protocol, over an abstract socket")
@pytest.mark.fault(
    "F37", "the service manager's watchdog hears from the loop each second, and nothing while the loop stands still"
)
def test_f37_the_watchdog_is_fed_by_the_loop(world: World) -> None:
    """With the 30 seconds of the unit: signs of life while it runs, none while it is stopped, again when it goes on."""
    name = f"lmx-test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        manager.settimeout(WATCHDOG_SECONDS / 2)
        server = world.serve(NOTIFY_SOCKET=f"@{name}", WATCHDOG_USEC=int(WATCHDOG_SECONDS * 1_000_000))
        _wait_to_hear(manager, b"READY=1")
        silences = [_seconds_to_hear(manager, b"WATCHDOG=1") for _ in range(4)]
        world.measure("between two signs of life", max(silences[1:]), "s", WATCHDOG_SECONDS / 2)
        server.tolerated_lag_seconds = STOPPED_SECONDS + 1
        process = psutil.Process(server.pid)
        process.suspend()
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED, 5.0, "it to be stopped")
        said_before = _all_that_is_there(manager)
        time.sleep(STOPPED_SECONDS)  # the fault itself
        said_meanwhile = _all_that_is_there(manager)
        process.resume()
        _wait_to_hear(manager, b"WATCHDOG=1")
        assert server.stop() == 0
        _wait_to_hear(manager, b"STOPPING=1")

    assert set(said_before) <= {b"WATCHDOG=1"}
    assert said_meanwhile == []


def _seconds_to_hear(manager: socket.socket, words: bytes) -> float:
    began = time.monotonic()
    _wait_to_hear(manager, words)
    return time.monotonic() - began


def _wait_to_hear(manager: socket.socket, words: bytes) -> None:
    while manager.recv(64) != words:
        pass


def _all_that_is_there(manager: socket.socket) -> list[bytes]:
    said = []
    while select.select([manager], [], [], 0)[0]:
        said.append(manager.recv(64))
    return said


class _Listener:
    """A client that reads one stream of a model to its end, on a thread."""

    def __init__(self, server: LiveServer, script: str) -> None:
        self._server = server
        self._payloads: list[str] = []
        server.script("m", script)
        server.load("m")
        self._speaking = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        assert self._speaking.wait(10)

    def heard(self) -> list[str]:
        """The payloads, once the stream has ended."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self._payloads

    def _read(self) -> None:
        stream = self._server.stream("m")
        try:
            for payload in stream:
                self._payloads.append(payload)
                if len(self._payloads) > 3:
                    self._speaking.set()
        except httpx.HTTPError as error:  # the service left at once
            self._payloads.append(repr(error))


def _signal_and_wait(server: LiveServer, code: int, *numbers: signal.Signals, to_group: bool = False) -> float:
    """Send the signals and return how long the supervisor took to leave, with this exit code."""
    assert server.process is not None
    server.remember_workers()
    server.may_end = True
    began = time.monotonic()
    for index, number in enumerate(numbers):
        if index == 1:
            wait_until(lambda: '"stopping"' in server.log(), 5.0, "the first signal to be heard")
        target = psutil.Process(server.pid)
        for process in _foreground_group(server) if to_group else [target]:
            process.send_signal(number)
    assert server.process.wait(60) == code, server.log()
    return time.monotonic() - began


def _foreground_group(server: LiveServer) -> list[psutil.Process]:
    everyone = [psutil.Process(server.pid), *server.children()]
    return [process for process in everyone if os.getpgid(process.pid) == os.getpgid(server.pid)]
