"""What the service manager is told, over a real socket."""

import asyncio
import os
import secrets
import socket
import sys
from collections.abc import Iterator

import pytest

from lmx_supervisor.service_manager import ServiceManager

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")


@pytest.fixture
def address() -> str:
    """Where the manager listens."""
    return f"@lmx-test-{secrets.token_hex(8)}"


@pytest.fixture
def manager(address: str) -> Iterator[socket.socket]:
    """The manager's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{address[1:]}")
        listening.setblocking(False)
        yield listening


def said(manager: socket.socket) -> list[bytes]:
    """Everything that has come."""
    heard = []
    while True:
        try:
            heard.append(manager.recv(64))
        except BlockingIOError:
            return heard


@pytest.mark.parametrize(
    ("watchdog", "expected"),
    [
        ({"WATCHDOG_USEC": "30000000"}, [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, [b"READY=1", b"STOPPING=1"]),
        ({}, [b"READY=1", b"STOPPING=1"]),
    ],
)
async def test_life_is_told_to_a_manager_that_watches_this_process(
    manager: socket.socket, address: str, watchdog: dict[str, str], expected: list[bytes]
) -> None:
    """Ready and stopping always, signs of life only where they are wanted of this very process."""
    told = ServiceManager({"NOTIFY_SOCKET": address, **watchdog})
    told.ready()
    alive = asyncio.create_task(told.keep_alive())
    await asyncio.sleep(0)
    alive.cancel()
    told.stopping()

    assert said(manager) == expected


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "/nowhere/notify"}])
async def test_without_a_manager_nothing_happens(environment: dict[str, str]) -> None:
    """No socket, or one that nobody has bound: telling it costs nothing and raises nothing."""
    told = ServiceManager(environment)
    told.ready()
    told.stopping()
