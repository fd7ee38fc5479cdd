"""A short text that changes whenever what would be loaded changes: the model's files, the load configuration, the backend.

Names, sizes and modification times stand for the files' content: hashing tens of gigabytes would cost more than the load.
"""

import hashlib
from pathlib import Path

import msgspec

from lmx_protocol.messages import ModelSpec
from lmx_supervisor.catalog.identify import files_of

_DIGEST_BYTES = 16


def model_digest(spec: ModelSpec, backend: str) -> str:
    """Hexadecimal. Blocks on the disk; raises `OSError` when a file vanished."""
    files = sorted(files_of(Path(spec.path), spec.format))
    seen = [(str(file), found.st_size, found.st_mtime_ns) for file in files for found in (file.stat(),)]
    return hashlib.blake2b(msgspec.msgpack.encode((spec, backend, seen)), digest_size=_DIGEST_BYTES).hexdigest()
