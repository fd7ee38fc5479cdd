"""Values in notations that are near JSON (Python's literals, Gemma's), passed on as JSON while they are read."""

import re
from dataclasses import dataclass

from lmx_worker.text.json_reading import escaped
from lmx_worker.text.pieces import CallArguments, Steps
from lmx_worker.text.source import MalformedError, Source
from lmx_worker.text.tool_book import ANY_TYPE, json_of_text

_IDENTIFIER = re.compile(r"[\w.-]*")
_WORD = re.compile(r"[^,\[\]{}()]*")
_CLOSING = {"{": "}", "[": "]", "(": ")"}
_ESCAPE = "\\"
_ESCAPED = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "b": "\b",
    "f": "\f",
    "a": "\a",
    "v": "\v",
    "0": "\0",
    "\n": "",
    **dict(zip("\\\"'/", "\\\"'/", strict=True)),
}
_CODE_DIGITS = {"x": 2, "u": 4, "U": 8}


@dataclass(frozen=True, slots=True)
class LiteralNotation:
    """How strings are quoted, and whether a backslash in them means something."""

    quotes: tuple[str, ...]
    has_escapes: bool

    def key(self, source: Source) -> Steps[str]:
        """The key of an argument, or of an object: quoted or bare."""
        quote = yield from source.accept_any(self.quotes)
        if quote is not None:
            return (yield from source.until(quote))
        key = yield from source.matching(_IDENTIFIER)
        if not key:
            raise MalformedError
        return key

    def value(self, source: Source) -> Steps[None]:
        """A value, as JSON."""
        yield from source.skip_space()
        quote = yield from source.accept_any(self.quotes)
        if quote is not None:
            yield from self._string(source, quote)
            return
        bracket = yield from source.accept_any(tuple(_CLOSING))
        if bracket is not None:
            yield from self._container(source, bracket)
            return
        word = (yield from source.matching(_WORD)).strip()
        if not word:
            raise MalformedError
        yield CallArguments(json_of_text(word, ANY_TYPE))
        source.settle()

    def _container(self, source: Source, bracket: str) -> Steps[None]:
        is_object = bracket == "{"
        separator, closing = ("{", "}") if is_object else ("[", "]")
        yield from source.skip_space()
        while not (yield from source.accept(_CLOSING[bracket])):
            yield CallArguments(separator)
            if is_object:
                key = yield from self.key(source)
                yield from source.skip_space()
                yield from source.expect(":")
                yield CallArguments(f'"{escaped(key)}": ')
            source.settle()
            separator = ", "
            yield from self.value(source)
            yield from source.skip_space()
            if not (yield from source.accept(",")):
                yield from source.expect(_CLOSING[bracket])
                break
            yield from source.skip_space()
        yield CallArguments(closing if separator == ", " else separator + closing)
        source.settle()

    def _string(self, source: Source, quote: str) -> Steps[None]:
        yield CallArguments('"')
        source.settle()
        markers = (quote, _ESCAPE) if self.has_escapes else (quote,)
        while (mark := (yield from source.flow(_as_json, markers, trim=_whole))) is not None:
            if mark == quote:
                yield CallArguments('"')
                source.settle()
                return
            yield CallArguments(escaped((yield from _escaped_character(source))))
            source.settle()
        raise MalformedError


def _escaped_character(source: Source) -> Steps[str]:
    """What a backslash and what follows it stand for."""
    character = yield from source.character()
    if character not in _CODE_DIGITS:
        return _ESCAPED.get(character, _ESCAPE + character)
    digits = ""
    for _ in range(_CODE_DIGITS[character]):
        digits += yield from source.character()
    try:
        return chr(int(digits, 16))
    except ValueError as error:
        raise MalformedError from error


def _as_json(text: str) -> CallArguments:
    return CallArguments(escaped(text))


def _whole(text: str) -> str:
    return text
