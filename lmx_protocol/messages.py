"""Every message between supervisor and worker, as positional msgspec structs tagged by one short name.

Direction is part of the type: `ToWorker` and `FromWorker` are closed unions, so a decoder for one direction refuses the other.
Text, token and byte counts are what their names say; all times are seconds on the sender's monotonic clock.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from lmx_protocol.errors import ErrorCode
from lmx_protocol.states import FinishReason, ModelFormat, WorkerPhase

Count = Annotated[int, Meta(ge=0, le=2**62)]
"""What workers count. A peer that lies with a negative number is caught where it is decoded, not where somebody adds it up."""

Seconds = Annotated[float, Meta(ge=0, le=1e9)]


class Wire(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """Base of plain values inside messages."""


# --- values ---------------------------------------------------------------------------------------------------------------


class ModelSpec(Wire, frozen=True, kw_only=True):
    """What to load and how; the identity of a load."""

    model_id: str
    path: str
    format: ModelFormat
    context_length: int = 0
    """Tokens per sequence; 0 lets the backend choose (the model's own length, capped by its default)."""
    slots: int = 8
    """Sequences decoded together."""
    prefill_chunk_tokens: int = 256
    kv_bits: int = 16
    gpu_layers: int = -1
    threads: int = 0
    """0 lets the backend choose."""


class ModelFacts(Wire, frozen=True, kw_only=True):
    """What was learned while loading."""

    backend: str
    backend_version: str
    architecture: str
    context_length: Count
    train_context_length: Count
    vocabulary_size: Count
    parameters: Count
    weights_bytes: Count
    slots: Count
    has_chat_template: bool
    unsupported_fields: tuple[str, ...] = ()
    """Names of `Sampling` and `GenerateRequest` fields this backend refuses."""


class Message(Wire, frozen=True, kw_only=True):
    """One chat turn."""

    role: str
    content: str
    name: str | None = None


class Sampling(Wire, frozen=True, kw_only=True):
    """How the next token is chosen; temperature 0 is greedy."""

    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 40
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()


class GenerateRequest(Wire, frozen=True, kw_only=True):
    """One generation. Either `messages` (templated by the worker) or `prompt` (used as it is)."""

    request_id: str
    model_id: str
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    max_tokens: int | None = None
    """None: up to the backend's default, and never past the context."""
    stop: tuple[str, ...] = ()
    sampling: Sampling = Sampling()


class Usage(Wire, frozen=True, kw_only=True):
    """Token counts of one generation; `cached_tokens` of the prompt were reused, not computed.

    A token that ends an answer is counted among the completion's, though it has no text: that is what `max_tokens` bounds.
    """

    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    cached_tokens: Count = 0


class Timing(Wire, frozen=True, kw_only=True):
    """Where the time of one generation went inside the worker."""

    prefill_seconds: Seconds = 0.0
    decode_seconds: Seconds = 0.0


# --- request events (worker → supervisor → dialect) -------------------------------------------------------------------------


class RequestEvent(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """Base of what happens to one request. `seq` counts from 0 per request and incarnation, without gaps."""

    request_id: str
    seq: Count = 0


class Prefill(RequestEvent, frozen=True, kw_only=True, tag="pre"):
    """Prompt tokens were processed; the first one says how many the cache saved."""

    done_tokens: Count
    prompt_tokens: Count
    cached_tokens: Count = 0


class Text(RequestEvent, frozen=True, kw_only=True, tag="txt"):
    """Text became final. `tokens` is how many tokens were sampled for it since the last event."""

    text: str
    tokens: Count = 1


class Finished(RequestEvent, frozen=True, kw_only=True, tag="fin"):
    """The generation ended on its own."""

    reason: FinishReason
    usage: Usage
    timing: Timing = Timing()
    stop_sequence: str | None = None


class Failed(RequestEvent, frozen=True, kw_only=True, tag="err"):
    """The request cannot be answered (any further). The message is for the client and says what to do."""

    code: ErrorCode
    message: str
    param: str | None = None
    retry_after_seconds: Count | None = None


class Cancelled(RequestEvent, frozen=True, kw_only=True, tag="can"):
    """The request ended because it was cancelled."""

    usage: Usage = Usage()


AnyRequestEvent = Prefill | Text | Finished | Failed | Cancelled
Terminal = Finished | Failed | Cancelled

# --- supervisor → worker ----------------------------------------------------------------------------------------------------


class Load(Wire, frozen=True, kw_only=True, tag="load"):
    """Give this worker its model. Sent once in a worker's life."""

    model: ModelSpec


class Generate(Wire, frozen=True, kw_only=True, tag="gen"):
    """Start a generation with this much credit."""

    request: GenerateRequest
    credit_frames: int
    credit_bytes: int


class Cancel(Wire, frozen=True, kw_only=True, tag="cxl"):
    """Stop a generation; idempotent, may race with its end."""

    request_id: str


class Credit(Wire, frozen=True, kw_only=True, tag="crd"):
    """Allow further `Text` events and bytes of a generation."""

    request_id: str
    frames: int
    bytes: int


class Shutdown(Wire, frozen=True, kw_only=True, tag="bye"):
    """Stop within the grace: refuse new work, cancel what runs, exit 0."""

    grace_seconds: float


ToWorker = Load | Generate | Cancel | Credit | Shutdown

# --- worker → supervisor ----------------------------------------------------------------------------------------------------


class Hello(Wire, frozen=True, kw_only=True, tag="hi"):
    """First message of a worker: who it is. The backend is not imported yet."""

    protocol: int
    incarnation: str
    pid: int
    backend: str


class Imported(Wire, frozen=True, kw_only=True, tag="imp"):
    """The backend's libraries are in memory: from here a load pays for the weights only."""

    backend_version: str
    seconds: Seconds


class LoadProgress(Wire, frozen=True, kw_only=True, tag="lp"):
    """How far a load is. `unit` names what is counted."""

    phase: str
    done: Count
    total: Count
    unit: Literal["bytes", "percent"] = "bytes"


class Loaded(Wire, frozen=True, kw_only=True, tag="ok"):
    """The model is in memory, and this is what the worker now costs the machine."""

    facts: ModelFacts
    seconds: Seconds
    footprint_bytes: Count


class LoadFailed(Wire, frozen=True, kw_only=True, tag="no"):
    """The model cannot be served by this worker, which exits next."""

    code: ErrorCode
    message: str


class StepEvents(Wire, frozen=True, kw_only=True, tag="stp"):
    """What one engine step did to all of its requests, in order."""

    events: tuple[AnyRequestEvent, ...]


class Beat(Wire, frozen=True, kw_only=True, tag="hb"):
    """Once a second from a thread of its own: alive, what it does, how far, and how much memory it uses."""

    seq: Count
    phase: WorkerPhase
    steps: Count
    """Grows with every engine step and load callback: the engine is stuck when it does not."""
    tokens_prefilled: Count
    tokens_decoded: Count
    active: Count
    waiting: Count
    footprint_bytes: Count
    kv_used_ratio: Annotated[float, Meta(ge=0, le=1)] = 0.0


class Goodbye(Wire, frozen=True, kw_only=True, tag="end"):
    """Last message of an orderly exit."""

    reason: str


FromWorker = Hello | Imported | LoadProgress | Loaded | LoadFailed | StepEvents | Beat | Goodbye

# --- the inherited pipe ------------------------------------------------------------------------------------------------------


class BootSpec(Wire, frozen=True, kw_only=True, tag="boot"):
    """What a worker must know before its socket exists. Written once to its stdin, which then stays open as the life pipe."""

    protocol: int
    incarnation: str
    endpoint: str
    backend: str
    server_public_key: bytes
    server_secret_key: bytes
    client_public_key: bytes
    supervisor_pid: int
    beat_interval_seconds: float
    c_watchdog_seconds: float
