"""`lmx bench` and `lmx tune`."""

from typing import Any

import msgspec
import pytest

from lmx_supervisor.cli.client import Client
from lmx_supervisor.cli.commands.tune import show_progress
from lmx_supervisor.cli.connection import Connection
from tests.unit.supervisor.cli.conftest import Lmx
from tests.unit.supervisor.cli.stand_in import StandIn

BENCHMARK, RUN, TUNE, EVENTS = "/admin/benchmark", "/admin/benchmark/run", "/admin/models/autotune", "/admin/events"


def measured(first_ms: float, speed: float) -> dict[str, Any]:
    """What the server says of one run."""
    run = {"run": 1, "tokens_generated": 10, "time_to_first_token_ms": first_ms, "total_time_ms": 400.0}
    averages = {"avg_time_to_first_token_ms": first_ms, "avg_total_time_ms": 400.0, "avg_tokens_per_second": speed}
    return {"model_id": "m", "runs": 1, "results": [{**run, "tokens_per_second": speed}], **averages}


def test_a_benchmark_shows_every_run_and_the_average(server: StandIn, lmx: Lmx) -> None:
    """Runs are asked for one by one, with progress on stderr; the table has them all, and fits 80 columns."""
    answers = iter([measured(100.0, 20.0), measured(200.0, 40.0)])
    server.routes[BENCHMARK] = lambda _: (200, next(answers))
    result = lmx("bench", "m", "--runs", "2", "--max-tokens", "10", "--prompt", "go", "--url", server.url)

    assert result.status == 0, result.err
    assert server.bodies(BENCHMARK) == [{"model_id": "m", "temperature": 0.0, "prompt": "go", "max_tokens": 10, "runs": 1}] * 2
    assert ["RUN", "1", "2", "average"] == [line.split()[0] for line in result.out.splitlines()]
    assert ["average", "150", "ms", "400", "ms", "30.0"] == result.out.splitlines()[-1].split()
    assert all(len(line) <= 80 for line in result.out.splitlines())
    assert "m: run 2 of 2" in result.err


def test_a_benchmark_as_json(server: StandIn, lmx: Lmx) -> None:
    """One document as the server would answer for all runs."""
    answers = iter([measured(100.0, 20.0), measured(200.0, 40.0)])
    server.routes[BENCHMARK] = lambda _: (200, next(answers))
    document = msgspec.json.decode(lmx("bench", "m", "--runs", "2", "--json", "--url", server.url).out)

    assert [1, 2] == [run["run"] for run in document["results"]]
    assert (2, 150.0, 30.0) == (document["runs"], document["avg_time_to_first_token_ms"], document["avg_tokens_per_second"])


def test_a_benchmark_that_is_kept(server: StandIn, lmx: Lmx) -> None:
    """One order to the server, and its percentiles in a table."""
    times = {f"ttft_{name}_sec": 0.25 for name in ("p50", "p95", "mean")}
    speeds = {f"toks_per_sec_{name}": 12.5 for name in ("p50", "p95", "mean")}
    stats = {**times, **speeds, "runs_completed": 2, "output_tokens": 100, "coherence_flag": "ok"}
    server.answer(RUN, {"status": "ok", "stats": stats})
    result = lmx("bench", "m", "--keep", "--runs", "2", "--max-tokens", "50", "--url", server.url)

    assert [{"model_id": "m", "temperature": 0.0, "runs": 2, "num_output_tokens": 50}] == server.bodies(RUN)
    assert "250 ms" in result.out
    assert "12.5" in result.out
    assert "2 runs, 100 tokens, ok; the text is ok" in result.out


def test_what_the_server_refuses_is_told(server: StandIn, lmx: Lmx) -> None:
    """In its own words, with its code, and with a failure's status."""
    server.refuse(BENCHMARK, 409, "model_not_loaded", "load it first")
    result = lmx("bench", "m", "--url", server.url)

    assert result.status == 1
    assert "load it first (model_not_loaded)" in result.err


def test_a_tuned_model_shows_its_candidates(server: StandIn, lmx: Lmx) -> None:
    """What is to be tried goes out as tables of settings; the winner is marked, a failed one is there too."""
    metrics = {"avg_tokens_per_second": 50.0, "avg_ttft_ms": 20.0, "avg_total_ms": 100.0, "queue_wait_ms": 0.0}
    good = {"profile": {"slots": 8}, "metrics": {**metrics, "error_rate": 0.0}, "score": 49.7, "error": None}
    bad = {"profile": {}, "metrics": {**metrics, "error_rate": 1.0}, "score": -50.0, "error": "it crashed"}
    server.answer(TUNE, {"model_id": "m", "best_profile": {"slots": 8}, "candidates": [bad, good]})
    server.answer(EVENTS, b"")
    arguments = ("--try", "threads=1", "--try", "slots=8,temperature=0", "--concurrency", "4")
    result = lmx("tune", "m", *arguments, "--url", server.url)

    assert result.status == 0, result.err
    profiles = [{"threads": 1}, {"slots": 8, "temperature": 0}]
    assert [{"model_id": "m", "profiles": profiles, "concurrency": 4, "runs": 1, "max_tokens": 128}] == server.bodies(TUNE)
    _, failed, best, last = result.out.splitlines()
    assert failed.split()[-1] == "-50.0"
    assert best.startswith("*")
    assert "slots=8" in best
    assert "kept for its next loads: slots=8" == last
    assert all(len(line) <= 80 for line in result.out.splitlines())


def test_progress_is_told_while_a_model_is_tuned(server: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    """Every candidate, what it is doing and how it did; what concerns other models is not shown."""

    def event(model_id: str, phase: str, **fields: Any) -> bytes:
        data = {"model_id": model_id, "candidate": 1, "candidates": 2, "phase": phase, "profile": {"slots": 8}, **fields}
        return b"data: " + msgspec.json.encode(data) + b"\n\n"

    told = (
        event("m", "loading"),
        event("other", "loading"),
        event("m", "measured", score=5.0),
        event("m", "failed", error="it crashed"),
    )
    server.answer(EVENTS, b"".join(told))
    show_progress(Client(Connection(url=server.url)), "m")

    assert capsys.readouterr().err.splitlines() == [
        "m: candidate 1 of 2: loading slots=8",
        "m: candidate 1 of 2: slots=8 scored 5.0",
        "m: candidate 1 of 2: slots=8 failed: it crashed",
    ]
