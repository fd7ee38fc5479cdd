"""Bringing in MLX and mlx-lm without their side effects: no network, no advice on stderr, no lowered file limit."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version

_QUIET_AND_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
_MODULES = ("mlx.core", "mlx_lm.generate", "mlx_lm.utils", "mlx_lm.models.cache", "llguidance.hf")


def import_mlx() -> str:
    """Import what the backend uses and return the versions. Call it on the thread that will load and step.

    Raises:
        ImportError: MLX or mlx-lm is not installed, or does not run on this machine.
    """
    os.environ.update(_QUIET_AND_OFFLINE)
    with _file_limit_untouched():
        for name in _MODULES:
            import_module(name)
    return f"mlx {version('mlx')}, mlx-lm {version('mlx-lm')}"


@contextmanager
def _file_limit_untouched() -> Iterator[None]:
    """Make `resource.setrlimit` do nothing meanwhile.

    mlx-lm sets the limit of open files to (2048, 4096) when it is imported. Lowering the hard limit cannot be undone, and where
    the hard limit is below 4096 already the call fails and with it the import.
    """
    original = resource.setrlimit
    resource.setrlimit = lambda *_: None
    try:
        yield
    finally:
        resource.setrlimit = original
