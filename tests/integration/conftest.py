"""Live servers for integration tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.leaks import nothing_leaks  # noqa: F401 - an autouse fixture
from tests.support.live import LiveServer


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., LiveServer]]:
    """Starts servers, each on a home of its own, and stops those that still run."""
    servers: list[LiveServer] = []

    def start(*arguments: str, home: str = "home", **environment: Any) -> LiveServer:
        server = LiveServer(tmp_path / home, arguments, environment)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        if server.process is not None and server.process.poll() is None:
            assert server.stop() == 0, server.log()
        server.close()


@pytest.fixture
def server(serve: Callable[..., LiveServer]) -> LiveServer:
    """A running server without models."""
    return serve()
