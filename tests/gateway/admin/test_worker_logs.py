"""GET /admin/workers/{id}/logs: lines, marks, gaps, following, and the end."""

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from lmx_supervisor.gateway.app import create_app
from lmx_supervisor.runtime.stderr_ring import OutputRing
from tests.gateway.asgi import Exchange
from tests.gateway.service import MODEL, FedService

PATH = f"/admin/workers/{MODEL}/logs"


class Printing:
    """A worker's pipe; its output belongs to a model."""

    def __init__(self, service: FedService, incarnation: str, bytes_max: int = 65536) -> None:
        read_fd, self._fd = os.pipe()
        self.ring = OutputRing(asyncio.get_running_loop(), read_fd, bytes_max)
        service.records.outputs.adopt(MODEL, incarnation, self.ring)
        self._wake, self._changed = self.ring.on_change, asyncio.Event()
        self.ring.on_change = self._has_changed

    def _has_changed(self) -> None:
        self._wake()
        self._changed.set()

    async def print(self, text: str) -> None:
        """Print, and let the loop take it in."""
        self._changed.clear()
        os.write(self._fd, text.encode())
        await self._changed.wait()

    def end(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self.ring.close()


@pytest.fixture
async def worker(service: FedService) -> Iterator[Printing]:
    """One worker of the model."""
    printing = Printing(service, "boot-1")
    yield printing
    printing.end()


async def parts(client: httpx.AsyncClient, **params: Any) -> list[dict[str, Any]]:
    """What is known, without following."""
    text = (await client.get(PATH, params=params)).text
    data = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    return [part for part in data if "type" in part]


async def test_whole_lines_are_told_with_a_mark(client: httpx.AsyncClient, worker: Printing) -> None:
    """A line without its end waits; who names the mark gets what followed it, and nothing twice."""
    await worker.print("one\ntwo\nthr")
    first = await parts(client)
    text = (await client.get(PATH)).text
    await worker.print("ee\n")

    assert [{"type": "output", "incarnation": "boot-1", "lines": ["one", "two"]}] == first
    assert "id: boot-1:8\n" in text
    assert [["three"]] == [part["lines"] for part in await parts(client, last_event_id="boot-1:8")]
    assert [] == await parts(client, last_event_id="boot-1:14")


async def test_what_is_lost_is_told(service: FedService, client: httpx.AsyncClient) -> None:
    """A reader that was away for longer than the output is kept learns how much it missed, and where it can go on."""
    printing = Printing(service, "boot-1", bytes_max=1)
    for number in range(3):
        await printing.print(f"line {number}\n")
    gap, rest = await parts(client, last_event_id="boot-1:7")
    unknown = await parts(client, last_event_id="boot-0:7")
    printing.end()

    assert ("gap", 7) == (gap["type"], gap["lost_bytes"])
    assert ["line 2"] == rest["lines"]
    assert ("gap", None) == (unknown[0]["type"], unknown[0]["lost_bytes"])


async def test_a_follower_sees_the_next_worker_too(service: FedService, worker: Printing) -> None:
    """A dead worker's last words, then those of the one in its place, come as they are printed; the end is the service's."""
    exchange = Exchange(create_app(service), "GET", PATH, query=b"follow=true")
    assert (await exchange.message())["status"] == 200
    assert (await exchange.message())["body"].startswith(b"retry: ")
    await worker.print("last words")
    worker.end()
    assert b'"lines":["last words"]' in (await exchange.message())["body"]
    second = Printing(service, "boot-2")
    await second.print("hello\n")
    body = (await exchange.message())["body"]
    service.records.outputs.end()
    await exchange.rest()
    await exchange.done()
    second.end()

    assert b"id: boot-2:6\n" in body
    assert b'"lines":["hello"]' in body


async def test_a_line_without_an_end_is_told_in_pieces(client: httpx.AsyncClient, worker: Printing) -> None:
    """A flood without a newline is bounded, and nothing of it is lost."""
    for _ in range(10):
        await worker.print("x" * 2000)
    lines = [line for part in await parts(client) for line in part["lines"]]

    assert 20_000 == sum(map(len, lines))
    assert 8192 == max(map(len, lines))


@pytest.mark.parametrize(
    ("params", "status", "param"),
    [({"follow": "maybe"}, 400, "follow"), ({"last_event_id": "7"}, 400, "last_event_id")],
)
async def test_what_cannot_be_meant_is_refused(
    client: httpx.AsyncClient, worker: Printing, params: dict[str, str], status: int, param: str
) -> None:
    """With the name of the parameter."""
    answer = await client.get(PATH, params=params)

    assert (status, param) == (answer.status_code, answer.json()["error"]["param"])


async def test_a_model_without_a_worker_is_not_found(client: httpx.AsyncClient) -> None:
    """404, with where to look."""
    answer = await client.get("/admin/workers/no/such/logs")

    assert (404, "model_not_found") == (answer.status_code, answer.json()["error"]["code"])
    assert "GET /admin/workers" in answer.json()["error"]["message"]
