"""`lmx probe` and `lmx quantize`."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from lmx_supervisor.cli import quantize_progress
from tests.gateway.jobs import quantize_job
from tests.unit.supervisor.cli.conftest import Lmx
from tests.unit.supervisor.cli.stand_in import StandIn

PROBE, QUANTIZE = "/admin/models/probe", "/admin/quantize"
JOB = "/admin/quantize/0a1b2c3d4e5f"


def job(**changes: Any) -> dict[str, Any]:
    """What the server says of a job."""
    return dict(msgspec.to_builtins(quantize_job(**changes)))


DONE = job(
    status="completed", queue_position=None, progress_percent=100.0, completed_at=9.0, duration_sec=8.0, output_size_bytes=2048
)


def candidate(outcome: str, reason: str | None = None) -> dict[str, Any]:
    """One of a report."""
    facts = {"backend_version": "1", "architecture": "llama", "duration_sec": 0.5}
    return {"backend": "llamacpp", "outcome": outcome, "reason": reason, **facts}


def answer_one_after_the_other(server: StandIn, path: str, *documents: Any) -> None:
    """Each request gets the next of these, the last one for ever."""
    left: Iterator[Any] = iter(documents)
    server.routes[path] = lambda _: (200, next(left, documents[-1]))


def test_a_probe_that_passes(server: StandIn, lmx: Lmx) -> None:
    """A line per backend; the options reach the server."""
    server.answer(PROBE, {"model_id": "m", "recommended_backend": "llamacpp", "candidates": [candidate("pass")]})
    result = lmx("probe", "m", "--timeout", "5", "--force", "--url", server.url)

    assert 0 == result.status, result.err
    assert [["llamacpp", "pass", "llama", "0.5s", "-"]] == [line.split() for line in result.out.splitlines()[1:]]
    assert [{"model_id": "m", "timeout_sec": 5.0, "allow_unsupported_runtime": True}] == server.bodies(PROBE)


def test_a_probe_that_fails(server: StandIn, lmx: Lmx) -> None:
    """The reason is shown, and the status says that no backend can."""
    failed = candidate("fail", "model_probe_failed:it is broken")
    server.answer(PROBE, {"model_id": "m", "recommended_backend": None, "candidates": [failed]})
    result, document = lmx("probe", "m", "--url", server.url), lmx("probe", "m", "--json", "--url", server.url)

    assert (1, "error: no backend can open m\n") == (result.status, result.err)
    assert "model_probe_failed:it is broken" in result.out
    assert None is msgspec.json.decode(document.out)["recommended_backend"]


def test_a_copy_that_is_made(server: StandIn, lmx: Lmx) -> None:
    """The order goes out, progress goes to stderr, where it is and how to load it go to stdout."""
    server.answer(QUANTIZE, job())
    running = job(status="running", queue_position=None, progress_percent=40.0, phase="quantizing")
    answer_one_after_the_other(server, JOB, job(), running, DONE)
    result = lmx("quantize", "org/a", "--bits", "8", "--group-size", "32", "--output", "/x/y", "--url", server.url)

    assert 0 == result.status, result.err
    order = {"source_model": "org/a", "bits": 8, "group_size": 32, "output_path": "/x/y"}
    assert [order] == server.bodies(QUANTIZE)
    assert "2.0K in /home/quantized/a-4bit" in result.out
    assert "lmx load a-4bit" in result.out
    assert "org/a: number 1 in the queue" in result.err
    assert "org/a: 40% quantizing" in result.err


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ({"status": "failed", "failure_code": "worker_crashed", "error": "it died"}, "error: it died (worker_crashed)"),
        ({"status": "cancelled", "failure_code": "cancelled_by_user", "error": "gone"}, "error: gone (cancelled_by_user)"),
    ],
)
def test_a_copy_that_is_not_made(server: StandIn, lmx: Lmx, end: dict[str, Any], words: str) -> None:
    """Status 1 with the reason and its code."""
    server.answer(QUANTIZE, job())
    server.answer(JOB, job(completed_at=9.0, **end))
    result = lmx("quantize", "org/a", "--url", server.url)

    assert 1 == result.status
    assert words in result.err


def test_an_interrupted_watch_leaves_the_job(server: StandIn, lmx: Lmx, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C says how to watch it and how to cancel it."""

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(quantize_progress, "time", SimpleNamespace(sleep=interrupt))
    server.answer(QUANTIZE, job())
    result = lmx("quantize", "org/a", "--url", server.url)

    assert 130 == result.status
    assert "lmx quantize list" in result.err
    assert "lmx quantize --cancel 0a1b2c3d4e5f" in result.err
    assert 1 == len(server.asked), "nothing was cancelled"


def test_cancelling_a_job(server: StandIn, lmx: Lmx) -> None:
    """What the server says of it; it takes nothing else."""
    server.answer(f"{JOB}/cancel", {"status": "cancelling", "reason": "cancelling"}, status=202)
    server.answer("/admin/quantize/old/cancel", {"status": "completed", "reason": "already_terminal"})
    cancelled = lmx("quantize", "--cancel", "0a1b2c3d4e5f", "--url", server.url)
    over = lmx("quantize", "--cancel", "old", "--url", server.url)

    assert (0, "job 0a1b2c3d4e5f is cancelling\n") == (cancelled.status, cancelled.out)
    assert (0, "job old was completed already\n") == (over.status, over.out)
    assert 2 == lmx("quantize", "org/a", "--cancel", "old", "--url", server.url).status
    assert 2 == lmx("quantize", "--cancel", "old", "--bits", "4", "--url", server.url).status


def test_the_list(server: StandIn, lmx: Lmx) -> None:
    """A line per job, the newest first; without any a hint."""
    failed = job(status="failed", failure_code="worker_timeout", completed_at=9.0, duration_sec=3600.0, mode="mxfp8", bits=8)
    server.answer(QUANTIZE, {"jobs": [DONE, failed], "count": 2})
    result = lmx("quantize", "list", "--url", server.url)
    server.answer(QUANTIZE, {"jobs": [], "count": 0})
    nothing = lmx("quantize", "list", "--url", server.url)

    assert 0 == result.status, result.err
    lines = result.out.splitlines()
    assert ["0a1b2c3d4e5f", "org/a", "4", "completed", "8s", "/home/quantized/a-4bit"] == lines[1].split()
    assert "mxfp8  failed: worker_timeout  1h" in lines[2]
    assert "lmx quantize MODEL" in nothing.out
