"""`lmx events` against a server that answers as told."""

import json

import pytest

from tests.unit.supervisor.cli.conftest import Lmx
from tests.unit.supervisor.cli.stand_in import StandIn, event

LISTED = "/admin/events?last_event_id=0&follow=false"
FOLLOWED = "/admin/events?last_event_id=0&follow=true"

CRASH = {
    "id": 7,
    "type": "worker_exited",
    "timestamp": 1_700_000_000.5,
    "model_id": "tiny",
    "reason": "native_crash",
    "code": None,
    "text": "it crashed\n\x1b[2Jat once",
}
COMPLETED = {"id": 8, "type": "request_completed", "timestamp": 1_700_000_001.0, "model_id": "tiny"}
GAP = {"type": "gap", "from_id": 8, "to_id": 20}
STREAM = [
    b"retry: 2000\n\n",
    event(json.dumps({"timestamp": 1.0})),
    event(json.dumps({"type": "gap", "from_id": 0, "to_id": 7})),
    event(json.dumps(CRASH)),
    event(json.dumps(COMPLETED)),
    event(json.dumps(GAP)),
]


def test_events_are_lines(lmx: Lmx, server: StandIn) -> None:
    """One event is one line: when, what, which model, and the fields that are known; a real gap is told, heartbeats are not."""
    server.routes[LISTED] = lambda _: (200, iter(STREAM))
    result = lmx("events", "--url", server.url, "--admin-key", "secret")
    crash, gap = result.out.splitlines()
    assert "  worker_exited  tiny  reason=native_crash text=it crashed " in crash
    assert "\x1b" not in crash
    assert "code=" not in crash
    assert "between 8 and 20" in gap
    assert server.asked[0].headers["X-Admin-Key"] == "secret"


@pytest.mark.parametrize(("arguments", "path"), [((), LISTED), (("--follow",), FOLLOWED), (("-f",), FOLLOWED)])
def test_json_is_one_document_per_line(lmx: Lmx, server: StandIn, arguments: tuple[str, ...], path: str) -> None:
    """Scripts get each event as the server sent it, while following as well; the end of the stream is no failure."""
    server.routes[path] = lambda _: (200, iter(STREAM))
    result = lmx("events", "--json", "--url", server.url, *arguments)
    assert [json.loads(line) for line in result.out.splitlines()] == [CRASH, GAP]
    assert result.status == 0


def test_the_end_of_every_request_is_listed_only_when_asked_for(lmx: Lmx, server: StandIn) -> None:
    """On a busy service they would hide the rest."""
    server.routes[LISTED] = lambda _: (200, iter(STREAM))
    assert "request_completed" not in lmx("events", "--url", server.url).out
    assert "request_completed  tiny" in lmx("events", "--requests", "--url", server.url).out


def test_a_refusal_is_the_server_s_words(lmx: Lmx, server: StandIn) -> None:
    """A missing key is one line on stderr."""
    server.refuse(LISTED, 403, "invalid_admin_key", "Invalid or missing admin key")
    result = lmx("events", "--url", server.url)
    assert (result.status, result.out) == (1, "")
    assert result.err == "error: Invalid or missing admin key (invalid_admin_key)\n"


@pytest.mark.parametrize("data", ["[DONE]", "[1]", "{" * 5000])
def test_a_stream_of_something_else_is_told(lmx: Lmx, server: StandIn, data: str) -> None:
    """What listens there may be no LMX server; that is one line, not a traceback."""
    server.routes[LISTED] = lambda _: (200, iter([event(data)]))
    result = lmx("events", "--url", server.url)
    assert result.status == 1
    assert "something else than events" in result.err
