"""`lmx config reload` against a server that answers as told."""

import json

from tests.unit.supervisor.cli.conftest import Lmx
from tests.unit.supervisor.cli.stand_in import StandIn

PATH = "/admin/config/reload"


def test_reload_says_what_changed_and_what_waits(lmx: Lmx, server: StandIn) -> None:
    """Two lines: what is in force, and what needs a restart; `--json` is the server's own document."""
    document = {"success": True, "updated": ["logging.level"], "ignored": ["server.port"]}
    server.answer(PATH, document)
    assert lmx("config", "reload", "--url", server.url).out == "in force now: logging.level\nafter a restart: server.port\n"
    assert json.loads(lmx("config", "reload", "--json", "--url", server.url).out) == document


def test_reload_of_an_unchanged_file_says_so(lmx: Lmx, server: StandIn) -> None:
    """Nothing new is an answer too."""
    server.answer(PATH, {"success": True, "updated": [], "ignored": []})
    assert lmx("config", "reload", "--url", server.url).out == "in force now: nothing new\n"


def test_a_refused_reload_is_the_servers_words(lmx: Lmx, server: StandIn) -> None:
    """The file's fault is one line with status 1."""
    server.refuse(PATH, 400, "invalid_value", "Nothing was changed.")
    result = lmx("config", "reload", "--url", server.url)
    assert (result.status, result.err) == (1, "error: Nothing was changed. (invalid_value)\n")


def test_another_form_of_answer_is_told(lmx: Lmx, server: StandIn) -> None:
    """Something else than LMX on that port does not look like a success."""
    server.answer(PATH, {"success": True})
    result = lmx("config", "reload", "--url", server.url)
    assert result.status == 1
    assert "does not know" in result.err
