"""The three places a value can come from, each read into flat `dotted key → value` form; types are checked by `load`.

Covers the syntax of files and variables and refuses unknown keys. Does not cover precedence, types and bounds (`load`), what
the predecessor's keys mean (`predecessor`: they are passed on as they are) or rules between keys (`rules`).
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.inspect import BoolType, DictType, FloatType, IntType, NoneType, Type, UnionType, VarTupleType

from lmx_protocol import limits
from lmx_supervisor.config.error import ConfigError, unknown
from lmx_supervisor.config.keys import Key, all_keys, all_sections, nearest_key, nearest_section
from lmx_supervisor.config.predecessor import LATER_SECTIONS, OLD_KEYS, Renamed
from lmx_supervisor.config.yaml_text import YamlTextError, parse_yaml

ENVIRONMENT = "environment"
COMMAND_LINE = "command line"
FLAGS = {"server.host": "--host", "server.port": "--port", "logging.level": "--log-level"}
"""The keys that `lmx serve` has a flag for, as it is typed."""

_DEFAULT_FILES = ("config.yaml", "config.toml")
_TRUE_WORDS = frozenset({"true", "yes", "on", "1"})
_FALSE_WORDS = frozenset({"false", "no", "off", "0"})


def find_file(named: Path | None, environ: Mapping[str, str], home: Path) -> Path | None:
    """The file to read: the named one, else `LMX_CONFIG`, else the first default file that is there, else None."""
    if named is not None:
        return named.expanduser()
    if environ.get("LMX_CONFIG"):
        return Path(environ["LMX_CONFIG"]).expanduser()
    return next((home / name for name in _DEFAULT_FILES if (home / name).exists()), None)


def read_file(path: Path) -> dict[str, Any]:
    """The values of a YAML or TOML file, the predecessor's too. Raises `ConfigError` for a file or key that cannot be used."""
    document = _parse(path, _read_text(path))
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(str(path), None, f"must hold sections such as `server:`, not {_kind_of(document)}")
    values: dict[str, Any] = {}
    for section, content in document.items():
        if section not in all_sections():
            raise _unknown_section(str(path), str(section))
        values |= _keys_in(str(path), section, content)
    return values


def _keys_in(source: str, section: str, content: Any) -> dict[str, Any]:
    """The keys of a section and of the sections in it."""
    # A section whose keys are all commented out reads as null.
    if not isinstance(content, dict | None):
        raise ConfigError(source, section, f"must be a map of keys, not {_kind_of(content)}")
    values: dict[str, Any] = {}
    for name, value in (content or {}).items():
        dotted = f"{section}.{name}"
        if dotted in all_keys() or dotted in OLD_KEYS:
            values[dotted] = value
        elif _is_inner_section(dotted):
            values |= _keys_in(source, dotted, value)
        else:
            outer, _, inner = dotted.partition(".")
            raise unknown(source, dotted, "key", nearest_key(outer, inner))
    return values


def _is_inner_section(dotted: str) -> bool:
    return any(key.startswith(f"{dotted}.") for key in (*all_keys(), *OLD_KEYS))


def _unknown_section(source: str, section: str) -> ConfigError:
    later = LATER_SECTIONS.get(section)
    if later is not None:
        return ConfigError(source, section, f"unknown section; {later}")
    return unknown(source, section, "section", nearest_section(section))


def read_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """The values of all `LMX_SECTION__KEY` variables, the predecessor's too.

    Raises:
        ConfigError: an unknown key, or text of the wrong form.
    """
    values: dict[str, Any] = {}
    for variable in sorted(environ):
        prefix, _, rest = variable.partition("LMX_")
        if prefix or "__" not in rest:
            continue
        dotted = rest.lower().replace("__", ".")
        if "." in dotted and _is_inner_section(dotted):
            values |= _keys_in(ENVIRONMENT, dotted, _json_of(variable, environ[variable], _example_of_section(dotted)))
            continue
        old = OLD_KEYS.get(dotted)
        if old is not None and not isinstance(old, Renamed):
            values[dotted] = _plain_value(environ[variable])
            continue
        key = all_keys().get(old.to if old is not None else dotted)
        if key is None:
            raise _unknown_variable(variable, *dotted.split(".", 1))
        values[dotted] = _value_of_text(key, environ[variable], variable)
    return values


def _unknown_variable(variable: str, section: str, name: str) -> ConfigError:
    if section in LATER_SECTIONS:
        return ConfigError(ENVIRONMENT, variable, f"unknown section; {LATER_SECTIONS[section]}")
    nearest = nearest_key(section, name)
    return unknown(ENVIRONMENT, variable, "key", all_keys()[nearest].variable if nearest else None)


def read_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that were given (None means not given). Raises `ConfigError` for an unknown key."""
    for dotted in flags:
        if dotted not in all_keys():
            section, _, name = dotted.partition(".")
            raise unknown(COMMAND_LINE, dotted, "key", nearest_key(section, name))
    return {dotted: value for dotted, value in flags.items() if value is not None}


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(limits.CONFIG_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        reason = "no such file; put it there, or name another one with --config or LMX_CONFIG"
        raise ConfigError(str(path), None, reason) from None
    except OSError as error:
        reason = f"cannot be read: {error.strerror}; it must be a file that the user of the service may read"
        raise ConfigError(str(path), None, reason) from error
    if len(data) > limits.CONFIG_FILE_BYTES_MAX:
        reason = f"is larger than {limits.CONFIG_FILE_BYTES_MAX} bytes, as no configuration is; is it the right file?"
        raise ConfigError(str(path), None, reason)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), None, f"is not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def _parse(path: Path, text: str) -> Any:
    try:
        match path.suffix.lower():
            case ".toml":
                return tomllib.loads(text)
            case ".yaml" | ".yml":
                return parse_yaml(text)
            case _:
                raise ConfigError(str(path), None, "must end in .yaml, .yml or .toml, which say how it is read; rename it")
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(path), None, f"is not valid TOML: {error}") from error
    except YamlTextError as error:
        raise ConfigError(str(path), None, f"is not valid YAML: {error}") from error
    except (RecursionError, ValueError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else "a value in it cannot be read"
        raise ConfigError(str(path), None, f"is not valid {path.suffix[1:].upper()}: {reason}") from error


def _plain_value(text: str) -> Any:
    """What a text means where no key says what it should be."""
    word = text.strip().lower()
    try:
        return word in _TRUE_WORDS if word in (_TRUE_WORDS | _FALSE_WORDS) - {"0", "1"} else msgspec.json.decode(word)
    except (msgspec.DecodeError, RecursionError):
        return text


def _value_of_text(key: Key, text: str, variable: str) -> Any:
    """What a variable's text means for this key; text that means nothing is returned as it is, for `load` to refuse."""
    kind: Type = msgspec.inspect.type_info(key.annotation)
    if isinstance(kind, UnionType):
        if text.strip().lower() == "null":
            return None
        kind = next(member for member in kind.types if not isinstance(member, NoneType))
    match kind:
        case BoolType():
            word = text.strip().lower()
            return word in _TRUE_WORDS if word in _TRUE_WORDS | _FALSE_WORDS else text
        case IntType() | FloatType():
            try:
                return msgspec.convert(text.strip(), int if isinstance(kind, IntType) else float, strict=False)
            except msgspec.ValidationError:
                return text
        case VarTupleType() | DictType():
            return _json_of(variable, text, _example(kind))
        case _:
            return text


def _json_of(variable: str, text: str, example: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ConfigError(ENVIRONMENT, variable, f"must be JSON such as {example}") from error


def _example(kind: VarTupleType | DictType) -> str:
    if isinstance(kind, VarTupleType):
        return '["a", "b"] or []'
    return '{"a": ["b", "c"]}' if isinstance(kind.value_type, VarTupleType) else '{"a": "b"}'


def _example_of_section(dotted: str) -> str:
    first = next((key for name, key in all_keys().items() if name.startswith(f"{dotted}.")), None)
    return msgspec.json.encode({first.dotted.rpartition(".")[2]: first.default}).decode() if first else "{}"


def _kind_of(value: Any) -> str:
    """What stands there, in the words of who wrote it."""
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case dict():
            return "a map"
        case _:
            return "a text"
