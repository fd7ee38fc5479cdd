"""docs/configuration.md has every key as the schema has it."""

from pathlib import Path

import pytest

from lmx_supervisor.config.reference import BEGIN, END, renewed

PAGE = Path(__file__).parents[4] / "docs" / "configuration.md"


def test_the_page_is_what_the_schema_says() -> None:
    """A key that was added, moved or reworded is in the page too; the line to renew it stands in the page."""
    page = PAGE.read_text(encoding="utf-8")
    assert page == renewed(page), f"docs/configuration.md is out of date; renew it: {BEGIN.strip()}"


def test_the_rest_of_a_page_is_left_alone() -> None:
    """Only what stands between the two marks is generated."""
    page = renewed(f"before\n{BEGIN}stale\n{END}after\n")
    assert page.startswith(f"before\n{BEGIN}\n### server\n")
    assert page.endswith(f"{END}after\n")
    assert "stale" not in page


def test_a_page_without_the_marks_is_refused() -> None:
    """Nothing is appended to a page that has no place for it."""
    with pytest.raises(ValueError, match="no place"):
        renewed("no marks")
