"""Every message between supervisor and worker, as positional msgspec structs tagged by one short name.

Direction is part of the type: `ToWorker` and `FromWorker` are closed unions, so a decoder for one direction refuses the other.
Text, token and byte counts are what their names say; all times are seconds on the sender's monotonic clock.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from lmx_protocol.errors import ErrorCode
from lmx_protocol.limits import TOOL_CALLS_MAX
from lmx_protocol.states import (
    ComputeSharing,
    FinishReason,
    ModelFormat,
    ModelTask,
    OutputKind,
    RankMethod,
    ToolMode,
    WorkerPhase,
)

Count = Annotated[int, Meta(ge=0, le=2**62)]
"""What workers count. A peer that lies with a negative number is caught where it is decoded, not where somebody adds it up."""

Seconds = Annotated[float, Meta(ge=0, le=1e9)]
LogProbability = Annotated[float, Meta(ge=-1e9, le=0)]
Score = Annotated[float, Meta(ge=-1e9, le=1e9)]


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
    prefix_cache: bool = True
    """Reuse what was computed of one prompt for the next that begins alike."""


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
    tasks: tuple[ModelTask, ...] = (ModelTask.GENERATE,)
    """The kinds of request it can answer."""
    embedding_dimensions: Count = 0
    unsupported_fields: tuple[str, ...] = ()
    """Names of `Sampling` and `GenerateRequest` fields this backend refuses."""
    sharing: ComputeSharing = ComputeSharing.NOTHING


class ToolCall(Wire, frozen=True, kw_only=True):
    """A call that the model made in an earlier turn; `arguments` is JSON text."""

    call_id: str
    name: str
    arguments: str


class Message(Wire, frozen=True, kw_only=True):
    """One chat turn."""

    role: str
    content: str
    name: str | None = None
    reasoning: str = ""
    """What the assistant thought before it said `content`; templates that know how show it to the model again."""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    """Of the call that a `tool` turn answers."""


class Tool(Wire, frozen=True, kw_only=True):
    """A function that the model may call; `parameters` is its JSON schema as JSON text, empty for none."""

    name: str
    description: str = ""
    parameters: str = ""
    strict: bool = False
    """The arguments are held to the schema while they are sampled, not only asked for."""


class ToolChoice(Wire, frozen=True, kw_only=True):
    """Whether tools are called; `name` is the one tool of `NAMED`."""

    mode: ToolMode = ToolMode.AUTO
    name: str = ""
    parallel: bool = True
    """More than one call in one answer is allowed."""


class OutputForm(Wire, frozen=True, kw_only=True):
    """What the answer's text is held to while it is sampled; `source` is the schema as JSON text, or the expression."""

    kind: OutputKind = OutputKind.TEXT
    source: str = ""


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


class GenerateRequest(Wire, frozen=True, kw_only=True, tag="gen"):
    """One generation, of `messages` (templated by the worker), of `prompt` (used as it is), or of `prompt_tokens`."""

    request_id: str
    model_id: str
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    prompt_tokens: tuple[int, ...] = ()
    max_tokens: int | None = None
    """None: up to the backend's default, and never past the context."""
    stop: tuple[str, ...] = ()
    sampling: Sampling = Sampling()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    output: OutputForm = OutputForm()
    logprobs: int | None = None
    """None: no log-probabilities; else those of each sampled token and of this many likeliest alternatives."""
    template_arguments: str = ""
    """Further variables for the chat template, as the JSON text of an object; empty for none."""
    continues_last_message: bool = False
    """The answer goes on from the last message, an assistant's, instead of beginning a new turn."""


class EmbedRequest(Wire, frozen=True, kw_only=True, tag="emb"):
    """One vector for each input, a text or its tokens. Answered with `Vectors`, then `Finished`."""

    request_id: str
    model_id: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None
    """Keep only this many leading components, normalized again; None: all."""


class RankRequest(Wire, frozen=True, kw_only=True, tag="rnk"):
    """How well each document answers the query. Answered with `Scores`, then `Finished`."""

    request_id: str
    model_id: str
    query: str
    documents: tuple[str, ...]


class CountRequest(Wire, frozen=True, kw_only=True, tag="cnt"):
    """How many tokens a generation's prompt would have. Answered with `Finished`, whose usage says so."""

    request_id: str
    model_id: str
    of: GenerateRequest


AnyRequest = GenerateRequest | EmbedRequest | RankRequest | CountRequest


class Usage(Wire, frozen=True, kw_only=True):
    """Token counts of one generation; `cached_tokens` of the prompt were reused, not computed.

    A token that ends an answer is counted among the completion's, though it has no text: that is what `max_tokens` bounds.
    """

    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    cached_tokens: Count = 0
    reasoning_tokens: Count = 0
    """Of the completion's, those spent on thinking."""


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


class Alternative(Wire, frozen=True, kw_only=True):
    """A token that could have been sampled; `token` are its bytes, which need not be whole characters."""

    token: bytes
    logprob: LogProbability


class TokenLogprob(Wire, frozen=True, kw_only=True):
    """A sampled token, and the likeliest tokens in its place, the likeliest first."""

    token: bytes
    logprob: LogProbability
    alternatives: tuple[Alternative, ...] = ()


class Text(RequestEvent, frozen=True, kw_only=True, tag="txt"):
    """Text became final. `tokens` is how many tokens were sampled for it since the last event.

    The log-probabilities of a token come with its text or after it; text may be empty when only they are left to tell.
    """

    text: str
    tokens: Count = 1
    logprobs: tuple[TokenLogprob, ...] = ()


class Reasoning(RequestEvent, frozen=True, kw_only=True, tag="rsn"):
    """A piece of what the model thinks before it answers."""

    text: str
    tokens: Count = 1


class ToolCallPart(RequestEvent, frozen=True, kw_only=True, tag="tool"):
    """A piece of a tool call. Calls are numbered from 0, one after another; the first part of each carries its id and name."""

    index: Annotated[int, Meta(ge=0, le=TOOL_CALLS_MAX - 1)]
    arguments: str = ""
    """The next piece of the call's JSON text."""
    call_id: str = ""
    name: str = ""
    tokens: Count = 1


class Vectors(RequestEvent, frozen=True, kw_only=True, tag="vec"):
    """The vectors of some inputs, in order from input `first_index`; `data` holds them as little-endian float32."""

    first_index: Count
    dimensions: Annotated[int, Meta(ge=1, le=2**20)]
    data: bytes


class Scores(RequestEvent, frozen=True, kw_only=True, tag="scr"):
    """The relevance of some documents, in order from document `first_index`; the higher, the better."""

    method: RankMethod
    first_index: Count
    values: tuple[Score, ...]


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


Output = Text | Reasoning | ToolCallPart | Vectors | Scores
AnyRequestEvent = Prefill | Output | Finished | Failed | Cancelled
Terminal = Finished | Failed | Cancelled

# --- supervisor → worker ----------------------------------------------------------------------------------------------------


class Load(Wire, frozen=True, kw_only=True, tag="load"):
    """Give this worker its model. Sent once in a worker's life."""

    model: ModelSpec
    digest: str = ""
    """Of the model's files and load configuration; empty: not known, and nothing that was computed may outlive the worker."""
    prefix_directory: str = ""
    """Where the computed prefixes of this model lie between two lives of its workers; empty: they do not."""


class Begin(Wire, frozen=True, kw_only=True, tag="beg"):
    """Start a request with this much credit."""

    request: AnyRequest
    credit_frames: int
    credit_bytes: int


class Cancel(Wire, frozen=True, kw_only=True, tag="cxl"):
    """Stop a request; idempotent, may race with its end."""

    request_id: str


class Credit(Wire, frozen=True, kw_only=True, tag="crd"):
    """Allow further `Output` events and bytes of a request (see `lmx_protocol.credit`)."""

    request_id: str
    frames: int
    bytes: int


class Shutdown(Wire, frozen=True, kw_only=True, tag="bye"):
    """Stop within the grace: refuse new work, cancel what runs, exit 0."""

    grace_seconds: float
    prefix_bytes_max: Count = 0
    """What the prefixes that the worker leaves behind may take on the disk; 0: it leaves none, and takes no time for it."""
    prefix_seconds: Seconds = 0.0
    """How much of the grace they may take."""


class Grant(Wire, frozen=True, kw_only=True, tag="grt"):
    """How much of the host a loaded worker may use from its next step on, because others compute beside it."""

    threads: Annotated[int, Meta(ge=1, le=4096)]
    prefill_ratio: Annotated[float, Meta(ge=0.001, le=1)] = 1.0
    """Of the time, what may go into prompts; 1: as much as it likes."""


ToWorker = Load | Begin | Cancel | Credit | Grant | Shutdown

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


class PrefixesSaved(Wire, frozen=True, kw_only=True, tag="ps"):
    """The worker is stopping, and this is what it leaves on the disk of what it computed: what it wrote, and what it kept."""

    prefixes: Count
    tokens: Count
    bytes: Count
    kept: Count
    """Files of earlier lives that are still worth their place."""
    seconds: Seconds
    problem: str = ""
    """Why it is less than it could be."""


class PrefixRestored(Wire, frozen=True, kw_only=True, tag="pr"):
    """A prompt began like a saved prefix, which was read back instead of computed."""

    tokens: Count
    bytes: Count
    seconds: Seconds


class PrefixesDropped(Wire, frozen=True, kw_only=True, tag="pd"):
    """Saved prefixes were deleted because they cannot be used."""

    files: Count
    reason: str


class Goodbye(Wire, frozen=True, kw_only=True, tag="end"):
    """Last message of an orderly exit."""

    reason: str


PrefixNews = PrefixesSaved | PrefixRestored | PrefixesDropped
FromWorker = Hello | Imported | LoadProgress | Loaded | LoadFailed | StepEvents | Beat | PrefixNews | Goodbye

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
