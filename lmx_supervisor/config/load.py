"""From files, variables and flags to one checked `Config`, with the origin of every value.

Precedence: command line, then environment (`LMX_SECTION__KEY`), then file, then the schema's default. The first thing wrong
stops the start: a value that is silently ignored is found out in production.
"""

from collections.abc import Mapping
from enum import StrEnum
from functools import partial, reduce
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from lmx_supervisor.config.checking import checked, key_of, name_at
from lmx_supervisor.config.error import ConfigError
from lmx_supervisor.config.keys import all_keys, is_section
from lmx_supervisor.config.named_keys import with_keys_of_files
from lmx_supervisor.config.predecessor import translated
from lmx_supervisor.config.rules import broken_rules
from lmx_supervisor.config.schema import Config, Section
from lmx_supervisor.config.sources import COMMAND_LINE, ENVIRONMENT, find_file, read_environment, read_file, read_flags

_NAMED_KEYS = "security.inference_keys"

SectionType = TypeVar("SectionType", bound=Section)


class Origin(StrEnum):
    """Where a value came from."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"
    FLAG = "flag"


class ConfigSource(msgspec.Struct, frozen=True, kw_only=True):
    """What a start was given, so that a reload reads the same."""

    named_file: Path | None
    flags: dict[str, Any]
    variables: dict[str, str]
    """The `LMX_*` variables of the environment."""
    home: Path


class LoadedConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration, and where it came from."""

    config: Config
    file: Path | None
    """The file that was read."""
    origins: dict[str, Origin]
    """Dotted key → origin, for every key there is."""
    source: ConfigSource
    remarks: tuple[str, ...] = ()
    """What the operator should know of it though it can be used."""


def load_config(*, file: Path | None, flags: Mapping[str, Any], environ: Mapping[str, str], home: Path) -> LoadedConfig:
    """The configuration in force.

    Args:
        file: the file named on the command line, if any; it must exist.
        flags: dotted key → value; None means that the flag was not given.
        environ: the process environment.
        home: where the default files lie.

    Raises:
        ConfigError: naming source, key, reason and, for an unknown key, the nearest known one.
    """
    path = find_file(file, environ, home)
    layers = {
        Origin.FILE: (str(path), read_file(path) if path else {}),
        Origin.ENVIRONMENT: (ENVIRONMENT, read_environment(environ)),
        Origin.FLAG: (COMMAND_LINE, read_flags(flags)),
    }
    values = {dotted: key.default for dotted, key in all_keys().items()}
    origins = dict.fromkeys(values, Origin.DEFAULT)
    remarks: list[str] = []
    for origin, (source, layer) in layers.items():
        given = translated(layer, source, partial(name_at, source))
        remarks += given.remarks
        for dotted, raw in given.values.items():
            # Checked even where a later layer overrides it: a broken value must not wait for the day the override goes.
            values[dotted] = checked(all_keys()[dotted], raw, source, given.written_as.get(dotted, dotted))
            origins[dotted] = origin
        if _NAMED_KEYS in layer:
            values[_NAMED_KEYS] = with_keys_of_files(values[_NAMED_KEYS], source, _NAMED_KEYS)
    config = config_of(values)
    for broken in broken_rules(config):
        # A default cannot be to blame: the one that clashes with it was written somewhere.
        involved = [origins[key_of(key)] for key in (broken.key, broken.clashes_with)]
        source = next(layers[origin][0] for origin in involved if origin is not Origin.DEFAULT)
        raise ConfigError(source, name_at(source, broken.key), broken.reason)
    variables = {name: value for name, value in environ.items() if name.startswith("LMX_")}
    start = ConfigSource(named_file=file, flags=dict(flags), variables=variables, home=home)
    return LoadedConfig(config=config, file=path, origins=origins, source=start, remarks=tuple(remarks))


def read_again(loaded: LoadedConfig) -> LoadedConfig:
    """The same file, variables and flags as they are now; a file that was not there at first is looked for again.

    Raises:
        ConfigError: as `load_config`, also when the file is gone.
    """
    source = loaded.source
    return load_config(file=loaded.file or source.named_file, flags=source.flags, environ=source.variables, home=source.home)


def values_of(config: Config) -> dict[str, Any]:
    """Dotted key → value in force, for every key there is."""
    return {dotted: reduce(getattr, dotted.split("."), config) for dotted in all_keys()}


def config_of(values: Mapping[str, Any]) -> Config:
    """The reverse of `values_of`. The values are not checked."""
    return _section_of(Config, "", values)


def _section_of(kind: type[SectionType], prefix: str, values: Mapping[str, Any]) -> SectionType:
    return kind(
        **{
            field.name: _section_of(field.type, f"{prefix}{field.name}.", values)
            if is_section(field.type)
            else values[f"{prefix}{field.name}"]
            for field in msgspec.structs.fields(kind)
        }
    )
