"""The private line to one worker incarnation: a DEALER that connects to the worker's endpoint under CURVE.

One immortal reader task per socket: cancelling a receive can lose a message, so nothing ever waits for one with a timeout. The
task ends when the link is closed.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from lmx_protocol import limits
from lmx_protocol.codec import decode_from_worker, encode
from lmx_protocol.errors import ProtocolViolation
from lmx_protocol.messages import FromWorker, ToWorker


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE key pair in Z85."""

    public: bytes
    secret: bytes

    @staticmethod
    def fresh() -> "KeyPair":
        """A new random pair."""
        return KeyPair(*zmq.curve_keypair())


class Link:
    """One incarnation's socket. `on_message` and `on_violation` run on the loop."""

    def __init__(
        self,
        context: "zmq.asyncio.Context",
        endpoint: str,
        *,
        own_keys: KeyPair,
        worker_public_key: bytes,
        on_message: Callable[[FromWorker], None],
        on_violation: Callable[[str], None],
    ) -> None:
        self._on_message = on_message
        self._on_violation = on_violation
        self._socket: zmq.asyncio.Socket = context.socket(zmq.DEALER)
        _configure(self._socket)
        self._socket.curve_publickey = own_keys.public
        self._socket.curve_secretkey = own_keys.secret
        self._socket.curve_serverkey = worker_public_key
        self._connected = False
        self._disconnected = asyncio.Event()
        self._monitor: zmq.asyncio.Socket = self._socket.get_monitor_socket(_WATCHED_EVENTS)
        self._socket.connect(endpoint)
        loop = asyncio.get_running_loop()
        self._tasks = (loop.create_task(self._read()), loop.create_task(self._watch_connection()))

    def send(self, message: ToWorker) -> None:
        """Send now or report a violation: a worker that does not drain its control messages is broken."""
        try:
            data = encode(message, bytes_max=limits.FRAME_BYTES_MAX_DOWN)
        except ProtocolViolation as violation:
            self._on_violation(str(violation))
            return
        sent = cast("asyncio.Future[object]", self._socket.send(data, flags=zmq.NOBLOCK))
        if sent.done() and sent.exception() is not None:
            self._on_violation(f"it does not read its messages: {sent.exception()}")

    async def hear_last_words(self) -> None:
        """After the worker's death: hand over what it had sent and the kernel still holds, before anybody judges it.

        libzmq says that the peer is gone after it has read all that came from it.
        """
        if not self._connected:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._disconnected.wait(), limits.LAST_WORDS_SECONDS)
        while await self._socket.poll(0):  # noqa: ASYNC110 - the reader task empties it; libzmq tells nobody when it has
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Close the socket and end the reader."""
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self.discard()

    def discard(self) -> None:
        """Close a socket at once on which nobody has spoken yet; its reader ends by itself."""
        for task in self._tasks:
            task.cancel()
        self._socket.disable_monitor()
        # pyzmq only forgets it: each death would cost a descriptor.
        self._monitor.close(linger=limits.ZMQ_LINGER_MILLISECONDS)
        self._socket.close(linger=limits.ZMQ_LINGER_MILLISECONDS)

    async def _watch_connection(self) -> None:
        is_admitted = False
        while True:
            event = (await recv_monitor_message(self._monitor))["event"]
            if event == zmq.EVENT_CONNECTED:
                self._connected = True
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                is_admitted = True
            else:
                self._disconnected.set()
                if is_admitted:
                    # A death breaks the connection too, and the kernel reports it long before this time is over: then we are
                    # closed by now. What is left is a worker that lives and whose frame libzmq would not take.
                    await asyncio.sleep(limits.CONNECTION_LOST_SECONDS)
                    self._on_violation("its connection broke, most likely by a frame over the limit: what it said is lost")

    async def _read(self) -> None:
        while True:
            frame = await self._socket.recv(copy=True)
            try:
                message = decode_from_worker(frame)
            except ProtocolViolation as violation:
                self._on_violation(str(violation))
                continue
            self._on_message(message)


def _configure(socket: "zmq.asyncio.Socket") -> None:
    socket.setsockopt(zmq.LINGER, limits.ZMQ_LINGER_MILLISECONDS)
    socket.setsockopt(zmq.SNDHWM, limits.ZMQ_HIGH_WATER_MESSAGES)
    socket.setsockopt(zmq.RCVHWM, limits.ZMQ_HIGH_WATER_MESSAGES)
    socket.setsockopt(zmq.MAXMSGSIZE, limits.FRAME_BYTES_MAX_UP)
    socket.setsockopt(zmq.HANDSHAKE_IVL, limits.ZMQ_HANDSHAKE_MILLISECONDS)
    # No ZMTP heartbeats: after a sleep of the machine they would drop a good connection, and the frames in it. The kernel
    # tells us about deaths and the worker's own beat about hangs. The socket file appears when the worker has bound; until
    # then each retry costs nothing and Hello should not wait for it.
    socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MILLISECONDS)


_RECONNECT_MILLISECONDS = 10
_WATCHED_EVENTS = zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
