"""Worker kills at random moments under steady traffic on four models. FAULTS_KILLS says how many; FAULTS_SEED repeats a run."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil
import pytest

from tests.support.holdings import rss_bytes
from tests.support.live import LiveServer, text_of
from tests.support.world import World

KILLS = int(os.environ.get("FAULTS_KILLS", "50"))
SEED = int(os.environ.get("FAULTS_SEED", "20250301"))
MODELS = ("north", "east", "south", "west")
CALLERS_PER_MODEL = 2
PAUSE_SECONDS_MAX = 0.6
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE)
LOSSES = {"worker_lost", "request_crashes_model", "model_loading"}
"""What a client may be told instead of its answer."""
SUCCESS = "success"
WORDS = 30
REQUEST_SECONDS_MAX = 60.0
WARM_UP_RATIO = 0.3
RSS_SLOPE_MIB_MAX = 1.0
RSS_GROWTH_MIB_MAX = 8.0
SLOPE_KILLS_MIN = 300
"""Fewer kills say nothing about a slope: the allocator has not settled."""
SECONDS_PER_1000_KILLS_MAX = 480.0

_SCRIPT = "answers: [{echo: true, token_seconds: 0.01}]"
_NO_QUARANTINE = {
    "LMX_SUPERVISION__QUARANTINE_THRESHOLD": 1000,
    "LMX_SUPERVISION__RESTART_MAX_IN_WINDOW": 1000,
    "LMX_SUPERVISION__RESTART_INITIAL_SECONDS": 0.05,
    "LMX_SUPERVISION__RESTART_MAX_SECONDS": 0.2,
}


@dataclass
class Traffic:
    """Callers that ask without end; every answer is judged when it ends."""

    server: LiveServer
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    stopping: bool = False
    _numbers: int = 0

    async def call(self, http: httpx.AsyncClient, model: str, *, streamed: bool) -> None:
        """One caller: the next request follows the last."""
        while not self.stopping:
            self._numbers += 1
            prompt = " ".join(f"{model}-{self._numbers}-{word}" for word in range(WORDS))
            body = self.server.chat_body(model, prompt, stream=streamed)
            try:
                said, end = await (_stream if streamed else _ask)(http, body)
            except httpx.HTTPError as error:
                said, end = "", f"connection: {type(error).__name__}"
            self.outcomes[end] += 1
            if (end == SUCCESS and said != prompt) or (end != SUCCESS and end not in LOSSES):
                self.wrong.append(f"request {self._numbers} of {model} ended with {end} and said {said!r}")
            if end != SUCCESS:
                await asyncio.sleep(0.05)


@pytest.mark.timeout(900)
@pytest.mark.fault("F72", "workers killed at random under traffic: every request ends once, no success is wrong, nothing grows")
async def test_kills_at_random_moments_cost_only_what_was_running(world: World) -> None:
    """Every request ends exactly once, every success is the whole right text, no process is left and nothing grows."""
    server = world.serve(**_NO_QUARANTINE)
    server.may_crash_anyhow = True
    for model in MODELS:
        server.script(model, _SCRIPT)
        server.load(model)
    dice = random.Random(SEED)
    traffic = Traffic(server)
    rss_mib: list[float] = []
    began = time.monotonic()
    async with _callers(traffic):
        for _ in range(KILLS):
            await asyncio.sleep(dice.uniform(0, PAUSE_SECONDS_MAX))
            _kill_one(server, dice)
            rss_mib.append(rss_bytes(server.pid) / 1024**2)
    seconds = time.monotonic() - began
    for model in MODELS:
        server.wait_for_state(model, "ready")

    assert not traffic.wrong, f"seed {SEED}: {traffic.wrong[:5]}"
    assert traffic.outcomes[SUCCESS] > KILLS, traffic.outcomes
    _report(world, traffic, seconds, rss_mib)


def _report(world: World, traffic: Traffic, seconds: float, rss_mib: list[float]) -> None:
    world.measure("kills", KILLS, "")
    world.measure("requests", traffic.outcomes.total(), "")
    world.measure("requests lost", traffic.outcomes.total() - traffic.outcomes[SUCCESS], "")
    world.measure("time per 1,000 kills", seconds / KILLS * 1000, "s", SECONDS_PER_1000_KILLS_MAX)
    settled = rss_mib[int(len(rss_mib) * WARM_UP_RATIO) :]
    world.measure("memory growth after warm-up", settled[-1] - settled[0], "MiB", RSS_GROWTH_MIB_MAX)
    slope_bound = RSS_SLOPE_MIB_MAX if len(settled) >= SLOPE_KILLS_MIN else None
    world.measure("memory slope per 100 kills", 100 * _slope(settled), "MiB", slope_bound)


@asynccontextmanager
async def _callers(traffic: Traffic) -> AsyncIterator[None]:
    async with httpx.AsyncClient(base_url=traffic.server.url, timeout=REQUEST_SECONDS_MAX) as http:
        callers = [
            asyncio.create_task(traffic.call(http, model, streamed=number % 2 == 0))
            for model in MODELS
            for number in range(CALLERS_PER_MODEL)
        ]
        yield
        traffic.stopping = True
        await asyncio.gather(*callers)


def _kill_one(server: LiveServer, dice: random.Random) -> None:
    """Any process of the supervisor: serving, loading, importing, spare."""
    server.remember_workers()
    children = sorted(server.children(), key=lambda child: child.pid)
    if children:
        with_luck = dice.choice(children)
        try:
            with_luck.send_signal(dice.choice(SIGNALS))
        except psutil.NoSuchProcess:
            return


async def _ask(http: httpx.AsyncClient, body: dict[str, Any]) -> tuple[str, str]:
    """What was said, and how it ended: `success` or an error code."""
    response = await http.post("/v1/chat/completions", json=body)
    answer = response.json()
    if response.status_code != 200:
        return "", answer["error"]["code"]
    return answer["choices"][0]["message"]["content"], SUCCESS


async def _stream(http: httpx.AsyncClient, body: dict[str, Any]) -> tuple[str, str]:
    """The same of a stream, whose ends are counted."""
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            await response.aread()
            return "", response.json()["error"]["code"]
        payloads = [line.removeprefix("data: ") async for line in response.aiter_lines() if line.startswith("data: ")]
    ends = [payload for payload in payloads if payload == "[DONE]" or payload.startswith('{"error"')]
    if len(ends) != 1 or payloads[-1] != ends[0]:
        return "", f"{len(ends)} ends: {ends}"
    if ends[0] == "[DONE]":
        return text_of(payloads), SUCCESS
    return "", str(_error_code(ends[0]))


def _error_code(payload: str) -> object:
    return httpx.Response(200, text=payload).json()["error"]["code"]


def _slope(values: list[float]) -> float:
    """Least squares, per step."""
    mean_x, mean_y = (len(values) - 1) / 2, sum(values) / len(values)
    spread = sum((x - mean_x) ** 2 for x in range(len(values)))
    return sum((x - mean_x) * (y - mean_y) for x, y in enumerate(values)) / spread if spread else 0.0
