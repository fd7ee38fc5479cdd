"""What a job says, on the pipe that was its stdout; whatever else is printed in this process goes to stderr."""

import os
import threading

from lmx_protocol.jobs import JobMessage, job_frame

_STDOUT = 1
_STDERR = 2


class Voice:
    """Thread-safe. Small messages in a pipe that the supervisor drains: they wait only while it does not run."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._one_at_a_time = threading.Lock()

    @classmethod
    def instead_of_stdout(cls) -> "Voice":
        """Take the pipe over, so that a library that prints cannot garble it."""
        descriptor = os.dup(_STDOUT)
        os.set_inheritable(descriptor, False)
        os.dup2(_STDERR, _STDOUT)
        return cls(descriptor)

    def say(self, message: JobMessage) -> None:
        """Send a message. Raises `BrokenPipeError` when nobody is left to hear it."""
        frame = job_frame(message)
        with self._one_at_a_time:
            while frame:
                frame = frame[os.write(self._descriptor, frame) :]
