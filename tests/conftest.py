"""What holds for every test."""

import os

import pytest

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_AT_START = {name: os.environ[name] for name in _OFFLINE if name in os.environ}


@pytest.fixture(autouse=True)
def _online_unless_told_otherwise() -> None:
    """Bringing in MLX takes a process off the hub for good, which is right for a worker. Here other tests follow."""
    for name in _OFFLINE:
        os.environ.pop(name, None)
    os.environ.update(_AT_START)
