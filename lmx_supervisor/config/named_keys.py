"""Named inference keys: each is written down as itself, as its hash, or as the file it is kept in, which is read here.

Reading belongs to loading: a reload reads the files again, and a file that cannot be used stops the start like any other value.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from lmx_protocol import limits
from lmx_supervisor.config.error import ConfigError
from lmx_supervisor.config.schema import NamedKey, Secret

_WAYS = ("key", "key_sha256", "key_file")


def with_keys_of_files(keys: Mapping[str, NamedKey], source: str, dotted: str) -> dict[str, NamedKey]:
    """The same keys, those in files with what their files hold. Raises `ConfigError`."""
    return {name: _resolved(key, source, f"{dotted}.{name}") for name, key in keys.items()}


def digest_of(key: NamedKey) -> bytes:
    """The SHA-256 of a key whose file was read."""
    if key.key_sha256 is not None:
        return bytes.fromhex(key.key_sha256)
    assert key.key is not None, "keys have one form or another"
    return sha256_of(key.key)


def sha256_of(key: str) -> bytes:
    """What keys are compared by."""
    return hashlib.sha256(key.encode()).digest()


def _resolved(key: NamedKey, source: str, name: str) -> NamedKey:
    given = [way for way in _WAYS if getattr(key, way) is not None]
    if len(given) != 1:
        raise ConfigError(source, name, f"must have one of {', '.join(_WAYS)}, and has {' and '.join(given) or 'none'}")
    if key.key_file is None:
        return key
    return msgspec.structs.replace(key, key=_read(key.key_file, source, f"{name}.key_file"))


def _read(file: str, source: str, name: str) -> str:
    path = Path(file).expanduser()
    if not path.is_absolute():
        raise ConfigError(source, name, f"'{file}' must be an absolute path or start with ~/")
    try:
        with path.open("rb") as opened:
            data = opened.read(limits.KEY_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(source, name, f"'{file}' cannot be read: {error.strerror}") from error
    try:
        return msgspec.convert(data.decode("ascii").strip(), Secret)
    except (UnicodeDecodeError, msgspec.ValidationError):
        # Not the error's own words, and no cause: they could quote the key.
        reason = f"'{file}' must hold one key: up to 512 printable ASCII characters without spaces"
        raise ConfigError(source, name, reason) from None
