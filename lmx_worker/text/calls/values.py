"""Arguments that stand as plain text between marks: passed on as JSON, as the tool's schema types them."""

import json

from lmx_worker.text.json_reading import escaped
from lmx_worker.text.pieces import CallArguments, Steps
from lmx_worker.text.source import MalformedError, Source
from lmx_worker.text.tool_book import json_of_text

VALUE_CHARACTERS_MAX = 1024 * 1024
"""Of a value that has to be whole before it can be typed; text is passed on as it comes."""

_ONLY_TEXT = frozenset(("string",))


class ArgumentsWriter:
    """The JSON object that the arguments of one call become."""

    def __init__(self) -> None:
        self._separator = "{"

    def begin(self, key: str) -> CallArguments:
        """The next argument, up to its value."""
        start = f"{self._separator}{json.dumps(key, ensure_ascii=False)}: "
        self._separator = ", "
        return CallArguments(start)

    def end(self) -> CallArguments:
        """No more arguments."""
        return CallArguments("{}" if self._separator == "{" else "}")


def text_value(
    source: Source, closer: str, types: frozenset[str], *, has_line_breaks: bool, prefix: CallArguments
) -> Steps[None]:
    """A value up to its closing mark, with it, after `prefix` and as one of these JSON types; a text is passed on as it comes.

    `has_line_breaks`: a line break after the opening mark and one before the closing mark are no part of the value.
    """
    if types != _ONLY_TEXT:
        text = yield from source.until(closer, characters_max=VALUE_CHARACTERS_MAX)
        if has_line_breaks:
            text = _without_line_break(text.removeprefix("\n"))
        yield prefix
        yield CallArguments(json_of_text(text, types))
        source.settle()
        return
    if has_line_breaks:
        yield from source.accept("\n")
    yield CallArguments(prefix.text + '"')
    source.settle()
    marker = yield from source.flow(_as_json, (closer,), trim=_without_line_break if has_line_breaks else _whole)
    if marker is None:
        raise MalformedError
    yield CallArguments('"')
    source.settle()


def _as_json(text: str) -> CallArguments:
    return CallArguments(escaped(text))


def _without_line_break(text: str) -> str:
    return text.removesuffix("\n")


def _whole(text: str) -> str:
    return text
