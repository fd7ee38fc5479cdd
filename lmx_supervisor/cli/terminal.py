"""What goes to the user's terminal: plain text on stdout, remarks on stderr, JSON documents, tables that fit."""

import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

import msgspec

_ELLIPSIS = "…"
_GAP = "  "

# A model's words must not move the cursor, change the title or answer for the user: control characters become visible instead.
_VISIBLE = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """The text with every control character but newline and tab replaced."""
    return text.translate(_VISIBLE)


def write(text: str) -> None:
    """A piece of an answer, at once."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def remark(text: str) -> None:
    """A line for the user that is no part of the result."""
    print(printable(text), file=sys.stderr, flush=True)


def print_json(document: Any) -> None:
    """One JSON document, indented."""
    print(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def terminal_columns() -> int | None:
    """The width of the terminal that stdout is; None when it is a file or a pipe, where nothing needs to fit."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, shrink: Sequence[int] = (), columns: int | None = None
) -> list[str]:
    """Aligned lines, the headers first.

    `shrink` names the columns that may be shortened so that a line fits in `columns` characters, the first one first and
    none to less than its header; None means that there is room for everything.
    """
    cells = [headers, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    if columns is not None:
        excess = sum(widths) + len(_GAP) * (len(widths) - 1) - columns
        for column in shrink:
            taken = max(0, min(excess, widths[column] - len(headers[column])))
            widths[column] -= taken
            excess -= taken
    return [
        _GAP.join(_shorten(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    ]


def wrapped(text: str, columns: int | None) -> list[str]:
    """A sentence in lines of so many characters; what has no blanks, such as a path, stays in one piece to be copied."""
    if columns is None:
        return [printable(text)]
    return textwrap.wrap(printable(text), columns, subsequent_indent=_GAP, break_long_words=False, break_on_hyphens=False)


def _shorten(text: str, width: int) -> str:
    """The text in `width` characters: both ends of a long one, because names differ at their ends."""
    if len(text) <= width:
        return text
    kept = width - len(_ELLIPSIS)
    return text[: kept - kept // 3] + _ELLIPSIS + text[len(text) - kept // 3 :]
