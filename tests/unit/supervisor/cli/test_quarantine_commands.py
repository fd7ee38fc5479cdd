"""`lmx quarantine` and `lmx restart` against a server that answers as told."""

import json

import pytest

from lmx_protocol.states import Readiness, WorkerState
from lmx_supervisor.core.views import ReadinessView
from tests.unit.supervisor.cli.conftest import Lmx
from tests.unit.supervisor.cli.stand_in import StandIn, fleet_document, worker

BAD = worker(
    "bad",
    state=WorkerState.QUARANTINED,
    readiness=ReadinessView(state=Readiness.QUARANTINED, reason="crash_loop:3", crash_count=3),
)


def test_the_list_shows_only_what_is_quarantined_and_why(lmx: Lmx, server: StandIn) -> None:
    """One line per model with the reason; `--json` has the whole entries."""
    server.answer("/admin/workers", fleet_document(worker("fine"), BAD))
    lines = lmx("quarantine", "--url", server.url).out.splitlines()
    assert [line.split()[:3] for line in lines] == [["MODEL", "BACKEND", "REASON"], ["bad", "llamacpp", "crash_loop:3"]]
    assert "killed" in lines[1]
    assert [entry["model_id"] for entry in json.loads(lmx("quarantine", "--json", "--url", server.url).out)] == ["bad"]


def test_an_empty_quarantine_says_so(lmx: Lmx, server: StandIn) -> None:
    """No headers over nothing."""
    server.answer("/admin/workers", fleet_document(worker("fine")))
    assert lmx("quarantine", "--url", server.url).out == "no model is quarantined\n"


@pytest.mark.parametrize(("argument", "model_id"), [("bad", "bad"), ("--all", None)])
def test_clearing_names_what_was_released(lmx: Lmx, server: StandIn, argument: str, model_id: str | None) -> None:
    """One model by its id, all of them by an explicit option."""
    server.answer("/admin/quarantine/clear", {"success": True, "released": ["bad"]})
    result = lmx("quarantine", "clear", argument, "--url", server.url)
    assert (result.status, result.out) == (0, "bad is released; load it with: lmx load bad\n")
    assert server.bodies("/admin/quarantine/clear") == [{"model_id": model_id}]


def test_clearing_needs_to_know_what(lmx: Lmx, server: StandIn) -> None:
    """Neither a model nor `--all`, or both: nothing is asked of the server."""
    assert lmx("quarantine", "clear", "--url", server.url).status == 2
    assert lmx("quarantine", "clear", "bad", "--all", "--url", server.url).status == 2
    assert server.asked == []


def test_a_restart_says_how_long_it_took(lmx: Lmx, server: StandIn) -> None:
    """The id travels in the path, slashes and all."""
    server.answer("/admin/models/org/tiny/restart", {"success": True, "model_id": "org/tiny", "time_to_load_ms": 1500.0})
    result = lmx("restart", "org/tiny", "--url", server.url)
    assert (result.status, result.out) == (0, "org/tiny is served again after 1.5 s\n")


def test_a_refused_restart_is_the_servers_words(lmx: Lmx, server: StandIn) -> None:
    """One line, status 1."""
    server.refuse("/admin/models/x/restart", 404, "model_not_found", "Model 'x' is not served; load it instead.")
    result = lmx("restart", "x", "--url", server.url)
    assert (result.status, result.err) == (1, "error: Model 'x' is not served; load it instead. (model_not_found)\n")
