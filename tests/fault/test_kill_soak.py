"""Worker kills at random moments under steady traffic on four models. FAULTS_KILLS says how many; FAULTS_SEED repeats a run.

Nothing may grow. What the supervisor remembers of the past is bounded, and a bound that is not reached yet looks like a leak,
so a run that is long enough to tell fills these histories first. The registry of compatibility (a row per restart, at most
2,000) is full before the start, as in a home that was long in use. The events (1,000) and the samples of the metrics (1,024 per
model and kind) fill with quick requests, the crashes (100) and the suspects (1,024 requests in flight at a crash) in three
tenths of the kills, under four times the traffic. From then on descriptors, threads and memory at rest are compared, and the
memory's slope is taken.
"""

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
import msgspec
import psutil
import pytest

from lmx_protocol import limits
from lmx_supervisor.core.service import CompatibilityRow
from lmx_supervisor.runtime.atomic_file import write_document
from lmx_supervisor.runtime.compatibility import FILE_NAME, Registry
from tests.fault.acts import wait_for_warm_spare
from tests.support.holdings import descriptor_kinds, rss_bytes, thread_count
from tests.support.live import SAFE_KEEP_ALIVE, LiveServer, text_of
from tests.support.world import World

KILLS = int(os.environ.get("FAULTS_KILLS", "50"))
SEED = int(os.environ.get("FAULTS_SEED", "20250301"))
MODELS = ("north", "east", "south", "west")
CALLERS_PER_MODEL = 2
WARM_UP_CALLERS_PER_MODEL = 8
PAUSE_SECONDS_MAX = 0.6
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE)
LOSSES = {"worker_lost", "request_crashes_model", "model_loading"}
"""What a client may be told instead of its answer."""
SUCCESS = "success"
WORDS = 30
REQUEST_SECONDS_MAX = 60.0
WARM_UP_KILLS = KILLS * 3 // 10
REST_SECONDS = 2.0
REST_POLL_SECONDS = 0.05
RSS_SLOPE_MIB_MAX = 0.5
RSS_GROWTH_MIB_MAX = 4.0
RSS_FILLING_MIB_MAX = 8.0
"""Of a short run, in which the histories are still filling."""
SLOPE_KILLS_MIN = 300
"""Fewer kills say nothing about a slope: the allocator has not settled."""
IS_LONG = KILLS - WARM_UP_KILLS >= SLOPE_KILLS_MIN
SECONDS_PER_1000_KILLS_MAX = 480.0
"""So that a thousand fit into a run of the suite."""

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
    server = world.prepare(**_NO_QUARANTINE)
    server.may_crash_anyhow = True
    if IS_LONG:
        _fill_the_registry(server)
    server.start()
    for model in MODELS:
        server.script(model, _SCRIPT)
        server.load(model)
    dice = random.Random(SEED)
    traffic = Traffic(server)
    if IS_LONG:
        await _fill_the_windows(server)
    async with _callers(traffic, WARM_UP_CALLERS_PER_MODEL):
        await _kill(server, dice, WARM_UP_KILLS)
    before = await _at_rest(server)
    async with _callers(traffic, CALLERS_PER_MODEL):
        began = time.monotonic()
        rss_mib = await _kill(server, dice, KILLS - WARM_UP_KILLS)
        seconds = time.monotonic() - began
    after = await _at_rest(server)

    assert not traffic.wrong, f"seed {SEED}: {traffic.wrong[:5]}"
    assert traffic.outcomes[SUCCESS] > KILLS, traffic.outcomes
    world.measure("kills", KILLS, "")
    world.measure("requests", traffic.outcomes.total(), "")
    world.measure("requests lost", traffic.outcomes.total() - traffic.outcomes[SUCCESS], "")
    world.measure("time per 1,000 kills", seconds / len(rss_mib) * 1000, "s", SECONDS_PER_1000_KILLS_MAX)
    world.measure("descriptors more than after the warm-up", after.descriptors - before.descriptors, "", 0)
    world.measure("threads more than after the warm-up", after.threads - before.threads, "", 0)
    world.measure(
        "memory growth after the warm-up",
        after.rss_mib - before.rss_mib,
        "MiB",
        RSS_GROWTH_MIB_MAX if IS_LONG else RSS_FILLING_MIB_MAX,
    )
    world.measure("memory slope per 100 kills", 100 * _slope(rss_mib), "MiB", RSS_SLOPE_MIB_MAX if IS_LONG else None)


@dataclass(frozen=True)
class Rest:
    """What the supervisor holds while nothing happens and every worker is there."""

    descriptors: int
    threads: int
    rss_mib: float


async def _at_rest(server: LiveServer) -> Rest:
    """Every model ready, the spare warm, and then the least of what is held: a file is still being written now and then."""
    for model in MODELS:
        server.wait_for_state(model, "ready")
    wait_for_warm_spare(server)
    held: list[tuple[int, int]] = []
    until = time.monotonic() + REST_SECONDS
    while time.monotonic() < until:
        held.append((descriptor_kinds(server.pid).total(), thread_count(server.pid)))
        await asyncio.sleep(REST_POLL_SECONDS)
    descriptors, threads = (min(counts) for counts in zip(*held, strict=True))
    return Rest(descriptors, threads, rss_bytes(server.pid) / 1024**2)


def _fill_the_registry(server: LiveServer) -> None:
    """As many rows as are kept, of these very models."""
    row = CompatibilityRow(ts=1.0, model_id="", backend="scripted", backend_version="1", outcome="pass")
    names = (MODELS[number % len(MODELS)] for number in range(limits.COMPATIBILITY_ROWS_MAX))
    rows = tuple(msgspec.structs.replace(row, model_id=name, metadata={"canary_seconds": 0.01}) for name in names)
    write_document(server.home / FILE_NAME, Registry(rows=rows))


async def _fill_the_windows(server: LiveServer) -> None:
    """As many answered requests of each model as the metrics remember; their ends are more events than are kept."""
    async with _client(server) as http:

        async def ask_often(model: str) -> None:
            for _ in range(limits.METRIC_WINDOW_SAMPLES_MAX // WARM_UP_CALLERS_PER_MODEL):
                assert await _ask(http, server.chat_body(model, model)) == (model, SUCCESS)

        await asyncio.gather(*(ask_often(model) for model in MODELS for _ in range(WARM_UP_CALLERS_PER_MODEL)))


async def _kill(server: LiveServer, dice: random.Random, kills: int) -> list[float]:
    """So many kills; returns the memory after each, in MiB."""
    rss_mib = []
    for _ in range(kills):
        await asyncio.sleep(dice.uniform(0, PAUSE_SECONDS_MAX))
        _kill_one(server, dice)
        rss_mib.append(rss_bytes(server.pid) / 1024**2)
    return rss_mib


@asynccontextmanager
async def _callers(traffic: Traffic, per_model: int) -> AsyncIterator[None]:
    traffic.stopping = False
    async with _client(traffic.server) as http:
        callers = [
            asyncio.create_task(traffic.call(http, model, streamed=number % 2 == 0))
            for model in MODELS
            for number in range(per_model)
        ]
        yield
        traffic.stopping = True
        await asyncio.gather(*callers)


def _client(server: LiveServer) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, timeout=REQUEST_SECONDS_MAX, limits=SAFE_KEEP_ALIVE)


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
