"""A raw value against the type of its key; what is wrong with it is told for the very entry, and never shows a secret."""

import difflib
from typing import Annotated, Any, get_args, get_origin

import msgspec

from lmx_supervisor.config.error import ConfigError, unknown
from lmx_supervisor.config.keys import (
    Key,
    all_keys,
    holds_secret,
    in_words,
    literal_spelling,
    name_in_words,
    takes_text,
    variable_of,
)
from lmx_supervisor.config.predecessor import OLD_KEYS
from lmx_supervisor.config.sources import COMMAND_LINE, ENVIRONMENT, FLAGS

_SHOWN_VALUE_CHARACTERS_MAX = 80


def checked(key: Key, raw: Any, source: str, written_as: str) -> Any:
    """The value of a key that is written under this name there. Raises `ConfigError`."""
    name = name_at(source, written_as)
    plain = _without_bounds(key.annotation)
    if isinstance(raw, dict) and get_origin(plain) is dict:
        names, entries = get_args(plain)
        for entry_name, entry in raw.items():
            _check_entry_name(source, f"{name}.{entry_name}", names, entry_name)
            if isinstance(entries, type) and issubclass(entries, msgspec.Struct):
                _check_entry(source, f"{name}.{entry_name}", entries, entry)
    return _converted(source, name, key.annotation, raw, key.expected)


def name_at(source: str, dotted: str) -> str:
    """A key as the operator has to write it in that place."""
    if source == COMMAND_LINE:
        return FLAGS.get(dotted, dotted)
    return variable_of(key_of(dotted)) if source == ENVIRONMENT else dotted


def key_of(dotted: str) -> str:
    """The key that an entry is written in: `models.paths` of `models.paths.some/model`."""
    key = dotted
    while key and key not in all_keys() and key not in OLD_KEYS:
        key = key.rpartition(".")[0]
    return key or dotted


def _without_bounds(annotation: Any) -> Any:
    """`dict[...]` of `Annotated[dict[...], bounds]`."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _check_entry_name(source: str, name: str, kind: Any, entry_name: Any) -> None:
    """The names of a map's entries are chosen by the operator, within bounds. Raises `ConfigError`."""
    try:
        msgspec.convert(entry_name, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(source, name, f"cannot be called that: expected {name_in_words(kind)}") from error


def _check_entry(source: str, name: str, kind: type[msgspec.Struct], raw: Any) -> None:
    if not isinstance(raw, dict):
        raise ConfigError(source, name, f"expected {in_words(msgspec.inspect.type_info(kind))}")
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    for field_name, value in raw.items():
        if field_name not in fields:
            close = difflib.get_close_matches(str(field_name), fields, n=1)
            raise unknown(source, f"{name}.{field_name}", "key", close[0] if close else None)
        annotation = fields[field_name].type
        _converted(source, f"{name}.{field_name}", annotation, value, in_words(msgspec.inspect.type_info(annotation)))


def _converted(source: str, name: str, annotation: Any, raw: Any, expected: str) -> Any:
    try:
        return msgspec.convert(literal_spelling(annotation, raw), annotation)
    except (msgspec.ValidationError, RecursionError) as error:
        if raw == "" and takes_text(annotation):
            raise ConfigError(source, name, "must not be empty; leave it out to have the default") from error
        got = "" if holds_secret(annotation) else f", got {_shown(raw)}"
        raise ConfigError(source, name, f"expected {expected}{got}") from error


def _shown(value: Any) -> str:
    """As it would be written in a file; never several lines."""
    try:
        # YAML's words, not Python's: true, null. A text is told from a number by its quotes.
        text = repr(value) if isinstance(value, str | float) else msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError, UnicodeError):
        text = repr(value)
    return text if len(text) <= _SHOWN_VALUE_CHARACTERS_MAX else text[:_SHOWN_VALUE_CHARACTERS_MAX] + "…"
