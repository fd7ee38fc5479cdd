"""Pieces of Markdown from text that anybody may have chosen: no line break, table cell or heading comes out of it. Pure."""

import re
from collections.abc import Mapping, Sequence

import msgspec

from lmx_protocol import limits

_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_MARKS = re.compile(r"([\\`*_|<>\[\]])")


def plain(value: object) -> str:
    """A value on one line, its special characters escaped, shortened to what a journal needs."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    text = _BREAKS.sub(" ", text).strip()
    if len(text) > limits.JOURNAL_TEXT_CHARACTERS_MAX:
        text = f"{text[: limits.JOURNAL_TEXT_CHARACTERS_MAX]}…"
    return _MARKS.sub(r"\\\1", text)


def front_matter(fields: Mapping[str, object]) -> list[str]:
    """The block of YAML at the top; JSON values are YAML, whatever is in them."""
    return ["---", *(f"{name}: {msgspec.json.encode(value).decode()}" for name, value in fields.items()), "---", ""]


def section(title: str, lines: Sequence[str], *, level: int = 2) -> list[str]:
    """A heading and what is below it; a section that has nothing to say says so."""
    return [f"{'#' * level} {title}", "", *(lines or ["None."]), ""]


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """The lines of a table; none without rows."""
    if not rows:
        return []
    lines = [headers, ["---"] * len(headers), *([plain(cell) for cell in row] for row in rows)]
    return [f"| {' | '.join(cells)} |" for cells in lines]
