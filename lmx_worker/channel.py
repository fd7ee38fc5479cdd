"""The main thread: the socket, its gatekeeper and the outbox, in one poll loop. Nothing else touches ZeroMQ.

The worker binds and the supervisor connects. No ZMTP heartbeats on this side: over a unix socket the kernel tells of a peer's
death, and a supervisor that was stopped for a minute (a laptop asleep, a debugger) must find its frames when it wakes up.
"""

import os
import time
from collections.abc import Callable

import zmq
import zmq.utils.z85

from lmx_protocol import limits
from lmx_protocol.codec import decode_to_worker
from lmx_protocol.messages import BootSpec, ToWorker
from lmx_worker.gatekeeper import ZAP_DOMAIN, ZAP_ENDPOINT, zap_reply
from lmx_worker.outbox import Outbox
from lmx_worker.sabotage import Sabotage


class Channel:
    """Moves frames between the supervisor and this process until somebody departs."""

    def __init__(self, spec: BootSpec, outbox: Outbox, handle: Callable[[ToWorker], None], sabotage: Sabotage | None) -> None:
        """Bind. `handle` is called on the main thread for each message and must not block. Raises `zmq.ZMQError`."""
        self._outbox = outbox
        self._handle = handle
        self._sabotage = sabotage
        self._admitted_key = zmq.utils.z85.decode(spec.client_public_key)
        self._give_up_at: float | None = None
        self._context = zmq.Context()
        # Before the socket binds: from then on libzmq asks the gatekeeper about every handshake.
        self._gate = self._context.socket(zmq.REP)
        self._gate.linger = 0
        self._gate.bind(ZAP_ENDPOINT)
        self._socket = self._bound_socket(spec)

    def run(self) -> int:
        """Serve until the outbox departs and is empty, then return the exit status.

        Raises:
            ProtocolViolation: the supervisor sent what is no message, or one that is not allowed now.
        """
        poller = zmq.Poller()
        poller.register(self._outbox.wake_descriptor, zmq.POLLIN)
        poller.register(self._gate, zmq.POLLIN)
        while True:
            self._outbox.clear_wake()
            self._send_all()
            status = self._outbox.departure
            if status is not None and self._may_leave():
                return status
            poller.register(self._socket, zmq.POLLIN | zmq.POLLOUT if len(self._outbox) else zmq.POLLIN)
            poller.poll(self._poll_milliseconds())
            self._admit()
            self._receive_all()

    def close(self) -> None:
        """Give what was sent a moment to reach the kernel, then let go of the socket."""
        self._gate.close()
        self._socket.close(linger=limits.ZMQ_GOODBYE_LINGER_MILLISECONDS)
        self._context.term()

    def _bound_socket(self, spec: BootSpec) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.sndhwm = socket.rcvhwm = limits.ZMQ_HIGH_WATER_MESSAGES
        socket.maxmsgsize = limits.FRAME_BYTES_MAX_DOWN
        socket.linger = limits.ZMQ_LINGER_MILLISECONDS
        socket.handshake_ivl = limits.ZMQ_HANDSHAKE_MILLISECONDS
        socket.curve_server = True
        socket.curve_publickey = spec.server_public_key
        socket.curve_secretkey = spec.server_secret_key
        socket.zap_domain = ZAP_DOMAIN
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        umask = os.umask(0o077)
        try:
            socket.bind(spec.endpoint)
        finally:
            os.umask(umask)
        return socket

    def _send_all(self) -> None:
        while len(self._outbox):
            try:
                self._socket.send(self._outbox.peek(), zmq.NOBLOCK)
            except zmq.Again:
                return
            self._outbox.pop()

    def _receive_all(self) -> None:
        while True:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            message: ToWorker | None = decode_to_worker(b"".join(frames))
            if self._sabotage is not None and message is not None:
                message = self._sabotage.incoming(message)
            if message is not None:
                self._handle(message)

    def _admit(self) -> None:
        while True:
            try:
                request = self._gate.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._gate.send_multipart(zap_reply(request, self._admitted_key))

    def _may_leave(self) -> bool:
        """Whether the last words are out, or nobody has taken them for long enough."""
        now = time.monotonic()
        if self._give_up_at is None:
            self._give_up_at = now + limits.ZMQ_GOODBYE_LINGER_MILLISECONDS / 1000
        return not len(self._outbox) or now >= self._give_up_at

    def _poll_milliseconds(self) -> int | None:
        if self._give_up_at is None:
            return None
        return max(0, round((self._give_up_at - time.monotonic()) * 1000)) + 1
