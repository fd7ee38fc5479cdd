"""E. A thousand clients at once, and fewer descriptors than clients: F56."""

import asyncio
import json
from collections import Counter

import httpx
import psutil
import pytest

from lmx_protocol import limits
from tests.support.exchange import connect, exchange
from tests.support.live import LiveServer, wait_until
from tests.support.prober import Prober
from tests.support.wire import Wire, chat_request, request
from tests.support.world import World

CROWD = 1000
PROBE_SECONDS_MAX = 0.25
PATIENCE_SECONDS = 60.0
BRISK = "answers: [{pieces: ['word '], tokens: 20, token_seconds: 0.01}]"


def established(server: LiveServer) -> int:
    """The connections the server holds, of those that clients have not left."""
    return sum(connection.status == psutil.CONN_ESTABLISHED for connection in psutil.Process(server.pid).net_connections("tcp"))


class Crowd:
    """Clients that connect and say nothing: what each is told, and when all that are not let in have been told."""

    def __init__(self, server: LiveServer, expected_refusals: int) -> None:
        self._server = server
        self._expected_refusals = expected_refusals
        self._leave = asyncio.Event()
        self._all_told = asyncio.Event()
        self.refusals: Counter[int] = Counter()

    async def gather(self, clients: int) -> int:
        """Let them all connect, wait until the refusals are out, and have everyone leave; how many the server held."""
        tasks = [asyncio.create_task(self._client()) for _ in range(clients)]
        async with asyncio.timeout(limits.KEEP_ALIVE_SECONDS):
            await self._all_told.wait()
        held = established(self._server)
        self._leave.set()
        await asyncio.gather(*tasks)
        return held

    async def _client(self) -> None:
        reader, writer = await connect(self._server)
        told, leaving = asyncio.ensure_future(reader.readline()), asyncio.ensure_future(self._leave.wait())
        await asyncio.wait({told, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if told.done() and told.result():
            self.refusals[int(told.result().split()[1])] += 1
            if self.refusals.total() == self._expected_refusals:
                self._all_told.set()
        for waiting in (told, leaving):
            waiting.cancel()
        writer.transport.abort()


@pytest.mark.fault("F56", "Of a thousand clients 512 are held and the rest told 503; /healthz stays quick.")
def test_f56_a_thousand_connections(world: World) -> None:
    """A thousand silent connections at once: as many as allowed are held, every other one is told 503."""
    server = world.serve()
    server.close()  # its connection would be one of those held
    server.http = httpx.Client(base_url=server.url, timeout=PATIENCE_SECONDS)
    with Prober(server) as prober:
        # One of those that are held is the prober's.
        crowd = Crowd(server, expected_refusals=CROWD - limits.HTTP_CONNECTIONS_MAX + 1)
        held = asyncio.run(crowd.gather(CROWD))
    world.measure("p99 of /healthz, 1000 connections", prober.p99_seconds * 1000, "ms", PROBE_SECONDS_MAX * 1000)
    world.measure("connections held", held, "", limits.HTTP_CONNECTIONS_MAX)

    assert crowd.refusals == {503: CROWD - limits.HTTP_CONNECTIONS_MAX + 1}


@pytest.mark.fault("F56", "Of a thousand clients 512 are held and the rest told 503; /healthz stays quick.")
def test_f56_a_thousand_requests(world: World) -> None:
    """A thousand requests at once: all slots and the whole queue are served, every other one is told when to come back."""
    server = world.serve(LMX_MODELS__SLOTS="8")
    server.script("brisk", BRISK)
    server.load("brisk")
    requests = [chat_request(server.chat_body("brisk", f"request {number}"), Connection="close") for number in range(CROWD)]

    async def crowd() -> list[tuple[int, bool]]:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await asyncio.gather(*(exchange(server, data) for data in requests))

    with Prober(server) as prober:
        answers = asyncio.run(crowd())
    world.measure("p99 of /healthz, 1000 requests", prober.p99_seconds * 1000, "ms", PROBE_SECONDS_MAX * 1000)
    statuses = Counter(status for status, _ in answers)
    world.measure("answered of 1000", statuses[200], "")

    assert set(statuses) <= {200, 429, 503}
    assert statuses[200] >= limits.QUEUE_PER_MODEL + 8
    assert all(says_when for status, says_when in answers if status != 200)


@pytest.mark.fault("F44", "Clients that take every descriptor they can get leave enough for workers.")
def test_f44_connections_fit_the_limit_of_open_files(world: World) -> None:
    """With 64 descriptors, 150 clients: the supervisor sheds them, loads a model meanwhile, and serves when they are gone."""
    server = world.prepare()
    server.command = ("prlimit", "--nofile=64:64")
    server.start()
    crowd = [Wire(server.url) for _ in range(150)]
    try:
        wait_until(lambda: "connections_limited" in server.log(), 5.0, "the log to say so")
        order = json.dumps({"model_id": server.script("late")}).encode()
        wait_until(lambda: _loads(server, request("POST", "/admin/models/load", order)), PATIENCE_SECONDS, "a model to load")
    finally:
        for wire in crowd:
            wire.close()

    assert server.chat("late").status_code == 200


def _loads(server: LiveServer, data: bytes) -> bool:
    try:
        with Wire(server.url) as wire:
            wire.send(data)
            return wire.response().status == 200
    except (OSError, EOFError):
        return False
