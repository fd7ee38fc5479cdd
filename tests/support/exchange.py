"""Requests on connections of their own, for as many clients at once as a test likes: no pool, no library between."""

import asyncio
import contextlib

from tests.support.live import LiveServer


async def connect(server: LiveServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A new connection to a server."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    return await asyncio.open_connection(host, int(port))


async def exchange(server: LiveServer, data: bytes) -> tuple[int, bool]:
    """Send one request; its status when it is known, and whether the answer says when to come back. The rest is not read."""
    reader, writer = await connect(server)
    try:
        writer.write(data)
        head = await reader.readuntil(b"\r\n\r\n")
        return int(head.split()[1]), b"\r\nretry-after:" in head.lower()
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
