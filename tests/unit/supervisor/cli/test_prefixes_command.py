"""`lmx prefixes` against a server that answers as told."""

import json

import pytest

from tests.unit.supervisor.cli.conftest import Lmx
from tests.unit.supervisor.cli.stand_in import StandIn

PATH = "/admin/prefix-cache"
USE = {"enabled": True, "files": 3, "bytes": 3 * 1024**2, "bytes_max": 8 * 1024**3}


@pytest.mark.parametrize(("enabled", "ending"), [(True, "at most 8.0G"), (False, "none are kept any more")])
def test_it_says_what_they_take(lmx: Lmx, server: StandIn, enabled: bool, ending: str) -> None:
    """One line for people, the document for programs."""
    server.answer(PATH, {**USE, "enabled": enabled})
    assert lmx("prefixes", "--url", server.url).out == f"3 computed prompts take 3.0M; {ending}\n"
    assert json.loads(lmx("prefixes", "--json", "--url", server.url).out)["files"] == 3


@pytest.mark.parametrize(("argument", "path"), [("org/tiny", f"{PATH}/org/tiny"), ("--all", PATH)])
def test_clearing_says_what_is_free(lmx: Lmx, server: StandIn, argument: str, path: str) -> None:
    """One model by its id, all of them by an explicit option."""
    server.answer(path, {"success": True, "freed_bytes": 2 * 1024**2})
    result = lmx("prefixes", "clear", argument, "--url", server.url)
    assert (result.status, result.out) == (0, "2.0M are free again\n")
    assert [asked.path for asked in server.asked] == [path]


def test_clearing_needs_to_know_what(lmx: Lmx, server: StandIn) -> None:
    """Neither a model nor `--all`, or both: nothing is asked of the server."""
    assert lmx("prefixes", "clear", "--url", server.url).status == 2
    assert lmx("prefixes", "clear", "tiny", "--all", "--url", server.url).status == 2
    assert server.asked == []
