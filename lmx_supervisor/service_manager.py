"""What the service manager that started us is told: ready, alive for as long as the loop turns, stopping.

This is systemd's notification protocol: datagrams to the socket named in the environment. Without that socket nothing is sent;
launchd has nothing like it.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping

from lmx_protocol import limits


class ServiceManager:
    """The one that set these variables. Nothing here blocks or raises: it is told, never asked."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # `@` stands for the abstract namespace.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watches_us = "WATCHDOG_USEC" in environ and environ.get("WATCHDOG_PID") in (None, str(os.getpid()))

    def ready(self) -> None:
        """The port listens."""
        self._tell("READY=1")

    def stopping(self) -> None:
        """The drain has begun."""
        self._tell("STOPPING=1")

    async def keep_alive(self) -> None:
        """Say that the loop turns, until cancelled; far more often than asked: all of the watchdog's time is ours to lose."""
        while self._watches_us:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(limits.WATCHDOG_PING_SECONDS)

    def _tell(self, state: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.setblocking(False)
            manager.sendto(state.encode(), self._address)
