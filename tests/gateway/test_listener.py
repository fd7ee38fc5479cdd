"""The listener on real sockets: raw bytes in, raw bytes out."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from openai import APIError, AsyncOpenAI
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, TextMessage
from wsproto.events import Event as WebSocketEvent
from wsproto.events import Request as WebSocketUpgrade
from wsproto.frame_protocol import CloseReason

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Failed, Text
from lmx_supervisor.config.schema import Config, ServerConfig
from lmx_supervisor.gateway.app import create_app
from lmx_supervisor.gateway.listener import serve_http
from tests.gateway.service import FedService, feeding, silent

CHAT = json.dumps({"model": "org/model", "messages": [{"role": "user", "content": "hi"}]}).encode()
STREAM = CHAT[:-1] + b', "stream": true}'
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Server:
    """A listener on a free port of the loopback."""

    def __init__(self, service: FedService, open_files_max: int = 8192) -> None:
        self.service = service
        self.stop = asyncio.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        serving = serve_http(
            create_app(service),
            service.config,
            [self._socket],
            self.stop,
            open_files_max=open_files_max,
            drain_seconds=lambda: service.config.server.drain_seconds,
        )
        self.task = asyncio.create_task(serving)

    async def connect(self) -> "Wire":
        return Wire(*await asyncio.open_connection("127.0.0.1", self.port))


class Wire:
    """One client connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def post(self, body: bytes, *, path: bytes = b"/v1/chat/completions") -> None:
        await self.send(b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (path, len(body), body))

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        """The next response: status, headers, body."""
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status_line, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            if "content-length" in headers:
                body = await self.reader.readexactly(int(headers["content-length"]))
            else:
                body = await self._chunked()
            return int(status_line.split()[1]), headers, body

    async def _chunked(self) -> bytes:
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readuntil(b"\r\n")
        return body

    async def closed(self) -> bytes:
        """What still came until the server closed."""
        async with asyncio.timeout(10):
            return await self.reader.read()

    async def close(self) -> None:
        self.writer.transport.abort()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


Serve = Callable[..., Server]
Connect = Callable[..., Awaitable[Wire]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start listeners that stop with the test."""
    servers: list[Server] = []

    def start(service: FedService | None = None, **server: float) -> Server:
        service = service or FedService()
        service.config = Config(server=ServerConfig(**server))  # type: ignore[arg-type]
        servers.append(Server(service))
        return servers[-1]

    yield start
    for server in servers:
        server.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await server.task


@pytest.fixture
async def connect(serve: Serve) -> AsyncIterator[Connect]:
    """Connect to a listener with given settings; connections close with the test."""
    wires: list[Wire] = []

    async def open_wire(server: Server | None = None, **settings: float) -> Wire:
        wires.append(await (server or serve(**settings)).connect())
        return wires[-1]

    yield open_wire
    for wire in wires:
        await wire.close()


async def test_a_connection_is_kept_after_an_answer_and_after_an_error(connect: Connect) -> None:
    """Errors are framed like everything else: the next request on the same connection is served."""
    wire = await connect()
    await wire.post(b"[]")
    refused, _, _ = await wire.response()
    await wire.post(CHAT)
    served, _, body = await wire.response()

    assert (refused, served) == (400, 200)
    assert json.loads(body)["choices"][0]["message"]["content"] == "Hello"


async def test_a_stream_ends_in_order_on_the_wire(connect: Connect) -> None:
    """Chunked encoding ends properly, so that the connection can be used again."""
    wire = await connect()
    await wire.post(STREAM)
    _, headers, body = await wire.response()
    await wire.send(HEALTH)

    assert headers["transfer-encoding"] == "chunked"
    assert body.endswith(b"data: [DONE]\n\n")
    assert (await wire.response())[0] == 200


async def test_content_length_with_transfer_encoding_is_refused(connect: Connect) -> None:
    """The classic smuggling request gets 400, and the request hidden behind it is never served."""
    wire = await connect()
    await wire.send(
        b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        + HEALTH
    )
    status, headers, _ = await wire.response()

    assert (status, headers["connection"]) == (400, "close")
    assert await wire.closed() == b""


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: +4\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: \x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"\x16\x03\x01 tls\r\n\r\n", 400),
    ],
)
async def test_what_is_not_http_gets_our_envelope_and_a_close(connect: Connect, request_bytes: bytes, status: int) -> None:
    """The parser's refusals look like every other error, and nothing after them is served."""
    wire = await connect()
    await wire.send(request_bytes + HEALTH)
    received, headers, body = await wire.response()

    assert (received, headers["connection"]) == (status, "close")
    assert {"message", "type", "param", "code"} == set(json.loads(body)["error"])
    assert headers["x-request-id"].startswith("req-")
    assert await wire.closed() == b""


async def test_an_upgrade_to_http2_is_ignored(connect: Connect) -> None:
    """Clear-text HTTP/2 is off: the request is answered in HTTP/1.1."""
    wire = await connect()
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
    await wire.send(HEALTH[:-2] + upgrade)

    assert (await wire.response())[0] == 200


async def test_a_websocket_that_may_not_be_opened_is_403(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    """A page of another site that tries one, and a route that has none: refused in the handshake, and no bug in the log."""
    handshake = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    handshake += b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    statuses = []
    for path, origin in ((b"/v1/chat/stream", b"Origin: https://evil.example\r\n"), (b"/v1/nothing", b"")):
        wire = await connect()
        await wire.send(b"GET %b HTTP/1.1\r\nHost: localhost\r\n" % path + handshake + origin + b"\r\n")
        statuses.append((await wire.response())[0])

    assert statuses == [403, 403]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_websocket_carries_chats_and_bounds_its_frames(connect: Connect) -> None:
    """Over a real socket: a chat is answered; a frame over the limit closes the connection with 1009 before it is held."""
    wire = await connect()
    client = WSConnection(ConnectionType.CLIENT)
    await wire.send(client.send(WebSocketUpgrade(host="localhost", target="/v1/chat/stream")))
    frame = json.loads(CHAT) | {"type": "chat.request", "request_id": "r"}
    received: list[WebSocketEvent] = []

    async def until(came: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not came():
                client.receive_data(await wire.reader.read(65536))
                received.extend(client.events())

    def said() -> list[str]:
        return [json.loads(event.data)["type"] for event in received if isinstance(event, TextMessage)]

    await until(lambda: any(isinstance(event, AcceptConnection) for event in received))
    await wire.send(client.send(TextMessage(data=json.dumps(frame))))
    await until(lambda: "chat.done" in said())
    await wire.send(client.send(TextMessage(data="x" * (limits.SOCKET_FRAME_BYTES_MAX + 1))))
    await until(lambda: isinstance(received[-1], CloseConnection))

    assert said() == ["chat.token", "chat.token", "chat.done"]
    assert isinstance(received[-1], CloseConnection)
    assert received[-1].code == CloseReason.MESSAGE_TOO_BIG


async def test_a_stalled_body_is_408_and_closed(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that does not arrive in time is given up, and the connection with it."""
    monkeypatch.setattr(limits, "UNREAD_BODY_SECONDS", 0.05)
    wire = await connect(body_seconds=0.05)
    await wire.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    status, headers, _ = await wire.response()

    assert (status, headers["connection"]) == (408, "close")
    assert await wire.closed() == b""


async def test_a_declared_oversized_body_is_413_before_it_is_sent(connect: Connect) -> None:
    """The declared length is enough to refuse; twenty digits of it too."""
    wire = await connect(body_bytes_max=1024)
    await wire.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n")

    assert (await wire.response())[0] == 413


async def test_an_oversized_body_does_not_reset_its_answer_away(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends 20 MB whatever it is told still gets to read why they were refused."""
    monkeypatch.setattr(limits, "UNREAD_BODY_SECONDS", 10.0)
    wire = await connect(body_bytes_max=1024)
    await wire.post(b"x" * 20_000_000)

    assert (await wire.response())[0] == 413


async def test_a_body_that_nobody_reads_does_not_wedge_the_connection(connect: Connect) -> None:
    """More chunks in one packet than the server queues, for a route that answers without reading them."""
    wire = await connect()
    chunks = b"1\r\nx\r\n" * 100
    await wire.send(b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    refused = await wire.response()
    await wire.send(HEALTH)

    assert (refused[0], (await wire.response())[0]) == (405, 200)


async def test_a_chunked_oversized_body_is_413_when_the_limit_is_passed(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a declared length the bytes are counted, and an endless body is not read for ever."""
    monkeypatch.setattr(limits, "UNREAD_BODY_SECONDS", 0.1)
    wire = await connect(body_bytes_max=1024)
    await wire.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"400\r\n" + b"x" * 1024 + b"\r\n"
    await wire.send(chunk * 200)
    status, headers, _ = await wire.response()

    assert (status, headers["connection"]) == (413, "close")
    assert await wire.closed() == b""


@pytest.mark.parametrize("body", [CHAT, STREAM])
@pytest.mark.parametrize("reset", [True, False])
async def test_a_disconnect_cancels(serve: Serve, body: bytes, reset: bool) -> None:
    """A reset or a plain close while waiting for the model frees its slot at once."""
    service = FedService()
    service.on_submit = silent
    wire = await serve(service).connect()
    await wire.post(body)
    await service.submitted.wait()

    if reset:
        wire.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    await wire.close()

    async with asyncio.timeout(5):
        await service.answers[0].cancelled.wait()
        await service.answers[0].ended.wait()


async def test_a_client_that_does_not_read_is_cut(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backpressure reaches the answer, then the deadline cancels it and ends the connection of a client that never reads."""
    monkeypatch.setattr(limits, "CONNECTION_CLOSE_SECONDS", 0.1)
    service = FedService()
    piece = "x" * 100_000
    service.on_submit = lambda answer: answer.feed_text(*[piece] * 1000)
    server = serve(service, slow_client_seconds=0.2)
    wire = await server.connect()
    wire.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await wire.post(STREAM)

    async with asyncio.timeout(10):
        await service.submitted.wait()
        await service.answers[0].cancelled.wait()
    assert service.answers[0].reads < 500
    server.stop.set()
    async with asyncio.timeout(10):
        await server.task
    await wire.close()


async def test_connections_beyond_the_cap_get_503(serve: Serve, connect: Connect) -> None:
    """One too many is told so, with a `Retry-After`, and there is room again when another one left."""
    server = serve(connections_max=1)
    first = await connect(server)
    await first.send(HEALTH)
    await first.response()

    second = await connect(server)
    await second.send(HEALTH)
    status, headers, _ = await second.response()
    await first.close()

    assert (status, "retry-after" in headers) == (503, True)
    async with asyncio.timeout(5):
        while True:
            third = await connect(server)
            await third.send(HEALTH)
            if (await third.response())[0] == 200:
                break


async def test_stop_lets_a_stream_end_and_closes_idle_connections(serve: Serve, connect: Connect) -> None:
    """After `stop`: nothing is accepted, idle connections close, the running answer is written to its end."""
    service = FedService()
    service.on_submit = lambda answer: answer.feed_text("Hel")
    server = serve(service)
    idle, busy = await connect(server), await connect(server)
    await idle.send(HEALTH)
    await idle.response()
    await busy.post(STREAM)
    await service.submitted.wait()

    server.stop.set()
    assert await idle.closed() == b""
    service.answers[0].feed_text("lo")
    service.answers[0].finish()

    assert (await busy.response())[2].endswith(b"data: [DONE]\n\n")
    async with asyncio.timeout(5):
        await server.task
    with pytest.raises(OSError):
        await server.connect()


async def test_stop_cuts_what_does_not_end(serve: Serve) -> None:
    """A stream that outlasts the drain is cut, and its generation cancelled."""
    service = FedService()
    service.on_submit = silent
    server = serve(service, drain_seconds=0.05)
    wire = await server.connect()
    await wire.post(STREAM)
    await service.submitted.wait()

    server.stop.set()

    async with asyncio.timeout(5):
        await server.task
        await service.answers[0].ended.wait()
    assert service.answers[0].cancelled.is_set()
    await wire.close()


@pytest.mark.live_keys("server.drain_seconds")
async def test_how_long_answers_may_end_is_asked_when_they_have_to(serve: Serve) -> None:
    """A drain that a reload made shorter is as short as it says now, for an answer whose client takes its time too."""
    service = FedService()
    service.on_submit = silent
    server = serve(service, drain_seconds=600.0)
    wire = await server.connect()
    await wire.post(STREAM)
    await service.submitted.wait()
    service.config = Config(server=ServerConfig(drain_seconds=0.05))

    server.stop.set()

    async with asyncio.timeout(5):
        await server.task
    await wire.close()


async def test_idle_and_silent_connections_are_closed(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends nothing, or half a header, is disconnected after the keep-alive time."""
    monkeypatch.setattr(limits, "KEEP_ALIVE_SECONDS", 0.05)
    server_wire = await connect()
    await server_wire.send(b"GET /healthz HTT")

    assert await server_wire.closed() == b""


async def test_accepted_connections_are_probed_and_not_delayed(serve: Serve) -> None:
    """TCP keep-alive and immediate writes are on and inherited, and the listening socket is not handed to children."""
    server = serve()
    await (await server.connect()).close()
    listening = server._socket

    assert listening.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == limits.TCP_KEEPALIVE_INTERVAL_SECONDS
    assert not listening.get_inheritable()


async def test_the_official_sdk_streams_and_raises_on_a_cut_stream(serve: Serve) -> None:
    """openai-python, unmodified: a stream is text to it, and an error event in mid-stream an exception."""
    service = FedService()
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{serve(service).port}/v1", api_key="any", max_retries=0) as sdk:
        streamed = await sdk.chat.completions.create(
            model="org/model", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in streamed])

        lost = Failed(request_id="", code=ErrorCode.WORKER_LOST, message="The worker died.")
        service.on_submit = feeding([Text(request_id="", text="Hel"), lost])
        cut = await sdk.chat.completions.create(model="org/model", messages=[{"role": "user", "content": "hi"}], stream=True)
        with pytest.raises(APIError, match="The worker died") as raised:
            async for _ in cut:
                pass

    assert (text, raised.value.code) == ("Hello", "worker_lost")
