"""A real worker process, started and spoken to as the supervisor does it: life pipe, private CURVE socket, drained output."""

import os
import secrets
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self, TypeVar

import msgspec
import zmq

from lmx_protocol import limits
from lmx_protocol.codec import decode_from_worker, encode
from lmx_protocol.messages import (
    AnyRequestEvent,
    Begin,
    BootSpec,
    Cancelled,
    Failed,
    Finished,
    FromWorker,
    GenerateRequest,
    Load,
    Loaded,
    Message,
    ModelSpec,
    StepEvents,
    ToWorker,
)
from lmx_protocol.states import ModelFormat
from lmx_protocol.version import PROTOCOL_VERSION

Kind = TypeVar("Kind", bound=msgspec.Struct)

PATIENCE_SECONDS = 20.0
_LAST_WORDS_SECONDS = 0.2


class WorkerHarness:
    """One worker. Use it as a context manager: whatever happened to the worker, nothing of it is left afterwards."""

    def __init__(
        self,
        *,
        backend: str = "scripted",
        boot_script: Path | None = None,
        protocol: int = PROTOCOL_VERSION,
        beat_interval_seconds: float = 0.05,
        c_watchdog_seconds: float = 30.0,
        admitted_key: bytes | None = None,
    ) -> None:
        self.incarnation = secrets.token_hex(4)
        # Not tmp_path: a socket's path is limited to about a hundred bytes.
        self.run_dir = Path(tempfile.mkdtemp(prefix="lmx-", dir="/tmp"))
        self.crash_file = self.run_dir / "crash.txt"
        self.messages: list[FromWorker] = []
        self.stderr = b""
        self.stdout = b""
        server_public, server_secret = zmq.curve_keypair()
        client_public, client_secret = zmq.curve_keypair()
        self.spec = BootSpec(
            protocol=protocol,
            incarnation=self.incarnation,
            endpoint=f"ipc://{self.run_dir}/s",
            backend=backend,
            server_public_key=server_public,
            server_secret_key=server_secret,
            client_public_key=admitted_key or client_public,
            supervisor_pid=os.getpid(),
            beat_interval_seconds=beat_interval_seconds,
            c_watchdog_seconds=c_watchdog_seconds,
        )
        self._context = zmq.Context()
        self.socket = self._connect(client_public, client_secret)
        self.process = self._start(boot_script)
        self._drains = [self._drain("stdout"), self._drain("stderr")]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Kill what is left of the worker and remove its traces."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE_SECONDS)
        self._pipe.close()
        for drain in self._drains:
            drain.join(PATIENCE_SECONDS)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        self.socket.close(linger=0)
        self._context.term()
        shutil.rmtree(self.run_dir)

    def send(self, message: ToWorker | bytes) -> None:
        """Send a message, or raw bytes."""
        if not isinstance(message, bytes):
            message = encode(message, bytes_max=limits.FRAME_BYTES_MAX_DOWN)
        self.socket.send(message)

    def receive(self, within_seconds: float = PATIENCE_SECONDS) -> FromWorker | None:
        """The next message, kept in `messages` too; None when none came in time."""
        if not self.socket.poll(within_seconds * 1000):
            return None
        message = decode_from_worker(self.socket.recv())
        self.messages.append(message)
        return message

    def expect(self, kind: type[Kind], within_seconds: float = PATIENCE_SECONDS) -> Kind:
        """The next message of a kind; the others before it are kept in `messages`."""
        deadline = time.monotonic() + within_seconds
        while (left_seconds := deadline - time.monotonic()) > 0:
            message = self.receive(left_seconds)
            if isinstance(message, kind):
                return message
        raise AssertionError(
            f"no {kind.__name__} within {within_seconds} s; exit status {self.process.poll()}; last messages "
            f"{self.messages[-5:]}; stderr {self.stderr!r}; crash file {self.crash_file.read_text()!r}"
        )

    def load(self, path: Path, **options: int) -> Loaded:
        """Give the worker its model and wait for it."""
        self.send_load(path, **options)
        return self.expect(Loaded)

    def send_load(self, path: Path, **options: int) -> None:
        """Give the worker its model."""
        self.send(Load(model=ModelSpec(model_id="scripted-model", path=str(path), format=ModelFormat.SCRIPT, **options)))

    def generate(
        self,
        request_id: str,
        prompt: str = "hello there",
        *,
        max_tokens: int | None = None,
        credit_frames: int = limits.CREDIT_FRAMES,
        credit_bytes: int = limits.CREDIT_BYTES,
    ) -> None:
        """Start a chat."""
        request = GenerateRequest(
            request_id=request_id,
            model_id="scripted-model",
            messages=(Message(role="user", content=prompt),),
            max_tokens=max_tokens,
        )
        self.send(Begin(request=request, credit_frames=credit_frames, credit_bytes=credit_bytes))

    def events_of(self, request_id: str) -> list[AnyRequestEvent]:
        """Everything received so far for a request."""
        return [
            event
            for message in self.messages
            if isinstance(message, StepEvents)
            for event in message.events
            if event.request_id == request_id
        ]

    def wait_for_end(self, request_id: str) -> Finished | Failed | Cancelled:
        """Receive until a request's terminal event and return it."""
        while True:
            events = self.events_of(request_id)
            if events and isinstance(events[-1], Finished | Failed | Cancelled):
                return events[-1]
            self.expect(StepEvents)

    def wait_exit(self, within_seconds: float = PATIENCE_SECONDS) -> int:
        """Read what the worker still says, wait for its exit and return the status (negative: the signal)."""
        status = self.process.wait(within_seconds)
        for drain in self._drains:
            drain.join(PATIENCE_SECONDS)
        # What it said last is in the kernel's buffer, but our own I/O thread may not have read it yet.
        while self.receive(_LAST_WORDS_SECONDS) is not None:
            pass
        return status

    def close_life_pipe(self) -> None:
        """What the kernel does when the supervisor dies."""
        self._pipe.close()

    def _connect(self, public_key: bytes, secret_key: bytes) -> zmq.Socket[bytes]:
        return connect(self._context, self.spec, public_key, secret_key)

    def _start(self, boot_script: Path | None) -> subprocess.Popen[bytes]:
        environment = {"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1"}
        if boot_script is not None:
            environment["LMX_SCRIPTED_BOOT"] = str(boot_script)
        command = [sys.executable, "-m", "lmx_worker", "--incarnation", self.incarnation]
        process = subprocess.Popen(
            [*command, "--crash-file", str(self.crash_file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
            bufsize=0,
        )
        assert process.stdin is not None
        self._pipe: IO[bytes] = process.stdin
        data = encode(self.spec, bytes_max=limits.BOOT_SPEC_BYTES_MAX)
        self._pipe.write(struct.pack(">I", len(data)) + data)
        return process

    def _drain(self, name: str) -> threading.Thread:
        thread = threading.Thread(target=self._drain_to_end, args=(name,), name=f"drain-{name}")
        thread.start()
        return thread

    def _drain_to_end(self, name: str) -> None:
        stream: IO[bytes] = getattr(self.process, name)
        while chunk := os.read(stream.fileno(), 65536):
            kept = getattr(self, name) + chunk
            setattr(self, name, kept[-limits.STDERR_TAIL_BYTES :])


def connect(context: zmq.Context, spec: BootSpec, public_key: bytes, secret_key: bytes) -> zmq.Socket[bytes]:
    """A client of the worker's socket with some key."""
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.reconnect_ivl = 10
    socket.maxmsgsize = limits.FRAME_BYTES_MAX_UP
    socket.curve_serverkey = spec.server_public_key
    socket.curve_publickey = public_key
    socket.curve_secretkey = secret_key
    socket.connect(spec.endpoint)
    return socket
