"""One running LMX for all contract tests of scripted models, asked by client libraries as their users do."""

from collections.abc import Iterator

import pytest

from tests.support.live import LiveServer

KEY = "the-inference-key"


@pytest.fixture(scope="session")
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
