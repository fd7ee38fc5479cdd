"""What a worker printed last. Its pipes are always drained: a worker blocked on a full pipe would be a hang of our making."""

import asyncio
import os
from collections import deque
from collections.abc import Callable

from lmx_protocol import limits

_READ_BYTES = 65536


class OutputRing:
    """Keeps the tail of a worker's stdout and stderr, bounded in bytes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, bytes_max: int = limits.STDERR_TAIL_BYTES) -> None:
        self._loop = loop
        self._fd: int | None = fd
        self._bytes_max = bytes_max
        self._chunks: deque[bytes] = deque()
        self._bytes = 0
        self.taken_bytes = 0
        """Ever printed."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when something was printed, and at the end. It must not raise and not block."""
        os.set_blocking(fd, False)
        loop.add_reader(fd, self._read_one_chunk)

    def tail(self) -> str:
        """The last bytes as text."""
        return b"".join(self._chunks)[-self._bytes_max :].decode("utf-8", "replace")

    @property
    def ended(self) -> bool:
        """Whether nothing will be printed any more."""
        return self._fd is None

    def after(self, position: int) -> tuple[int, bytes]:
        """What was printed after the first `position` bytes, as far as it is kept; before it, how many bytes are not."""
        kept = b"".join(self._chunks)
        first = self.taken_bytes - len(kept)
        return max(0, first - position), kept[max(0, position - first) :]

    def close(self) -> None:
        """Take in what is left and stop reading."""
        for _ in range(self._bytes_max // _READ_BYTES + 1):
            self._read_one_chunk()
        self._stop()

    def _read_one_chunk(self) -> None:
        if self._fd is None:
            return
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._stop()
            return
        self._chunks.append(data)
        self._bytes += len(data)
        self.taken_bytes += len(data)
        while self._bytes - len(self._chunks[0]) >= self._bytes_max:
            self._bytes -= len(self._chunks.popleft())
        self.on_change()

    def _stop(self) -> None:
        if self._fd is not None:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None
            self.on_change()
