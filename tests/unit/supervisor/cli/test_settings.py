"""KEY=VALUE on the command line."""

from typing import Any

import pytest

from lmx_supervisor.cli.failures import UsageFailure
from lmx_supervisor.cli.settings import read_settings
from tests.unit.supervisor.cli.conftest import Lmx
from tests.unit.supervisor.cli.stand_in import StandIn


@pytest.mark.parametrize(
    ("given", "table"),
    [
        ([], {}),
        (["slots=8", "temperature=0.5", "prefix_cache=false", "threads=null"],
         {"slots": 8, "temperature": 0.5, "prefix_cache": False, "threads": None}),
        (["stop=END", 'stop2=["a=b", "c"]', "empty="], {"stop": "END", "stop2": ["a=b", "c"], "empty": ""}),
        (["scheduler.max_num_seqs=8", "scheduler.x=1"], {"scheduler": {"max_num_seqs": 8, "x": 1}}),
        (["a=NaN", "b=1e999"], {"a": "NaN", "b": "1e999"}),
        (["a=1", "a=2"], {"a": 2}),
    ],
)  # fmt: skip
def test_values_are_json_where_they_can_be(given: list[str], table: dict[str, Any]) -> None:
    """Numbers, booleans and lists are sent as such, everything else as text; a dot leads into a group."""
    assert read_settings(given) == table


@pytest.mark.parametrize("given", ["slots", "=8", "a..b=1", ".=1"])
def test_what_is_no_setting_is_refused(given: str) -> None:
    """Before anything is sent, with an example of what would be one."""
    with pytest.raises(UsageFailure, match="KEY=VALUE"):
        read_settings([given])


def test_a_group_that_is_a_value_is_refused() -> None:
    """One of the two was meant; guessing which helps nobody."""
    with pytest.raises(UsageFailure, match="a is set"):
        read_settings(["a=1", "a.b=2"])


def test_a_load_sends_its_settings(server: StandIn, lmx: Lmx) -> None:
    """`--set` becomes the load's performance overrides; without it the field is left out."""
    server.answer("/admin/models/load", {"success": True, "model_id": "m"})
    for arguments in (("--set", "slots=8", "--set", "stop=END"), ()):
        assert 0 == lmx("load", "m", *arguments, "--url", server.url).status

    assert [{"model_id": "m", "performance_overrides": {"slots": 8, "stop": "END"}}, {"model_id": "m"}] == server.bodies(
        "/admin/models/load"
    )
