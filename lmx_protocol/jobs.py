"""Jobs: one piece of work in a process of its own (`python -m lmx_worker --job`), and what it says while it works.

The specification arrives on the job's stdin, which stays its life pipe; its words leave on its stdout. Both carry frames: four
bytes of length, then msgpack. A job needs no socket: it is told nothing after its specification, and is stopped by a signal.

See also `messages` for models' workers. Every change here raises `PROTOCOL_VERSION`.
"""

import struct
from typing import TypeVar

import msgspec

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode, ProtocolViolation
from lmx_protocol.messages import Count, ModelSpec

Decoded = TypeVar("Decoded")

LENGTH = struct.Struct(">I")

SET_ASIDE = "old"
"""In a repository's staging directory: what the target was, while the new snapshot takes its place."""


class FetchModel(msgspec.Struct, frozen=True, kw_only=True, tag="fetch_model"):
    """Fetch a snapshot of a repository from the hub, verify every byte, and put it in its place in one step."""

    repo_id: str
    revision: str | None
    allow_patterns: tuple[str, ...]
    """Only files that match one of these; empty: all."""
    ignore_patterns: tuple[str, ...]
    target: str
    """The directory that becomes the snapshot."""
    staging: str
    """Of this repository alone, on the same file system; what is in it survives this process."""
    only_look: bool = False
    """Say what would be fetched, and fetch nothing."""
    disk_reserve_bytes: int
    """What has to stay free on the disk."""
    stall_seconds: float
    """A connection that brings nothing for this long is given up."""
    attempts_max: int
    """Attempts in a row that may fail without progress."""
    retry_initial_seconds: float
    retry_max_seconds: float

    @property
    def title(self) -> str:
        """What the process shows as."""
        return f"download {self.repo_id}"


class ProbeModel(msgspec.Struct, frozen=True, kw_only=True, tag="probe_model"):
    """Open a model with one backend as far as can be done without its weights in memory."""

    backend: str
    spec: ModelSpec
    memory_bytes_max: int
    """What the process may take; the supervisor ends it at this, the system at twice as much where it can."""

    @property
    def title(self) -> str:
        """What the process shows as."""
        return f"probe {self.spec.model_id}"


class QuantizeModel(msgspec.Struct, frozen=True, kw_only=True, tag="quantize_model"):
    """Write a quantized copy of an MLX model into a directory that is no model to anybody yet."""

    model_id: str
    """Of the source."""
    source: str
    staging: str
    """Made by the process; what is in it when the process says `JobDone` is a whole model."""
    bits: int
    group_size: int
    mode: str
    disk_reserve_bytes: int
    """What has to stay free on the disk."""

    @property
    def title(self) -> str:
        """What the process shows as."""
        return f"quantize {self.model_id}"


Work = FetchModel | ProbeModel | QuantizeModel


class JobSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a job is started with."""

    protocol: int
    job: str
    """The name of this process; must match its command line."""
    supervisor_pid: int
    beat_interval_seconds: float
    c_watchdog_seconds: float
    environment: dict[str, str]
    """Set inside the process, where no other can see it: it holds keys."""
    work: Work


class FromJob(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Base of what a job says."""


class JobPlanned(FromJob, frozen=True, kw_only=True, tag="planned"):
    """What there is to do, once it is known."""

    commit: str
    total_bytes: Count
    missing_bytes: Count
    """Of these, what is not on this machine yet."""
    free_bytes: Count
    """On the disk that takes them."""
    files: Count


class JobProgress(FromJob, frozen=True, kw_only=True, tag="progress"):
    """Said every beat, moved or not: a job that is silent hangs."""

    done_bytes: Count
    files_done: Count
    trouble: str | None = None
    """What is being waited for, while nothing moves."""


class JobPhase(FromJob, frozen=True, kw_only=True, tag="phase"):
    """The beat of work that is no download: what it is doing, and how much of that is done."""

    phase: str
    done_bytes: Count = 0
    total_bytes: Count = 0
    """0 while it is not known."""
    memory_bytes: Count = 0
    """What the process takes now."""


class JobDone(FromJob, frozen=True, kw_only=True, tag="done"):
    """A download: the snapshot is whole, verified and in its place. A quantized copy: it is whole, in its staging directory."""

    path: str
    total_bytes: Count


class JobProbed(FromJob, frozen=True, kw_only=True, tag="probed"):
    """The backend can open the model, and this is what it found."""

    backend_version: str
    architecture: str
    train_context_length: Count
    vocabulary_size: Count


class JobFailed(FromJob, frozen=True, kw_only=True, tag="failed"):
    """It cannot be done, and trying again by itself would not help."""

    code: ErrorCode
    message: str


JobMessage = JobPlanned | JobProgress | JobPhase | JobDone | JobProbed | JobFailed

_encoder = msgspec.msgpack.Encoder()
_specs: msgspec.msgpack.Decoder[JobSpec] = msgspec.msgpack.Decoder(JobSpec)
_messages: msgspec.msgpack.Decoder[JobMessage] = msgspec.msgpack.Decoder(JobMessage)


def job_frame(message: JobSpec | JobMessage) -> bytes:
    """A message with its length before it. Raises `ProtocolViolation` when it is larger than a frame may be."""
    data = _encoder.encode(message)
    if len(data) > limits.JOB_FRAME_BYTES_MAX:
        raise ProtocolViolation(
            f"{type(message).__name__} of {len(data)} bytes is over the limit of {limits.JOB_FRAME_BYTES_MAX}"
        )
    return LENGTH.pack(len(data)) + data


def decode_job_spec(data: bytes) -> JobSpec:
    """A job's specification. Raises `ProtocolViolation`."""
    return _decode(_specs, data)


class JobFrames:
    """Cuts what comes out of a job's pipe into messages. Bounded: a frame that is announced as too large is a violation."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[JobMessage]:
        """The messages that are whole now. Raises `ProtocolViolation`; what comes after cannot be read any more then."""
        self._rest += data
        messages = []
        while len(self._rest) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._rest)
            if length > limits.JOB_FRAME_BYTES_MAX:
                raise ProtocolViolation(f"a job's frame of {length} bytes is over the limit of {limits.JOB_FRAME_BYTES_MAX}")
            end = LENGTH.size + length
            if len(self._rest) < end:
                break
            messages.append(_decode(_messages, self._rest[LENGTH.size : end]))
            self._rest = self._rest[end:]
        return messages


def _decode(decoder: msgspec.msgpack.Decoder[Decoded], data: bytes) -> Decoded:
    try:
        return decoder.decode(data)
    # A str field of broken UTF-8 and a deeply nested array do not surface as msgspec errors.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolViolation(f"undecodable message of {len(data)} bytes from or for a job: {error}") from error
