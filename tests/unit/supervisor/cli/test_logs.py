"""`lmx logs` against a server that answers as told, and what the shell is offered."""

import json
import socket
import time

import pytest

from lmx_protocol import limits
from lmx_supervisor.cli import completion
from tests.unit.supervisor.cli.conftest import Lmx
from tests.unit.supervisor.cli.stand_in import StandIn, event, fleet_document, worker

READ = "/admin/workers/org%2Ftiny/logs?follow=false"
FOLLOWED = "/admin/workers/org%2Ftiny/logs?follow=true"
PLACES = {
    "log_output": "/var/log/lmx.log",
    "log_file": None,
    "journaling": False,
    "session_logs_dir": "/home/s",
    "update_logs_dir": "/home/u",
    "crashes_dir": "/home/c",
}
OUTPUT = {"type": "output", "incarnation": "boot-1", "lines": ["one", "tw\x1b[2Jo"]}
GAP = {"type": "gap", "incarnation": "boot-1", "lost_bytes": 70}
STREAM = [b"retry: 2000\n\n", event(json.dumps({"timestamp": 1.0})), event(json.dumps(GAP)), event(json.dumps(OUTPUT))]


@pytest.mark.parametrize(("arguments", "path"), [((), READ), (("--follow",), FOLLOWED), (("-f",), FOLLOWED)])
def test_a_workers_lines_go_to_stdout(lmx: Lmx, server: StandIn, arguments: tuple[str, ...], path: str) -> None:
    """As they were printed, but without what drives a terminal; what is lost is a remark, not a line."""
    server.routes[path] = lambda _: (200, iter(STREAM))
    result = lmx("logs", "org/tiny", "--url", server.url, *arguments)

    assert (0, "one\ntw\N{REPLACEMENT CHARACTER}[2Jo\n") == (result.status, result.out)
    assert "70 bytes" in result.err


def test_json_is_one_document_per_line(lmx: Lmx, server: StandIn) -> None:
    """Scripts get each part as the server sent it."""
    server.routes[READ] = lambda _: (200, iter(STREAM))
    result = lmx("logs", "org/tiny", "--json", "--url", server.url)

    assert [GAP, OUTPUT] == [json.loads(line) for line in result.out.splitlines()]


def test_without_a_model_the_places_are_told(lmx: Lmx, server: StandIn) -> None:
    """One line each, within a terminal's width, and whether a journal is written at all."""
    server.answer("/admin/logs", PLACES)
    result = lmx("logs", "--url", server.url)
    lines = result.out.splitlines()

    assert "log           /var/log/lmx.log" == lines[0]
    assert "journaling.enabled is false" in lines[2]
    assert max(map(len, lines)) <= 80
    assert PLACES == json.loads(lmx("logs", "--json", "--url", server.url).out)


def test_following_nothing_is_a_usage_error(lmx: Lmx) -> None:
    """It says what does that."""
    result = lmx("logs", "--follow")

    assert 2 == result.status
    assert "lmx events --follow" in result.err


@pytest.mark.parametrize("data", ["[1]", "nonsense", "{" * 5000])
def test_a_stream_of_something_else_is_told(lmx: Lmx, server: StandIn, data: str) -> None:
    """What listens there may be no LMX server; that is one line, not a traceback."""
    server.routes[READ] = lambda _: (200, iter([event(data)]))
    result = lmx("logs", "org/tiny", "--url", server.url)

    assert (1, True) == (result.status, "something else than output" in result.err)


def complete(lmx: Lmx, monkeypatch: pytest.MonkeyPatch, words: str) -> list[str]:
    """What bash is offered after these words."""
    monkeypatch.setenv("_LMX_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    return lmx().out.split()


def test_the_shell_completes_commands_and_models(lmx: Lmx, server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands by their names; models from the running server: those with a worker where one is needed, all others too else."""
    monkeypatch.setenv("LMX_URL", server.url)
    server.answer("/admin/workers", fleet_document(worker("org/tiny"), worker("other")))
    server.answer("/admin/models/available", [{"repo_id": "org/on-disk", "local_path": "/x", "size_bytes": 1}])

    assert ["quantize", "quarantine"] == complete(lmx, monkeypatch, "lmx qu")
    assert ["org/tiny"] == complete(lmx, monkeypatch, "lmx unload org/")
    assert ["org/tiny"] == complete(lmx, monkeypatch, "lmx logs o" + "rg")
    assert ["org/on-disk", "org/tiny"] == complete(lmx, monkeypatch, "lmx load org")


def test_a_server_that_is_not_there_or_refuses_offers_nothing(
    lmx: Lmx, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No error, no text: the shell has no place for it."""
    monkeypatch.setenv("LMX_URL", server.url)
    server.refuse("/admin/workers", 403, "invalid_admin_key", "Invalid or missing admin key")
    server.answer("/admin/models/available", {"unexpected": [1]})
    assert [] == completion.known_models("")
    monkeypatch.setenv("LMX_URL", "http://127.0.0.1:1")
    assert [] == completion.known_models("")
    monkeypatch.setenv("LMX_URL", "no address")
    assert [] == completion.served_models("")


def test_a_server_that_is_silent_is_not_waited_for(home: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody sits at the keyboard."""
    monkeypatch.setattr(limits, "COMPLETION_SECONDS", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("LMX_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        assert [] == completion.served_models("")

    assert time.monotonic() - began < limits.CLI_CONNECT_SECONDS


def test_the_shell_is_told_how_to_ask(lmx: Lmx, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script that makes it ask is printed for the shell that wants it, and the help names the options that do that."""
    helped = lmx("--help").out
    monkeypatch.setenv("_LMX_COMPLETE", "source_bash")

    assert "--install-completion" in helped
    assert "--show-completion" in helped
    assert "complete -o default -F _lmx_completion lmx" in lmx().out
