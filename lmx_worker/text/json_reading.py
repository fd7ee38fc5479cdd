"""JSON that a model writes, read while it arrives: single values, and the arguments of a call passed on as they come.

Covers the one deviation that is common and harmless: line breaks and other control characters inside strings, which become
escapes. Anything else that is no JSON is `MalformedError`.
"""

import json
import re
from typing import Any, NoReturn

from lmx_worker.text.pieces import CallArguments, CallBegun, Steps
from lmx_worker.text.source import MalformedError, Source

_STRING_END, _ESCAPE = '"', "\\"
_IN_STRING = re.compile(r'[^"\\]*')
_SCALAR = re.compile(r"[\w.+-]*", re.ASCII)
_BETWEEN_BRACKETS = re.compile(r"[\s,:\w.+-]*", re.ASCII)
_CLOSING = {"{": "}", "[": "]"}
_CONTROL_CHARACTERS = {code: json.dumps(chr(code))[1:-1] for code in range(0x20)}


def json_string(source: Source) -> Steps[str]:
    """A whole JSON string, decoded."""
    yield from source.expect(_STRING_END)
    return decoded_string((yield from _whole_string_rest(source))[:-1])


def json_value(source: Source) -> Steps[str]:
    """A whole JSON value, as its text."""
    first = yield from source.peek()
    if first == _STRING_END:
        text = yield from source.character()
        text += yield from _whole_string_rest(source)
    elif first in _CLOSING:
        text = yield from _container(source, pass_on=False)
    else:
        text = yield from source.matching(_SCALAR)
    parsed(text)
    return text


def call_arguments(source: Source, name: str, call_id: str = "") -> Steps[None]:
    """A call of this tool whose arguments come next: an object, a string that holds one, or null for none.

    The call is begun when its arguments have begun; before that nothing is settled.
    """
    first = yield from source.peek()
    if first == "{":
        yield CallBegun(name, call_id)
        yield from _container(source, pass_on=True)
        return
    text = yield from json_value(source)
    yield from whole_call(source, name, object_text(text), call_id)


def whole_call(source: Source, name: str, arguments: str, call_id: str = "") -> Steps[None]:
    """A call whose arguments, JSON text, have been read already."""
    yield CallBegun(name, call_id)
    yield CallArguments(arguments)
    source.settle()


def object_text(value: str) -> str:
    """The JSON text of an object, from the text of: an object, a string that holds one, or null for an empty one."""
    found = parsed(value)
    if isinstance(found, str):
        value, found = found, parsed(found)
    if found is None:
        return "{}"
    if not isinstance(found, dict):
        raise MalformedError
    return value


def parsed(text: str) -> Any:
    """What a JSON text says. Raises `MalformedError`."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise MalformedError from error


def decoded_string(raw: str) -> str:
    """The string whose JSON form, without its quotes, is `raw`. Raises `MalformedError`."""
    text: str = parsed(f'"{raw}"')
    return text


def escaped(text: str) -> str:
    """The text as it stands inside a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _container(source: Source, *, pass_on: bool) -> Steps[str]:
    """An object or array: passed on as arguments while it is read, and settled; or else returned whole."""
    text, open_brackets = "", ""
    while True:
        part = yield from source.matching(_BETWEEN_BRACKETS)
        character = yield from source.character()
        part += character
        if character in _CLOSING:
            open_brackets += character
        elif open_brackets and character == _CLOSING[open_brackets[-1]]:
            open_brackets = open_brackets[:-1]
        elif character != _STRING_END:
            raise MalformedError
        if pass_on:
            yield CallArguments(part)
            source.settle()
            if character == _STRING_END:
                yield from _pass_string_rest_on(source)
        else:
            text += part
            if character == _STRING_END:
                text += yield from _whole_string_rest(source)
        if not open_brackets:
            return text


def _pass_string_rest_on(source: Source) -> Steps[None]:
    while (mark := (yield from source.flow(_inside_string, (_STRING_END, _ESCAPE), trim=_nothing))) is not None:
        if mark == _ESCAPE:
            mark += yield from source.character()
        yield CallArguments(mark)
        source.settle()
        if mark == _STRING_END:
            return
    raise MalformedError


def _whole_string_rest(source: Source) -> Steps[str]:
    """The rest of a string after its opening quote, with the closing one, as it is written."""
    text = ""
    while True:
        text += (yield from source.matching(_IN_STRING)).translate(_CONTROL_CHARACTERS)
        character = yield from source.character()
        if character == _ESCAPE:
            character += yield from source.character()
        text += character
        if character == _STRING_END:
            return text


def _inside_string(text: str) -> CallArguments:
    return CallArguments(text.translate(_CONTROL_CHARACTERS))


def _nothing(text: str) -> str:
    return text
