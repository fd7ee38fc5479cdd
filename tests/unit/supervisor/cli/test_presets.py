"""`lmx presets` against a server that answers as told."""

import json
from typing import Any

from tests.unit.supervisor.cli.conftest import Lmx
from tests.unit.supervisor.cli.stand_in import StandIn

CODER: dict[str, Any] = {
    "name": "coder",
    "description": "Writes code.",
    "model": "org/coder",
    "parameters": {"temperature": 0.1},
    "system_prompt": "You write code.",
    "routing_alias": "code",
    "auto_load": True,
    "performance": {"slots": 2},
    "chat_template": None,
}


def test_the_list(lmx: Lmx, server: StandIn) -> None:
    """One line per preset; `--json` is the server's own document."""
    server.answer("/admin/presets", {"presets": [CODER], "count": 1})
    assert lmx("presets", "--url", server.url).out.splitlines() == [
        "NAME   MODEL      ALIAS  DESCRIPTION",
        "coder  org/coder  code   Writes code.",
    ]
    assert json.loads(lmx("presets", "--json", "--url", server.url).out)["presets"] == [CODER]


def test_no_presets(lmx: Lmx, server: StandIn) -> None:
    """What to do about it."""
    server.answer("/admin/presets", {"presets": [], "count": 0})
    assert lmx("presets", "--url", server.url).out.startswith("there are no presets; put NAME.yaml files")


def test_one_of_them(lmx: Lmx, server: StandIn) -> None:
    """Everything it says, and nothing that it does not."""
    server.answer("/admin/presets/coder", CODER)
    assert lmx("presets", "show", "coder", "--url", server.url).out.splitlines() == [
        "name:          coder",
        "description:   Writes code.",
        "model:         org/coder",
        "alias:         code",
        "auto-load:     at the start",
        "temperature:   0.1",
        "load slots:    2",
        "system prompt: You write code.",
    ]


def test_a_reload(lmx: Lmx, server: StandIn) -> None:
    """How many are in force."""
    server.answer("/admin/presets/reload", {"success": True, "presets_loaded": 5})
    assert lmx("presets", "reload", "--url", server.url).out == "5 presets are in force\n"


def test_an_unknown_one_is_refused_in_the_servers_words(lmx: Lmx, server: StandIn) -> None:
    """One line, status 1."""
    server.refuse("/admin/presets/x", 404, "model_not_found", "There is no preset 'preset:x'; there are none.")
    result = lmx("presets", "show", "x", "--url", server.url)
    assert (result.status, result.err) == (1, "error: There is no preset 'preset:x'; there are none. (model_not_found)\n")


def test_another_form_of_answer_is_told(lmx: Lmx, server: StandIn) -> None:
    """Something else than LMX on that port does not look like a list."""
    server.answer("/admin/presets", {"presets": [{}]})
    result = lmx("presets", "--url", server.url)
    assert (result.status, "does not know" in result.err) == (1, True)
