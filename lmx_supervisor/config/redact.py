"""The only place that knows which configuration values are secret, and how they are kept out of sight."""

from typing import Any

import msgspec

from lmx_supervisor.config.keys import all_keys
from lmx_supervisor.config.load import LoadedConfig, Origin
from lmx_supervisor.config.schema import Config

REDACTED = "[redacted]"


class ShownValue(msgspec.Struct, frozen=True, kw_only=True):
    """One key as `lmx config show` prints it."""

    key: str
    value: Any
    """Plain JSON data; a secret that is set reads as `REDACTED`."""
    origin: Origin


def secret_values(config: Config) -> tuple[str, ...]:
    """The secrets that are set, for log filters and crash bundles to strike out."""
    values = (_value(config, key.section, key.name) for key in all_keys().values() if key.secret)
    return tuple(value for value in values if value is not None)


def shown_values(loaded: LoadedConfig) -> list[ShownValue]:
    """Every key with its value in force and its origin, without secrets."""
    return [
        ShownValue(key=dotted, value=_without_secret(key.secret, _value(loaded.config, key.section, key.name)), origin=origin)
        for dotted, origin in loaded.origins.items()
        for key in [all_keys()[dotted]]
    ]


def _without_secret(secret: bool, value: Any) -> Any:
    return REDACTED if secret and value is not None else msgspec.to_builtins(value)


def _value(config: Config, section: str, name: str) -> Any:
    return getattr(getattr(config, section), name)
