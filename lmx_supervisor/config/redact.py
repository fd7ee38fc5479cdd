"""The only place that knows which configuration values are secret, and how they are kept out of sight."""

from collections.abc import Iterator
from typing import Any, get_args

import msgspec

from lmx_supervisor.config.keys import all_keys, holds_secret
from lmx_supervisor.config.load import LoadedConfig, Origin, values_of
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
    values = values_of(config)
    keys = (key for key in all_keys().values() if key.secret)
    return tuple(secret for key in keys for secret in _secrets_in(key.annotation, values[key.dotted]))


def shown_values(loaded: LoadedConfig) -> list[ShownValue]:
    """Every key with its value in force and its origin, without secrets."""
    values = values_of(loaded.config)
    return [
        ShownValue(key=dotted, value=_without_secrets(all_keys()[dotted].annotation, values[dotted]), origin=origin)
        for dotted, origin in loaded.origins.items()
    ]


def _secrets_in(annotation: Any, value: Any) -> Iterator[str]:
    if value is None or not holds_secret(annotation):
        return
    if isinstance(value, str):
        yield value
    elif isinstance(value, msgspec.Struct):
        for field in msgspec.structs.fields(value):
            yield from _secrets_in(field.type, getattr(value, field.name))
    else:
        for entry in value.values():
            yield from _secrets_in(get_args(annotation)[1], entry)


def _without_secrets(annotation: Any, value: Any) -> Any:
    """Plain JSON data."""
    if value is None or not holds_secret(annotation):
        return msgspec.to_builtins(value)
    if isinstance(value, str):
        return REDACTED
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.fields(value)
        return {field.name: _without_secrets(field.type, getattr(value, field.name)) for field in fields}
    return {name: _without_secrets(get_args(annotation)[1], entry) for name, entry in value.items()}
