"""Turns, lanes, limits and time limits against a running server: real processes, scripted models."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.exchange import exchange
from tests.support.live import LiveServer, wait_until
from tests.support.wire import chat_request

CROWD = 1000
MODELS = ("one", "two", "three", "four")
PATIENCE_SECONDS = 120.0
BRISK = "answers: [{pieces: ['word '], tokens: 20, token_seconds: 0.01}]"
ENDLESS = "answers: [{pieces: ['on '], tokens: 1000000, token_seconds: 0.02}]"
TO_ORDER = "answers: [{contains: long, pieces: ['on '], tokens: 1000000, token_seconds: 0.02}, {pieces: ['brief']}]"


@pytest.fixture
def configured(serve: Callable[..., LiveServer], tmp_path: Path) -> LiveServer:
    """A server that was started with an empty configuration file."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.yaml").write_text("")
    return serve()


def configure(server: LiveServer, text: str) -> None:
    """Write the file and have it read."""
    (server.home / "config.yaml").write_text(text)
    response = server.http.post("/admin/config/reload")
    assert response.status_code == 200, response.text


@contextmanager
def endless_stream(server: LiveServer, model_id: str, **headers: str) -> Iterator[None]:
    """A request that runs until the block ends: its place is taken when the block begins."""
    body = server.chat_body(model_id, "a long one", stream=True)
    with server.http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
        lines = response.iter_lines()
        next(line for line in lines if '"content":"on ' in line)
        yield


@contextmanager
def others(server: LiveServer) -> Iterator[Callable[..., "Future[httpx.Response]"]]:
    """Asks in the background, a moment after what was asked before: each is in line when the call returns."""
    with ThreadPoolExecutor(8) as pool, httpx.Client(base_url=server.url, timeout=PATIENCE_SECONDS) as http:

        def ask(model_id: str, prompt: str = "brief", **headers: str) -> "Future[httpx.Response]":
            before = server.worker(model_id)["requests_total"]
            body = server.chat_body(model_id, prompt)
            asked = pool.submit(lambda: http.post("/v1/chat/completions", json=body, headers=headers))
            wait_until(lambda: server.worker(model_id)["requests_total"] > before, 30.0, "the request to arrive")
            return asked

        yield ask


def idle(server: LiveServer) -> bool:
    """Whether nothing runs or waits."""
    status = server.http.get("/admin/status").json()
    return (status["in_flight_requests"], status["waiting_requests"]) == (0, 0)


async def _crowd(server: LiveServer) -> list[tuple[int, bool]]:
    def ask(number: int) -> Coroutine[None, None, tuple[int, bool]]:
        body = server.chat_body(MODELS[number % len(MODELS)], f"request {number}")
        client = f"client {number % 7}"
        return exchange(server, chat_request(body, **{"X-Client-ID": client, "Connection": "close"}))

    async with asyncio.timeout(PATIENCE_SECONDS):
        return await asyncio.gather(*(ask(number) for number in range(CROWD)))


def test_a_thousand_requests_on_four_models_are_each_answered_once(server: LiveServer) -> None:
    """200, 429 or 503, the latter two with the time to come back; afterwards nothing runs, waits, or has been lost."""
    for model_id in MODELS:
        server.script(model_id, BRISK)
        server.load(model_id)
    answers = asyncio.run(_crowd(server))
    statuses = Counter(status for status, _ in answers)
    wait_until(lambda: idle(server), 30.0, "the server to be idle")
    status = server.http.get("/admin/status").json()
    counted = [sum(lane.values()) for lane in status["lanes"].values()]

    assert statuses.total() == CROWD
    assert set(statuses) <= {200, 429, 503}
    # Every place, at least; how many lines are served depends on who is quicker.
    assert statuses[200] >= 4 * 4
    assert all(says_when for status, says_when in answers if status != 200)
    assert (status["in_flight_requests"], status["waiting_requests"], counted) == (0, 0, [0, 0, 0])
    assert [server.worker(model_id)["restarts"] for model_id in MODELS] == [0, 0, 0, 0]


def test_a_wider_limit_lets_in_who_waits(configured: LiveServer) -> None:
    """Each limit: while one request runs and one waits because of it, a reload lets the second one run; the first goes on."""
    configured.script("m", TO_ORDER)
    configured.load("m")
    me = {"X-Client-ID": "me"}
    for limit in (
        "{max_concurrent_requests: %d}",
        "{per_model_concurrency_limits: {m: %d}}",
        "{per_client_default_concurrency: %d}",
        "{per_client_concurrency_overrides: {me: %d}}",
    ):
        configure(configured, f"models: {limit % 1}")
        with endless_stream(configured, "m", **me), others(configured) as ask:
            waiting = ask("m", **me)
            assert configured.worker("m")["requests_waiting"] == 1, limit
            configure(configured, f"models: {limit % 2}")
            assert waiting.result().status_code == 200, limit
            assert configured.worker("m")["requests_active"] == 1, limit
        wait_until(lambda: idle(configured), 30.0, "the endless stream to end")


def test_a_shorter_patience_ends_waits_and_the_status_shows_the_limit_in_force(configured: LiveServer) -> None:
    """Who waits already is told 503 under the new wait limit; the status says what may run, as configured and in force."""
    configured.script("m", ENDLESS)
    configured.load("m")
    configure(configured, "models: {max_concurrent_requests: 1}")
    with endless_stream(configured, "m"), others(configured) as ask:
        waiting = ask("m")
        configure(configured, "models: {max_concurrent_requests: 1, semaphore_timeout_sec: 0.1}")
        refused = waiting.result()
    status = configured.http.get("/admin/status").json()
    configure(configured, "models: {max_concurrent_requests: 9}")
    wider = configured.http.get("/admin/status").json()

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    assert "Retry-After" in refused.headers
    assert (status["max_concurrent_requests"], status["concurrent_limit"]) == (1, 1)
    assert (wider["max_concurrent_requests"], wider["concurrent_limit"]) == (9, 4)


def test_lanes_order_those_who_wait_and_metrics_tell(serve: Callable[..., LiveServer]) -> None:
    """The interactive request that came last gets the place first, and what waits is counted by lane."""
    server = serve(LMX_MODELS__SLOTS="1")
    server.script("m", "answers: [{contains: long, pieces: ['on '], tokens: 1000000, token_seconds: 0.02}, {pieces: [brief]}]")
    server.load("m")

    def lanes() -> dict[str, Any]:
        return dict(server.worker("m")["lanes"])

    with others(server) as ask:
        with endless_stream(server, "m"):
            patient = ask("m", **{"X-Serving-Lane": "throughput"})
            urgent = ask("m", "a long one", **{"X-Serving-Lane": "interactive", "X-Request-ID": "urgent"})
            waiting = lanes()
            metrics = server.http.get("/admin/metrics").text
        wait_until(lambda: lanes()["interactive"]["running"] == 1, 10.0, "the interactive request to have the place")
        then = lanes()
        server.http.post("/v1/requests/urgent/cancel").raise_for_status()
        statuses = (urgent.result().status_code, patient.result().status_code)
    assert [waiting[lane]["waiting"] for lane in ("interactive", "normal", "throughput")] == [1, 0, 1]
    assert 'lmx_model_waiting_requests{lane="interactive",model="m"} 1.0' in metrics
    assert 'lmx_model_concurrent_limit{model="m"} 1.0' in metrics
    assert (then["throughput"]["waiting"], statuses) == (1, (499, 200))


def test_a_client_that_said_how_long_it_waits_is_told_in_time(serve: Callable[..., LiveServer]) -> None:
    """504 for an answer that takes too long, whose place is free again; 503 for one whose turn does not come in time."""
    server = serve(LMX_MODELS__SLOTS="1")
    server.script("m", TO_ORDER)
    server.load("m")
    body = server.chat_body("m", "a long one")
    too_slow = server.http.post("/v1/chat/completions", json=body, headers={"Request-Timeout-Ms": "300"})
    wait_until(lambda: server.worker("m")["requests_active"] == 0, 10.0, "the place to be free")
    with endless_stream(server, "m"):
        headers = {"Request-Timeout-Ms": "300"}
        no_turn = server.http.post("/v1/chat/completions", json=server.chat_body("m", "brief"), headers=headers)

    assert (too_slow.status_code, too_slow.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert (no_turn.status_code, no_turn.json()["error"]["code"]) == (503, "overloaded")
    assert 'lmx_refused_requests_total{model="m",reason="overloaded"} 1.0' in server.http.get("/admin/metrics").text
