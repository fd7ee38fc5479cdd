"""What holds for every test."""

import os
import signal
import sys
from collections.abc import Iterator

import pytest

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_AT_START = {name: os.environ[name] for name in _OFFLINE if name in os.environ}

# Hundreds of servers and workers are started: without compiled modules to read, each would spend a second of work on compiling
# its own, which is not how LMX runs elsewhere. (Some build machines switch them off for everything.)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(autouse=True)
def _online_unless_told_otherwise() -> None:
    """Bringing in MLX takes a process off the hub for good, which is right for a worker. Here other tests follow."""
    for name in _OFFLINE:
        os.environ.pop(name, None)
    os.environ.update(_AT_START)


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> Iterator[None]:
    """A run in the background ignores Ctrl-C, and so would every process that it starts; those that are sent one must not."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True, scope="session")
def _llama_cpp_is_closed() -> Iterator[None]:
    """It keeps two files open for its muting of stdout, which LMX does not use, and Python complains of them at its exit."""
    yield
    helpers = sys.modules.get("llama_cpp._utils")
    if helpers is not None:
        helpers.outnull_file.close()
        helpers.errnull_file.close()
