"""Serving an ASGI application on sockets that are already bound: Hypercorn's HTTP/1.1 connections under our own accept loop.

Hypercorn's `serve` would do but for four things a service that must stay up needs, and which no setting of it gives: a cap on
connections with an answer beyond it, sockets that children do not inherit (`fd://` binds make them inheritable), no upgrade to
HTTP/2 in clear text (a second parser nobody here asks for), and a close that does not wait for ever on a client that stopped
reading. So we accept, count and close; parsing, keep-alive and backpressure stay Hypercorn's. No TLS, no HTTP/2, no lifespan.

Connections are accepted one by one: asyncio's own server takes as many at once as wait, descriptor by descriptor, before anyone
can count them, and a flood would leave none for workers. A client that closes its sending half has left: what it asked for is
cancelled, as for one that closed the connection.
"""

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
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
from lmx_supervisor.gateway.connection_budget import ConnectionBudget, connection_budget
from lmx_supervisor.gateway.edge import new_request_id
from lmx_supervisor.gateway.problem import CLOSE, EdgeCode, Problem

logger = logging.getLogger("lmx.http")

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_Kept = dict["asyncio.Task[None]", asyncio.StreamWriter]


async def serve_http(
    app: ASGIApp,
    config: Config,
    sockets: Sequence[socket.socket],
    stop: asyncio.Event,
    *,
    open_files_max: int,
    drain_seconds: Callable[[], float],
) -> None:
    """Serve until `stop` is set; takes over the sockets, which may but need not listen yet, and closes them.

    After `stop` nothing is accepted, idle connections close at once, and answers under way may end for as long as
    `drain_seconds` says then; what is left is cut. Cancelling this coroutine cuts at once. Of the `open_files_max` descriptors
    of this process, connections take no more than `connection_budget` gives them.
    """
    budget = connection_budget(config.server.connections_max, open_files_max)
    if budget.connections_max < config.server.connections_max:
        fields = {"connections_max": budget.connections_max, "wanted": config.server.connections_max}
        logger.warning("connections_limited", extra={**fields, "open_files_max": open_files_max})
    gate = _Gate(app, config, budget)
    accepting = []
    try:
        for listening in sockets:
            _set_up_for_clients(listening)
            listening.setblocking(False)
            listening.listen(limits.LISTEN_BACKLOG)
            accepting.append(asyncio.create_task(_accept(listening, gate)))
        await stop.wait()
        await _close_all(accepting, sockets)
        await gate.drain(drain_seconds())
    finally:
        await _close_all(accepting, sockets)
        await gate.cut()


async def _accept(listening: socket.socket, gate: "_Gate") -> None:
    """Let clients in until cancelled, each counted before the next one is accepted."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            connected, _ = await loop.sock_accept(listening)
        except OSError as error:
            # The client gave up while it waited, or the system has no descriptor or memory to spare: others need them more.
            logger.warning("accept failed", extra={"reason": error.strerror})
            await asyncio.sleep(limits.ACCEPT_RETRY_SECONDS)
            continue
        await gate.let_in(connected)
        # A flood of connections must not keep the loop from those that are in.
        await asyncio.sleep(0)


async def _close_all(accepting: Sequence["asyncio.Task[None]"], sockets: Sequence[socket.socket]) -> None:
    for task in accepting:
        task.cancel()
    await asyncio.gather(*accepting, return_exceptions=True)
    for listening in sockets:
        listening.close()


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
    pinned.websocket_max_message_size = limits.SOCKET_FRAME_BYTES_MAX
    # A vanished peer is noticed by TCP; a ping that goes unanswered would also end a client that only computes.
    pinned.websocket_ping_interval = None
    return pinned


class _Gate:
    """Who is connected: admits as many as the budget allows, refuses some more with 503, and closes them all in the end."""

    def __init__(self, app: ASGIApp, config: Config, budget: ConnectionBudget) -> None:
        self._app = ASGIWrapper(app)
        self._hypercorn = hypercorn_config(config)
        self._context = WorkerContext(None)
        self._budget = budget
        self._connections: _Kept = {}
        self._refusals: _Kept = {}
        self._stopping = asyncio.Event()
        """Told to every request as `state.stopping`: what has no end of its own ends when it is set."""

    async def let_in(self, connected: socket.socket) -> None:
        """Serve or refuse an accepted connection, from now on ours to close; of a flood, only so many are told."""
        if len(self._connections) < self._budget.connections_max:
            self._start(self._serve, await _streams(connected), self._connections)
        elif len(self._refusals) < self._budget.refusals_max:
            self._start(self._refuse, await _streams(connected), self._refusals)
        else:
            connected.close()

    def _start(self, treat: Callable[[_Streams], Coroutine[Any, Any, None]], streams: _Streams, kept: _Kept) -> None:
        task = asyncio.create_task(treat(streams))
        kept[task] = streams[1]
        task.add_done_callback(lambda ended: self._ended(ended, kept))

    def _ended(self, task: "asyncio.Task[None]", kept: _Kept) -> None:
        _hang_up(kept.pop(task))
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("connection failed with a bug", exc_info=error)

    async def _serve(self, streams: _Streams) -> None:
        loop = asyncio.get_running_loop()
        state = ConnectionState({"stopping": self._stopping})
        await _Connection(self._app, loop, self._hypercorn, self._context, state, *streams)

    async def _refuse(self, streams: _Streams) -> None:
        """Say 503 and wait a moment for the client to take it: closing at once would reset the answer away."""
        reader, writer = streams
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(limits.CONNECTION_CLOSE_SECONDS):
                writer.write(_raw_response(_TOO_MANY_CONNECTIONS))
                await writer.drain()
                writer.write_eof()
                while await reader.read(limits.HEADER_BYTES_MAX):
                    pass

    async def drain(self, seconds: float) -> None:
        """Let connections end by themselves for at most `seconds`."""
        self._stopping.set()
        await self._context.terminated.set()
        if self._connections:
            await asyncio.wait(self._connections, timeout=seconds)

    async def cut(self) -> None:
        """End every connection now."""
        remaining = self._connections | self._refusals
        for task, writer in remaining.items():
            # First the connection: closing would otherwise wait for clients that take their time.
            _hang_up(writer)
            task.cancel()
        await asyncio.gather(*remaining, return_exceptions=True)


async def _streams(connected: socket.socket) -> _Streams:
    """An accepted connection as asyncio's streams, as `asyncio.start_server` makes them."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await loop.connect_accepted_socket(lambda: protocol, connected)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


def _hang_up(writer: asyncio.StreamWriter) -> None:
    """End a connection now, whatever is still to be written. Not `transport.abort`: it fails on one that has just ended."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
    writer.close()


class _Connection(TCPServer):  # type: ignore[misc]  # Hypercorn is untyped to us
    """One connection that speaks HTTP/1.1 only and that always closes."""

    async def run(self) -> None:
        transport_socket = self.writer.get_extra_info("socket")
        try:
            client = parse_socket_addr(transport_socket.family, transport_socket.getpeername())
            server = parse_socket_addr(transport_socket.family, transport_socket.getsockname())
            async with TaskGroup(self.loop) as task_group:
                self._task_group = task_group
                self.protocol = _Http1(
                    self.app,
                    self.config,
                    self.context,
                    task_group,
                    self.state,
                    False,
                    client,
                    server,
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
        _hang_up(self.writer)


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


def _set_up_for_clients(listening: socket.socket) -> None:
    """What accepted sockets inherit: tokens go out one by one, and a peer that vanished without a word is noticed.

    Without `TCP_NODELAY` (asyncio sets it only on sockets whose protocol number is spelled out) a small write waits for the
    client to acknowledge the one before, which clients delay by 40 ms. Without keep-alive the system gives a vanished peer two
    hours; with it, its place is free within half a minute. Unix sockets need neither. The macOS branch was not run.
    """
    if listening.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "darwin":
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPALIVE, limits.TCP_KEEPALIVE_IDLE_SECONDS)
    else:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, limits.TCP_KEEPALIVE_IDLE_SECONDS)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, limits.TCP_KEEPALIVE_INTERVAL_SECONDS)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, limits.TCP_KEEPALIVE_PROBES)
