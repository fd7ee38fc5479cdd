"""Running services for all contract tests, asked by client libraries as their users do: one scripted, one with real models."""

from collections.abc import Iterator

import pytest

from tests.support.live import LiveServer
from tests.support.mlx_models import write_tiny_mlx_model

KEY = "the-inference-key"
DEMO = "smollm2-135m-instruct"
TINY = "tiny-mlx"


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A service that wants a key, has short lines and keeps quiet streams alive every 50 ms."""
    settings = {
        "LMX_SECURITY__INFERENCE_API_KEY": KEY,
        "LMX_SERVER__STREAM_KEEP_ALIVE_SECONDS": "0.05",
        "LMX_MODELS__QUEUE_PER_MODEL": "20",
    }
    started = LiveServer(tmp_path_factory.mktemp("contract"), environment=settings)
    try:
        yield started.start()
        assert started.stop() == 0, started.log()
    finally:
        started.abandon()


@pytest.fixture(scope="package")
def real_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A service with the demo model on llama.cpp and a tiny random model on MLX."""
    started = LiveServer(tmp_path_factory.mktemp("real"), arguments=("--demo",))
    try:
        started.start()
        started.load(TINY, path=str(write_tiny_mlx_model(started.home / TINY, can_write_everything=True)))
        started.wait_for_state(DEMO, "ready", seconds=120)
        yield started
        assert started.stop() == 0, started.log()
    finally:
        started.abandon()
