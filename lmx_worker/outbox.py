"""Everything this worker says, from any thread, on its way to the one thread that owns the socket."""

import contextlib
import os
import threading
from collections import deque

from lmx_protocol.codec import encode
from lmx_protocol.limits import FRAME_BYTES_MAX_UP, ZMQ_HIGH_WATER_MESSAGES
from lmx_protocol.messages import FromWorker
from lmx_worker.sabotage import Sabotage


class Outbox:
    """A queue of encoded messages with a descriptor that becomes readable when there is something to do.

    `post` never blocks, so that control replies and beats always get through; who produces in bulk asks `backlogged` first.
    The queue's length is therefore at most the backlog mark plus one message per producer and per control frame.
    """

    def __init__(self, sabotage: Sabotage | None = None) -> None:
        self._sabotage = sabotage
        self._frames: deque[bytes] = deque()
        self._departure: int | None = None
        self._lock = threading.Lock()
        self.wake_descriptor, self._wake_write = os.pipe()
        os.set_blocking(self.wake_descriptor, False)
        os.set_blocking(self._wake_write, False)

    def post(self, message: FromWorker) -> None:
        """Queue a message. Raises `ProtocolViolation`, queueing nothing, when it is larger than a frame may be."""
        if self._sabotage is None:
            self._append(encode(message, bytes_max=FRAME_BYTES_MAX_UP))
            return
        for lie in self._sabotage.outgoing(message):
            self._append(lie if isinstance(lie, bytes) else encode(lie, bytes_max=FRAME_BYTES_MAX_UP))

    def depart(self, status: int) -> None:
        """Leave with this exit status once everything posted before is sent. The first call decides."""
        with self._lock:
            if self._departure is None:
                self._departure = status
        self._wake()

    @property
    def departure(self) -> int | None:
        """The exit status, once somebody asked to leave."""
        return self._departure

    @property
    def backlogged(self) -> bool:
        """Whether the supervisor has stopped reading: do not produce, and do not beat, until it does."""
        return len(self._frames) >= ZMQ_HIGH_WATER_MESSAGES

    def __len__(self) -> int:
        return len(self._frames)

    def peek(self) -> bytes:
        """The oldest message. Only the socket's thread takes messages out, so it is still there for `pop`."""
        return self._frames[0]

    def pop(self) -> None:
        """The oldest message was sent."""
        self._frames.popleft()

    def clear_wake(self) -> None:
        """Make the wake descriptor unreadable until the next post. Call it before looking at the queue."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.wake_descriptor, 4096):
                pass

    def close(self) -> None:
        """Give the descriptors back; only for a process that lives on."""
        os.close(self.wake_descriptor)
        os.close(self._wake_write)

    def _append(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._wake()

    def _wake(self) -> None:
        # A pipe full of wake-ups: the reader will not miss this one.
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"\0")
