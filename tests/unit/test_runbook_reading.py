"""The reader of docs/operations.md finds every command, and notices an answer that is not as documented."""

import re
from typing import Any

import pytest

from tests.support.runbook import PAGE, all_commands, misfit

DOCUMENTED = {"id": "dl-...", "n": 1, "on": True, "any": None, "each": [{"x": "..."}], "two": ["a", "b"]}
REAL = {"id": "dl-7", "n": 2.5, "on": True, "any": {}, "each": [{"x": "1", "y": 2}, {"x": ""}], "two": ["a", "b"], "more": 1}


def test_no_curl_of_the_page_is_overlooked() -> None:
    """As many commands are read as the page has lines that begin with `curl`."""
    lines = re.findall(r"^curl ", PAGE.read_text(), re.MULTILINE)
    assert len([command for command in all_commands() if command.is_curl]) == len(lines) > 80


def test_what_stands_with_a_command_is_read_with_it() -> None:
    """Its number, method and path, the answer below it, and the configuration that is changed before it."""
    commands = {command.name: command for command in all_commands()}
    assert commands["2.6/1"].short == "DELETE /admin/models/mlx-community/some-model"
    assert commands["1.6/1"].answer == {"status": "ok", "version": "..."}
    assert commands["3.2/6"].settings == {"memory.ttl_enabled": True, "memory.ttl_seconds": 1800}
    assert commands["3.5/7"].settings == {"models.per_model_concurrency_limits": {"slow-model": 1}}


def test_an_answer_as_documented_fits() -> None:
    """More keys, other numbers and texts where `...` stands are no misfit."""
    assert misfit(DOCUMENTED, REAL) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": "7"}, "the answer.id is '7'"),
        ({"n": True}, "the answer.n is True, not a number"),
        ({"on": False}, "the answer.on is False"),
        ({"each": []}, "not a list like"),
        ({"each": [{"x": "1"}, {}]}, "the answer.each[1] has no x"),
        ({"two": ["b", "a"]}, "the answer.two[0] is 'b'"),
        ({"two": ["a"]}, "not a list like"),
    ],
)
def test_an_answer_that_is_not_as_documented_is_told(change: dict[str, Any], words: str) -> None:
    """Each kind of difference is found, with its place."""
    assert words in str(misfit(DOCUMENTED, {**REAL, **change}))


def test_a_missing_field_is_told() -> None:
    """What is documented has to be there, whatever its value."""
    assert "has no any" in str(misfit(DOCUMENTED, {name: value for name, value in REAL.items() if name != "any"}))
