"""A client that treats the server as the existing TypeScript one does: short timeouts, retries of everything, polling.

It gives a load up after seconds and looks for the model instead; it sends a POST again whose connection was reset, or that was
answered 408, 425, 429 or 5xx. Its patience is cut here by events, not by clocks.
"""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil
import pytest

from tests.support.live import SAFE_KEEP_ALIVE, LiveServer, wait_until
from tests.support.wire import Wire, request

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
RETRIES = 2
POLL_SECONDS = (0.3, 5.0)
"""Between looks for a model: the first wait, growing to the last."""
SCALE = 0.01
"""Of the waits, so that a test is quick."""
HELD = "faults: [{when: load, do: stop}]"
"""The worker stops itself half-way through its load; `let_go` lets it go on."""
LOAD = "/admin/models/load"


@dataclass
class TypescriptClient:
    """What the client does to each call, and its way to a loaded model."""

    url: str
    on_retry: Callable[[], None] = lambda: None
    statuses: list[int] = field(default_factory=list)
    """Of every attempt."""

    def __post_init__(self) -> None:
        self._http = httpx.Client(base_url=self.url, timeout=30.0, limits=SAFE_KEEP_ALIVE)

    def close(self) -> None:
        """Hang up."""
        self._http.close()

    def fetch(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        """One call, sent again while the answer is one to retry or the connection was reset."""
        for attempt in range(RETRIES + 1):
            try:
                response = self._http.request(method, path, json=body)
            except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError):
                if attempt == RETRIES:
                    raise
            else:
                self.statuses.append(response.status_code)
                if response.status_code not in RETRIED or attempt == RETRIES:
                    return response
            self.on_retry()
        raise AssertionError("the last attempt returns or raises")

    def loaded(self) -> list[str]:
        """The ids in `loaded[]`."""
        return [model["id"] for model in self.fetch("GET", "/admin/models").json()["loaded"]]

    def wait_until_listed(self, model_id: str) -> None:
        """Poll, slower and slower, until the id appears."""
        wait_seconds, longest_seconds = POLL_SECONDS
        waited = threading.Event()
        for _ in range(10_000):
            if model_id in self.loaded():
                return
            waited.wait(wait_seconds * SCALE)
            wait_seconds = min(2 * wait_seconds, longest_seconds)
        raise AssertionError(f"{model_id} never appeared")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server whose models have one slot and no line."""
    started = LiveServer(
        tmp_path_factory.mktemp("typescript") / "home",
        environment={"LMX_MODELS__SLOTS": "1", "LMX_MODELS__QUEUE_PER_MODEL": "0"},
    )
    try:
        yield started.start()
        assert started.stop() == 0, started.log()
    finally:
        started.abandon()


@pytest.fixture
def client(server: LiveServer) -> Iterator[TypescriptClient]:
    """The client."""
    client = TypescriptClient(server.url)
    yield client
    client.close()


def post_load(server: LiveServer, model_id: str) -> Wire:
    """The POST of a load, sent; nobody reads its answer yet."""
    wire = Wire(server.url)
    wire.send(request("POST", LOAD, b'{"model_id": "%s"}' % model_id.encode(), Content_Type="application/json"))
    return wire


def wait_until_held(server: LiveServer, model_id: str) -> int:
    """The process that stands still in the middle of the load."""

    def stands_still() -> bool:
        pid = server.worker(model_id).get("pid")
        return pid is not None and psutil.Process(pid).status() == psutil.STATUS_STOPPED

    wait_until(stands_still, 30.0, "the load to stand still")
    return int(server.worker(model_id)["pid"])


def let_go(pid: int) -> None:
    """Go on with the load."""
    os.kill(pid, signal.SIGCONT)


def test_a_model_appears_when_it_can_be_asked_and_not_before(server: LiveServer, client: TypescriptClient) -> None:
    """The load outlives the client's patience; its id is not listed before the model serves, and the first request then is."""
    model_id = server.script("held", HELD)
    given_up = post_load(server, model_id)
    pid = wait_until_held(server, model_id)
    given_up.close()
    seen = [client.loaded() for _ in range(5)]
    let_go(pid)
    client.wait_until_listed(model_id)
    answer = client.fetch("POST", "/v1/chat/completions", server.chat_body(model_id, "hello"))

    assert [ids for ids in seen if model_id in ids] == []
    assert answer.status_code == 200, answer.text
    assert (client.statuses.count(200), server.worker(model_id)["restarts"]) == (len(client.statuses), 0)


def test_posts_that_join_a_load_get_its_answer(server: LiveServer, client: TypescriptClient) -> None:
    """One that was reset and is sent again joins what it began, as does another client's; a later one is 200 too."""
    model_id = server.script("joined", HELD)
    cut_off = post_load(server, model_id)
    pid = wait_until_held(server, model_id)
    cut_off.reset()
    joined = [post_load(server, model_id) for _ in range(2)]
    # The server has read what was sent before it answers what is asked afterwards, again and again.
    seen = [client.loaded() for _ in range(5)]
    let_go(pid)
    answers = [wire.response() for wire in joined]
    for wire in joined:
        wire.close()
    again = client.fetch("POST", LOAD, {"model_id": model_id})

    assert [ids for ids in seen if model_id in ids] == []
    assert [answer.status for answer in answers] == [200, 200]
    assert answers[0].body == answers[1].body
    assert json.loads(answers[0].body)["time_to_load_ms"] > 0
    assert again.json() == {"success": True, "model_id": model_id, "memory_after_load_gb": None, "time_to_load_ms": None}


def test_a_busy_model_is_worth_a_retry(server: LiveServer, client: TypescriptClient) -> None:
    """429 is retried although it is a POST; when the place is free the same request is served."""
    model_id = server.script(
        "busy", "answers: [{pieces: ['on '], tokens: 100000, token_seconds: 0.02, contains: forever}, {echo: true}]"
    )
    server.load(model_id)
    stream = server.stream(model_id, "forever")
    next(stream)

    def make_room() -> None:
        stream.close()
        server.wait_for_state(model_id, "ready")

    client.on_retry = make_room
    answer = client.fetch("POST", "/v1/chat/completions", server.chat_body(model_id, "hello"))

    assert (client.statuses, answer.json()["choices"][0]["message"]["content"]) == ([429, 200], "hello")


@pytest.mark.parametrize(
    ("fault", "code"),
    [("do: segfault", "model_loader_crashed"), ("do: exit, code: 70", "model_probe_failed")],
    ids=["crash", "bad model"],
)
def test_a_load_that_fails_is_told_once_and_not_retried(
    server: LiveServer, client: TypescriptClient, fault: str, code: str
) -> None:
    """The client would send a 5xx up to three times, crashing the model each time: a failed load is a 4xx with its code."""
    model_id = server.script(f"failing-{code}", f"faults: [{{when: load, {fault}}}]")
    answer = client.fetch("POST", LOAD, {"model_id": model_id})

    assert (client.statuses, answer.json()["error"]["code"]) == ([409], code)
