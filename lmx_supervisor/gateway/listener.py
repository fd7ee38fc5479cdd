"""Serving an ASGI application on sockets that are already bound: Hypercorn's HTTP/1.1 connections under our own accept loop.

Hypercorn's `serve` would do but for four things a service that must stay up needs, and which no setting of it gives: a cap on
connections with an answer beyond it, sockets that children do not inherit (`fd://` binds make them inheritable), no upgrade to
HTTP/2 in clear text (a second parser nobody here asks for), and a close that does not wait for ever on a client that stopped
reading. So we accept, count and close; parsing, keep-alive and backpressure stay Hypercorn's. No TLS, no HTTP/2, no lifespan.
"""

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import RawData
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr
from starlette.types import ASGIApp

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_supervisor.config.schema import Config
from lmx_supervisor.gateway.edge import new_request_id
from lmx_supervisor.gateway.problem import CLOSE, EdgeCode, Problem

logger = logging.getLogger("lmx.http")


async def serve_http(app: ASGIApp, config: Config, sockets: Sequence[socket.socket], stop: asyncio.Event) -> None:
    """Serve until `stop` is set; takes over the sockets, which may but need not listen yet, and closes them.

    After `stop` nothing is accepted, idle connections close at once, and answers under way may end for `server.drain_seconds`;
    what is left then is cut. Cancelling this coroutine cuts at once.
    """
    gate = _Gate(app, config)
    servers = []
    try:
        for listening in sockets:
            _keep_peers_checked(listening)
            servers.append(await asyncio.start_server(gate.admit, sock=listening, backlog=limits.LISTEN_BACKLOG))
        await stop.wait()
        for server in servers:
            server.close()
        await gate.drain(config.server.drain_seconds)
    finally:
        for server in servers:
            server.close()
        await gate.cut()


def hypercorn_config(config: Config) -> HypercornConfig:
    """Hypercorn's settings, each pinned that we rely on, whatever its defaults become."""
    pinned = HypercornConfig()
    pinned.accesslog = None
    pinned.errorlog = logging.getLogger("hypercorn.error")
    pinned.keep_alive_timeout = limits.KEEP_ALIVE_SECONDS
    pinned.h11_max_incomplete_size = limits.HEADER_BYTES_MAX
    pinned.graceful_timeout = config.server.drain_seconds
    # The body's deadline is `body.read_body`'s; a read timeout here would also end streams whose client just listens.
    pinned.read_timeout = None
    pinned.include_server_header = False
    return pinned


class _Gate:
    """Who is connected: admits up to `connections_max`, refuses the rest with 503, and closes them all in the end."""

    def __init__(self, app: ASGIApp, config: Config) -> None:
        self._app = ASGIWrapper(app)
        self._hypercorn = hypercorn_config(config)
        self._context = WorkerContext(None)
        self._connections_max = config.server.connections_max
        self._connections: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}
        self._refusals: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}

    async def admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= self._connections_max:
            await self._refuse(task, reader, writer)
            return
        self._connections[task] = writer
        try:
            loop = asyncio.get_running_loop()
            await _Connection(self._app, loop, self._hypercorn, self._context, ConnectionState({}), reader, writer)
        except asyncio.CancelledError:
            # Only `cut` cancels, and nobody awaits this task but the streams module, which takes a cancelled one for a bug.
            logger.debug("connection cut")
        finally:
            del self._connections[task]

    async def _refuse(self, task: asyncio.Task[Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Say 503 and wait a moment for the client to take it; of a flood, only so many are told."""
        if len(self._refusals) >= limits.REFUSALS_MAX:
            writer.transport.abort()
            return
        self._refusals[task] = writer
        try:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(limits.CONNECTION_CLOSE_SECONDS):
                    writer.write(_raw_response(_TOO_MANY_CONNECTIONS))
                    await writer.drain()
                    writer.write_eof()
                    while await reader.read(limits.HEADER_BYTES_MAX):
                        pass
        finally:
            del self._refusals[task]
            writer.transport.abort()

    async def drain(self, seconds: float) -> None:
        """Let connections end by themselves for at most `seconds`."""
        await self._context.terminated.set()
        if self._connections:
            await asyncio.wait(self._connections, timeout=seconds)

    async def cut(self) -> None:
        """End every connection now."""
        remaining = self._connections | self._refusals
        for task, writer in remaining.items():
            # First the transport: closing would otherwise wait for clients that take their time.
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*remaining, return_exceptions=True)


class _Connection(TCPServer):  # type: ignore[misc]  # Hypercorn is untyped to us
    """One connection that speaks HTTP/1.1 only and that always closes."""

    async def run(self) -> None:
        transport_socket = self.writer.get_extra_info("socket")
        try:
            async with TaskGroup(self.loop) as task_group:
                self._task_group = task_group
                self.protocol = _Http1(
                    self.app,
                    self.config,
                    self.context,
                    task_group,
                    self.state,
                    False,
                    parse_socket_addr(transport_socket.family, transport_socket.getpeername()),
                    parse_socket_addr(transport_socket.family, transport_socket.getsockname()),
                    self.protocol_send,
                )
                await self.protocol.initiate()
                await self.idle_task.restart(task_group, self._idle_timeout)
                await self._read_data()
                # Or the group would wait for the idle timer of a connection that is already gone, which keeps its place.
                await self.idle_task.stop()
        except OSError:
            logger.debug("connection lost before its first byte")
        finally:
            await self._close()

    async def _close(self) -> None:
        """Flush and close; a peer that does not take the rest in time loses it, or this connection would stay for ever."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limits.CONNECTION_CLOSE_SECONDS):
                await super()._close()
        self.writer.transport.abort()


class _Http1(H11Protocol):  # type: ignore[misc]  # Hypercorn is untyped to us
    """Hypercorn's HTTP/1.1 without the upgrade to HTTP/2, and with our envelope on what its parser refuses."""

    async def _check_protocol(self, event: Any) -> None:
        """Nothing to check: an `Upgrade: h2c` is ignored, as RFC 9110 lets a server do."""

    async def _send_error_response(self, status_code: int) -> None:
        await self.send(RawData(data=_raw_response(_parser_problem(status_code))))


_TOO_MANY_CONNECTIONS = Problem(
    ErrorCode.OVERLOADED, "Too many connections; close idle ones or come back later.", headers=CLOSE
)


def _parser_problem(status_code: int) -> Problem:
    """What h11 refused, by the status it suggests."""
    match status_code:
        case 431:
            return Problem(EdgeCode.HEADERS_TOO_LARGE, f"The headers are over {limits.HEADER_BYTES_MAX} bytes.", headers=CLOSE)
        case 501:
            return Problem(EdgeCode.NOT_IMPLEMENTED, "Of the transfer encodings, only 'chunked' is supported.", headers=CLOSE)
        case _:
            return Problem(ErrorCode.INVALID_REQUEST, "This is not a valid HTTP/1.1 request.", headers=CLOSE)


def _raw_response(problem: Problem) -> bytes:
    """A problem as the bytes of a whole HTTP response, for where there is no ASGI request to answer."""
    response = problem.response()
    status = HTTPStatus(response.status_code)
    headers = [*response.raw_headers, (b"x-request-id", new_request_id().encode("ascii"))]
    head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii") + head + b"\r\n" + bytes(response.body)


def _keep_peers_checked(listening: socket.socket) -> None:
    """TCP keep-alive, inherited by accepted sockets: a peer that vanished without a word frees its place within half a minute.

    The system's default is two hours. Unix sockets have no such peers. The macOS branch was not run.
    """
    if listening.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "darwin":
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPALIVE, limits.TCP_KEEPALIVE_IDLE_SECONDS)
    else:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, limits.TCP_KEEPALIVE_IDLE_SECONDS)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, limits.TCP_KEEPALIVE_INTERVAL_SECONDS)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, limits.TCP_KEEPALIVE_PROBES)
