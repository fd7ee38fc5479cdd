"""A full house, measured: many clients at once, lasting overload, and a fair share. Run: `python -m tests.bench.crowd`.

Three parts against servers of their own with scripted models, whose answers cost time and no computing: what is measured is
the service. A table of what was wanted and what came; exits 1 when something was missed. Not a test: a machine that has other
work to do shows it here.
"""

import argparse
import asyncio
import json
import math
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.support.exchange import exchange
from tests.support.live import LiveServer, wait_until
from tests.support.prober import Prober
from tests.support.wire import chat_request

MODELS = ("one", "two", "three", "four")
SLOTS = 4
CROWD = 1000
OVERLOAD_CLIENTS = 400
IMPATIENCE_SECONDS = 0.25
"""Refused clients come back sooner than they were told to."""
ANSWER_SECONDS = 0.4
BRISK = "answers: [{pieces: ['word '], tokens: 20, token_seconds: 0.01}]"
STEADY = "answers: [{pieces: ['word '], tokens: 8, token_seconds: 0.05}]"
FAIR_SECONDS = 30


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    value: float
    unit: str
    wanted: str
    kept: bool


def chat(server: LiveServer, model_id: str, client: str) -> bytes:
    """A chat completion of a client."""
    return chat_request(server.chat_body(model_id, "go on"), **{"X-Client-ID": client, "Connection": "close"})


async def crowd(server: LiveServer) -> list[Row]:
    """A thousand requests at once on four models."""
    asked = (exchange(server, chat(server, MODELS[number % 4], f"client {number % 10}")) for number in range(CROWD))
    with Prober(server) as prober:
        answers = await asyncio.gather(*asked)
    statuses = Counter(status for status, _ in answers)
    p99_ms = 1000 * prober.p99_seconds
    silent = sum(not says_when for status, says_when in answers if status != 200)
    status = server.http.get("/admin/status").json()
    left = status["in_flight_requests"] + status["waiting_requests"]
    told = statuses[200] + statuses[429] + statuses[503]
    return [
        Row("1000 at once: answered", statuses[200], "", "", kept=True),
        Row("1000 at once: told to come back", statuses[429] + statuses[503], "", "each with Retry-After", kept=not silent),
        Row("1000 at once: 200, 429 or 503", told, "", "1000", kept=told == CROWD),
        Row("p99 of /healthz meanwhile", p99_ms, "ms", "< 250", kept=p99_ms < 250),
        Row("left running or waiting", left, "", "0", kept=left == 0),
    ]


async def goodput(server: LiveServer, clients: int, seconds: float) -> float:
    """Answers per second while so many clients ask, each anew when it was answered, and soon again when it was refused."""
    answered = 0
    ends_at = time.monotonic() + seconds

    async def ask(number: int) -> None:
        nonlocal answered
        data = chat(server, MODELS[number % 4], f"client {number % 20}")
        while time.monotonic() < ends_at:
            status, _ = await exchange(server, data)
            if status != 200:
                await asyncio.sleep(IMPATIENCE_SECONDS)
            elif time.monotonic() <= ends_at:
                answered += 1

    asking = [asyncio.create_task(ask(number)) for number in range(clients)]
    await asyncio.sleep(ends_at - time.monotonic())
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    return answered / seconds


async def overload(server: LiveServer, seconds: float) -> list[Row]:
    """As many clients as there are places, then many more, then one."""
    saturated = await goodput(server, SLOTS * len(MODELS), seconds / 4)
    overloaded = await goodput(server, OVERLOAD_CLIENTS, seconds)
    began = time.monotonic()
    status, _ = await exchange(server, chat(server, MODELS[0], "the next one"))
    recovered_seconds = time.monotonic() - began - ANSWER_SECONDS
    ratio = 100 * overloaded / saturated
    return [
        Row("saturated", saturated, "answers/s", "", kept=True),
        Row(f"overloaded for {seconds:.0f} s by {OVERLOAD_CLIENTS} clients", overloaded, "answers/s", "", kept=True),
        Row("goodput under overload", ratio, "% of saturated", ">= 90", kept=ratio >= 90),
        Row("afterwards, a new request waits", recovered_seconds, "s", "<= 1", kept=status == 200 and recovered_seconds <= 1),
    ]


async def fair_share(server: LiveServer) -> list[Row]:
    """One client has a hundred requests open all the time, another one asks once a second."""
    ends_at = time.monotonic() + FAIR_SECONDS
    waits: list[float] = []

    async def flood() -> None:
        while time.monotonic() < ends_at:
            status, _ = await exchange(server, chat(server, MODELS[0], "a hundred"))
            await asyncio.sleep(IMPATIENCE_SECONDS if status != 200 else 0)

    async def ask() -> None:
        began = time.monotonic()
        status, _ = await exchange(server, chat(server, MODELS[0], "one a second"))
        waits.append(time.monotonic() - began - ANSWER_SECONDS if status == 200 else math.inf)

    flooding = [asyncio.create_task(flood()) for _ in range(100)]
    asking = []
    while time.monotonic() < ends_at:
        asking.append(asyncio.create_task(ask()))
        await asyncio.sleep(1)
    await asyncio.gather(*flooding, *asking)
    p95_seconds = statistics.quantiles(waits, n=20)[18]
    wanted_seconds = 2 * ANSWER_SECONDS
    text = f"<= {wanted_seconds:.1f} (two answers)"
    return [
        Row(
            "beside a hundred of one client, one a second waits, p95",
            p95_seconds,
            "s",
            text,
            kept=p95_seconds <= wanted_seconds,
        )
    ]


def serve(directory: Path, script: str) -> LiveServer:
    """A server with the four models."""
    server = LiveServer(directory, (), {"LMX_MODELS__SLOTS": str(SLOTS)}).start()
    for model_id in MODELS:
        server.script(model_id, script)
        server.load(model_id)
    return server


def main() -> None:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(prog="scripts/bench crowd", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the overload lasts")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for script, part in (
        (BRISK, crowd),
        (STEADY, lambda server: overload(server, arguments.seconds)),
        (STEADY, fair_share),
    ):
        with tempfile.TemporaryDirectory() as directory:
            server = serve(Path(directory) / "home", script)
            try:
                rows += asyncio.run(part(server))
                wait_until_idle(server)
            finally:
                server.terminate()
    width = max(len(row.what) for row in rows)
    for row in rows:
        verdict = "" if not row.wanted else "kept" if row.kept else "MISSED"
        print(f"{row.what:<{width}}  {row.value:>8.2f} {row.unit:<15} {row.wanted:<22} {verdict}")
    print(json.dumps({row.what: round(row.value, 3) for row in rows}), file=sys.stderr)
    sys.exit(0 if all(row.kept for row in rows) else 1)


def wait_until_idle(server: LiveServer) -> None:
    """Nothing runs or waits any more."""

    def is_idle() -> bool:
        status = server.http.get("/admin/status").json()
        return status["in_flight_requests"] == 0 and status["waiting_requests"] == 0

    wait_until(is_idle, 30.0, "the server to be idle")


if __name__ == "__main__":
    main()
