"""`lmx pull`, `lmx rm`, and a load that needs a download."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from lmx_supervisor.cli import download_progress
from tests.gateway.service import download_view
from tests.unit.supervisor.cli.conftest import Lmx
from tests.unit.supervisor.cli.stand_in import StandIn, fleet_document

PROGRESS = "/admin/models/download/dl-1/progress"
LOAD = "/admin/models/load"


def view(**changes: Any) -> dict[str, Any]:
    """What the server says of the download `dl-1` of `org/a`."""
    half = msgspec.to_builtins(download_view("dl-1", "org/a"))
    return {**half, **changes}


def answer_one_after_the_other(server: StandIn, path: str, *documents: Any) -> None:
    """Each request gets the next of these, the last one for ever."""
    left: Iterator[Any] = iter(documents)
    server.routes[path] = lambda _: (200, next(left, documents[-1]))


DONE = view(status="completed", progress_percent=100.0, completed_at=9.0, local_path="/models/org/a")


def test_a_pull_returns_when_the_model_has_arrived(server: StandIn, lmx: Lmx) -> None:
    """The order goes out, progress goes to stderr, where it is goes to stdout."""
    server.answer("/admin/models/download", {"download_id": "dl-1"})
    answer_one_after_the_other(server, PROGRESS, view(), view(trouble="the hub answers 503"), DONE)
    result = lmx("pull", "org/a", "--allow", "*.gguf", "--revision", "v1", "--url", server.url)

    assert result.status == 0, result.err
    assert [{"repo_id": "org/a", "revision": "v1", "allow_patterns": ["*.gguf"]}] == server.bodies("/admin/models/download")
    assert "org/a is here" in result.out
    assert "/models/org/a" in result.out
    assert "50% 500B of 1000B, 100B/s, 5s left" in result.err
    assert "waiting: the hub answers 503" in result.err


def test_a_pull_as_json(server: StandIn, lmx: Lmx) -> None:
    """stdout is the one document."""
    server.answer("/admin/models/download", {"download_id": "dl-1"})
    server.answer(PROGRESS, DONE)
    result = lmx("pull", "org/a", "--json", "--url", server.url)

    assert "dl-1" == msgspec.json.decode(result.out)["download_id"]


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ({"status": "failed", "error": "wrong hash", "error_code": "download_corrupt"}, "wrong hash (download_corrupt)"),
        ({"status": "cancelled"}, "the download of org/a was cancelled"),
    ],
)
def test_a_pull_that_brings_nothing(server: StandIn, lmx: Lmx, end: dict[str, Any], words: str) -> None:
    """Status 1 with the reason."""
    server.answer("/admin/models/download", {"download_id": "dl-1"})
    server.answer(PROGRESS, view(completed_at=9.0, **end))
    result = lmx("pull", "org/a", "--url", server.url)

    assert 1 == result.status
    assert words in result.err


def test_an_interrupted_pull_says_how_to_go_on(server: StandIn, lmx: Lmx, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C leaves the download to the server, and says how to watch and how to cancel it."""

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(download_progress, "time", SimpleNamespace(sleep=interrupt))
    server.answer("/admin/models/download", {"download_id": "dl-1"})
    server.answer(PROGRESS, view())
    result = lmx("pull", "org/a", "--url", server.url)

    assert 130 == result.status
    assert "goes on downloading" in result.err
    assert "lmx pull --cancel org/a" in result.err


def test_cancelling_a_pull(server: StandIn, lmx: Lmx) -> None:
    """The download of that repository is cancelled, and no other."""
    server.answer("/admin/models/downloads", {"downloads": [view(), view(download_id="dl-2", repo_id="org/b")]})
    server.answer("/admin/models/download/dl-1/cancel", {**view(status="cancelled"), "cancelled": True})
    result = lmx("pull", "--cancel", "org/a", "--url", server.url)
    nothing = lmx("pull", "--cancel", "org/c", "--url", server.url)

    assert (0, "the download of org/a is cancelled\n") == (result.status, result.out)
    assert (1, "error: org/c is not being downloaded\n") == (nothing.status, nothing.err)
    assert 2 == lmx("pull", "--cancel", "org/a", "--revision", "v1", "--url", server.url).status


def test_a_server_of_another_version(server: StandIn, lmx: Lmx) -> None:
    """A progress in another form is told as that, not as a traceback."""
    server.answer("/admin/models/download", {"download_id": "dl-1"})
    server.answer(PROGRESS, {"status": "hm"})

    assert "a form this version of lmx does not know" in lmx("pull", "org/a", "--url", server.url).err


def test_removing_a_model(server: StandIn, lmx: Lmx) -> None:
    """What it freed is told; the server's refusal is status 1 in its own words."""
    server.answer("/admin/models/org/a", {"success": True, "model_id": "org/a", "freed_bytes": 2048})
    server.refuse("/admin/models/org/b", 409, "model_in_use", "unload it first")
    removed, refused = lmx("rm", "org/a", "--url", server.url), lmx("rm", "org/b", "--url", server.url)

    assert (0, "org/a is gone; 2.0K are free again\n") == (removed.status, removed.out)
    assert (1, "error: unload it first (model_in_use)\n") == (refused.status, refused.err)


PROMPT = {
    "status": "download_required",
    "model_id": "org/a",
    "estimated_size_bytes": 3 * 1024**3,
    "confirmation_token": "dl-t",
    "message": "org/a is not on this machine. Confirm.",
}
LOADED = {"success": True, "model_id": "org/a", "memory_after_load_gb": None, "time_to_load_ms": None}


def test_a_load_that_needs_a_download_asks_first(server: StandIn, lmx: Lmx) -> None:
    """Confirmed, it downloads, watches, and returns when the model is served."""
    server.answer("/admin/workers", fleet_document())
    answer_one_after_the_other(server, LOAD, PROMPT, LOADED)
    server.answer("/admin/models/load/confirm", {"status": "downloading", "download_id": "dl-1"})
    server.answer(PROGRESS, DONE)
    result = lmx("load", "org/a", "--url", server.url, stdin="y\n")

    assert 0 == result.status, result.err
    assert [{"confirmation_token": "dl-t"}] == server.bodies("/admin/models/load/confirm")
    assert "org/a is served" in result.out


@pytest.mark.parametrize(("answer", "words"), [("n\n", "lmx load --download"), ("", "Confirm.")])
def test_a_load_that_is_not_confirmed(server: StandIn, lmx: Lmx, answer: str, words: str) -> None:
    """No, or nobody there to ask: nothing is downloaded, and it says how to."""
    server.answer("/admin/workers", fleet_document())
    server.answer(LOAD, PROMPT)
    result = lmx("load", "org/a", "--url", server.url, stdin=answer)

    assert 1 == result.status
    assert words in result.err
    assert [] == server.bodies("/admin/models/load/confirm")


def test_a_load_with_download(server: StandIn, lmx: Lmx) -> None:
    """`--download` asks nobody."""
    server.answer("/admin/workers", fleet_document())
    answer_one_after_the_other(server, LOAD, {**PROMPT, "status": "downloading", "download_id": "dl-1"}, LOADED)
    server.answer(PROGRESS, DONE)
    result = lmx("load", "org/a", "--download", "--json", "--url", server.url)

    assert 0 == result.status, result.err
    assert LOADED == msgspec.json.decode(result.out)
    assert [{"model_id": "org/a", "auto_download": True}] * 2 == server.bodies(LOAD)
